//! Counts off what goes: what quotas say is used.
//!
//! What comes is charged in the transaction that stores it (the registry's admission), so a quota is never exceeded. What
//! is deleted or ends is only counted here, anew from what there is.

use copepod_api::{Key, Plan, Timestamp, Typed, User, k8s_openapi::api::core::v1::ResourceQuota, quota, resource};
use copepod_store::{Event, EventKind, View};
use serde_json::json;

use crate::{Controller, pods, write};

pub const CONTROLLER: Controller =
    Controller { name: "resourcequota-controller", wakes, all, reconcile, refused: crate::SILENT };

fn all(view: &View) -> Vec<Key> {
    view.objects(&ResourceQuota::resource(), None).map(|quota| quota.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.namespace().is_empty() {
        return Vec::new();
    }
    let quotas: Vec<Key> =
        view.objects(&ResourceQuota::resource(), Some(key.namespace())).map(|quota| quota.key.clone()).collect();
    match () {
        // Most namespaces have none, and nothing of what happens there is to be decoded for it.
        () if quotas.is_empty() => Vec::new(),
        () if key.resource == ResourceQuota::resource() && event.kind != EventKind::Deleted => vec![key.clone()],
        () if frees(event) => quotas,
        () => Vec::new(),
    }
}

/// Something is used less than before: an object is gone, or a pod has ended.
fn frees(event: &Event) -> bool {
    let ended = || {
        let has_ended = |object: &std::sync::Arc<copepod_api::Object>| pods::has_ended(object);
        event.object.key.resource == resource::PODS
            && has_ended(&event.object)
            && !event.previous.as_ref().is_some_and(has_ended)
    };
    event.kind == EventKind::Deleted || ended()
}

fn reconcile(view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(own) = view.get::<ResourceQuota>(key.namespace(), key.name()).filter(|own| !own.meta().is_leaving())
    else {
        return plan;
    };
    let spec = &own.object().value()["spec"];
    let objects = view.resources().flat_map(|resource| view.objects(resource, Some(key.namespace())));
    let used = quota::count(spec, objects.map(|object| &**object));
    let hard = quota::amounts(&spec["hard"]);
    let known = &own.object().value()["status"];
    let is_known = quota::amounts(&known["used"]) == used && quota::amounts(&known["hard"]) == hard;
    if !is_known || known["used"].is_null() {
        let status = json!({"hard": quota::written(&hard), "used": quota::written(&used)});
        plan.push(write::status(&User::system("system:controller:resourcequota-controller"), &own, &status));
    }
    plan
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use crate::world::World;

    const KEY: &str = "resourcequotas default/q";

    #[test]
    fn what_is_there_is_counted_and_what_went_is_counted_off() {
        let mut world =
            World::read("node n1 | replicaset web 2 | pod web-a web ready on=n1 | pod web-b web failed on=n1");
        let spec = json!({"hard": {"pods": "3", "count/replicasets.apps": "5", "secrets": "1"}});
        world.create("", "resourcequotas", "ResourceQuota", "default", "q", json!({"spec": spec}));
        let plan = world.plan(&super::CONTROLLER, KEY);
        assert_snapshot!(world.print(&plan), @"status resourcequota q {conditions:null,hard:{count/replicasets.apps:5,pods:3,secrets:1},used:{count/replicasets.apps:1,pods:1,secrets:0}}");
        world.apply(&plan);
        assert_eq!(world.print(&world.plan(&super::CONTROLLER, KEY)), "");
        world.delete("pods default/web-a");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @"status resourcequota q {conditions:null,hard:{count/replicasets.apps:5,pods:3,secrets:1},used:{count/replicasets.apps:1,pods:0,secrets:0}}");
    }
}
