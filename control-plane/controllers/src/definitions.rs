//! Takes the objects of a kind away whose definition is leaving.
//!
//! A definition is held by a finalizer until nothing that it defines is left.

use copepod_api::{Action, DeleteOptions, Key, Patch, Plan, Request, Resource, Target, Timestamp, User, WriteOptions};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use crate::Controller;

pub const CONTROLLER: Controller =
    Controller { name: "custom-resource-cleanup", wakes, all, reconcile, refused: crate::SILENT };

const DEFINITIONS: Resource = Resource::known("apiextensions.k8s.io", "customresourcedefinitions");
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// How many objects one plan deletes.
const BURST: usize = 500;

fn all(view: &View) -> Vec<Key> {
    view.objects(&DEFINITIONS, None).map(|definition| definition.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == DEFINITIONS {
        return vec![key.clone()];
    }
    // The last object of a kind may be what its definition waits for.
    if event.kind != EventKind::Deleted || view.count(&DEFINITIONS) == 0 {
        return Vec::new();
    }
    let name = format!("{}.{}", key.resource.plural, key.resource.group);
    view.object(&Key::new(DEFINITIONS, "", name)).map(|definition| definition.key.clone()).into_iter().collect()
}

fn reconcile(view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(definition) = view.object(key).filter(|definition| definition.meta.is_leaving()) else { return plan };
    let held = definition.meta.finalizers();
    if !held.iter().any(|name| name == CLEANUP) {
        return plan;
    }
    let user = User::system("system:controller:custom-resource-cleanup");
    let value: Value = serde_json::from_slice(&definition.bytes()).unwrap_or_default();
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let resource = Resource::new(text("/spec/group"), text("/spec/names/plural"));
    let left = view.count(&resource);
    if left > 0 {
        let going = view.objects(&resource, None).filter(|object| !object.meta.is_leaving()).take(BURST);
        for object in going {
            let target = Target {
                resource: resource.clone(),
                version: "".into(),
                namespace: object.key.name.namespace.clone(),
                name: object.key.name.name.clone(),
                subresource: "".into(),
            };
            let action = Action::Delete { options: DeleteOptions::default() };
            plan.push(Request { user: user.clone(), target, action, options: WriteOptions::default() });
        }
        plan.because(format!("{left} objects of this kind are left"));
        return plan;
    }
    let kept: Vec<&String> = held.iter().filter(|name| *name != CLEANUP).collect();
    let target = Target {
        resource: DEFINITIONS,
        version: "v1".into(),
        namespace: "".into(),
        name: key.name.name.clone(),
        subresource: "".into(),
    };
    let patch = Patch::Merge(json!({"metadata": {"finalizers": kept, "uid": definition.meta.uid}}));
    plan.push(Request { user, target, action: Action::Patch { patch }, options: WriteOptions::default() });
    plan
}
