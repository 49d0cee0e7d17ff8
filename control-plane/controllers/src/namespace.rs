//! Empties a namespace that is to go, whatever kinds of things are in it, and then lets it go.

use std::collections::BTreeMap;

use copepod_api::{
    Action, DeleteOptions, Key, Of, Plan, Timestamp, User,
    k8s_openapi::{
        api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    request::Propagation,
    resource,
};
use copepod_store::{Event, EventKind, View};
use serde_json::json;

use crate::{Controller, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "namespace-controller", wakes, all, reconcile, refused: crate::SILENT };

/// How many objects one plan deletes.
const BURST: usize = 500;

/// The controller's own mark in `spec.finalizers`.
const FINALIZER: &str = "kubernetes";

fn all(view: &View) -> Vec<Key> {
    let namespaces = view.objects(&resource::NAMESPACES, None);
    namespaces.filter(|namespace| namespace.meta.is_leaving()).map(|namespace| namespace.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == resource::NAMESPACES {
        return if event.object.meta.is_leaving() { vec![key.clone()] } else { Vec::new() };
    }
    if key.namespace().is_empty() || event.kind == EventKind::Modified && !event.object.meta.is_leaving() {
        return Vec::new();
    }
    let namespace = Key::new(resource::NAMESPACES, "", key.name.namespace.clone());
    let is_leaving = view.object(&namespace).is_some_and(|namespace| namespace.meta.is_leaving());
    if is_leaving { vec![namespace] } else { Vec::new() }
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let mut plan = Plan::nothing();
    let Some(namespace) = view.get::<Namespace>("", key.name()).filter(|namespace| namespace.meta().is_leaving())
    else {
        return plan;
    };
    let user = User::system("system:controller:namespace-controller");
    let mut remaining: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    // Pods go first: what they use (their secrets, policies that hold them back) is there as long as they run (KEP-5080).
    let has_pods = view.objects(&resource::PODS, Some(key.name())).next().is_some();
    for resource in view.resources().filter(|resource| **resource != resource::NAMESPACES) {
        let is_due = !has_pods || *resource == resource::PODS;
        for object in view.objects(resource, Some(key.name())) {
            *remaining.entry(resource.to_string()).or_insert(0) += 1;
            for finalizer in object.meta.finalizers().iter().filter(|_| object.meta.is_leaving()) {
                *finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
            if is_due && !object.meta.is_leaving() && plan.requests.len() < BURST {
                let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
                plan.push(write::delete(&user, object, options));
            }
        }
    }
    if remaining.is_empty() {
        let spec = namespace.spec.clone().unwrap_or_default();
        let left: Vec<String> =
            spec.finalizers.unwrap_or_default().into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
        let mut object = namespace.object().value().clone();
        object["spec"]["finalizers"] = json!(left);
        let mut finalize = write::about(&user, namespace.object(), Action::Update { object });
        finalize.target.subresource = "finalize".into();
        plan.push(finalize);
        return plan;
    }
    plan.because(format!("namespace {} still contains {}", key.name(), list(&remaining)));
    let status = status(&namespace, &remaining, &finalizers, now);
    if namespace.status.as_ref() != Some(&status) {
        plan.push(write::status(&user, &namespace, &status));
    }
    plan
}

fn list(counts: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    parts.join(", ")
}

fn status(
    namespace: &Of<Namespace>,
    remaining: &BTreeMap<String, usize>,
    finalizers: &BTreeMap<String, usize>,
    now: Timestamp,
) -> NamespaceStatus {
    let known = namespace.status.clone().unwrap_or_default();
    let instances = |what: (&String, &usize), has: &str| format!("{} {has} {} resource instances", what.0, what.1);
    let content: Vec<String> = remaining.iter().map(|what| instances(what, "has")).collect();
    let held: Vec<String> = finalizers.iter().map(|what| instances(what, "in")).collect();
    let mut conditions = vec![
        condition(
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        condition(
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", content.join(", ")),
        ),
    ];
    conditions.push(if held.is_empty() {
        let message = "All content-preserving finalizers finished".to_owned();
        condition("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message)
    } else {
        let message = format!("Some content in the namespace has finalizers remaining: {}", held.join(", "));
        condition("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
    });
    for condition in &mut conditions {
        let same = |own: &&NamespaceCondition| own.type_ == condition.type_ && own.status == condition.status;
        let before = known.conditions.iter().flatten().find(same);
        let since = before.and_then(|before| before.last_transition_time.clone());
        condition.last_transition_time = Some(since.unwrap_or(Time(now)));
    }
    NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) }
}

fn condition(type_: &str, status: &str, reason: &str, message: String) -> NamespaceCondition {
    NamespaceCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    #[test]
    fn a_namespace_is_emptied_and_goes() {
        let mut world = World::read("configmap a | pod p - on=n1 | configmap held leaving finalizer=example.com/keep");
        world.close("default");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "namespaces default")), @r"
            delete pod p Background
            status namespace default {conditions:[NamespaceDeletionDiscoveryFailure=False:ResourcesDiscovered,NamespaceDeletionContentFailure=False:ContentDeleted,NamespaceContentRemaining=True:SomeResourcesRemain,NamespaceFinalizersRemaining=True:SomeFinalizersRemain],phase:Terminating}
            because namespace default still contains 2 configmaps, 1 pods
        ");
        world.settle();
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "namespaces default")), @"because namespace default still contains 1 configmaps");
        world.delete("configmaps default/held");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "namespaces default")), @"finalize namespace default {finalizers:[]}");
    }
}
