//! Removes pods that nobody will ever report about again.
//!
//! A pod whose node is gone, a pod that was asked to go before it had a node, a pod that is asked to go from a node that
//! has been silent for so long that it will not come back to say goodbye; and the oldest ended pods, where there are too
//! many.

use std::sync::Arc;

use copepod_api::{
    DeleteOptions, Health, Key, Object, Plan, Timestamp, User,
    k8s_openapi::api::core::v1::{Node, Pod},
    resource,
};
use copepod_store::{Event, View};

use crate::{Controller, pods, time, tolerations, write};

pub const CONTROLLER: Controller =
    Controller { name: "pod-garbage-collector", wakes, all, reconcile, refused: crate::SILENT };

/// How many ended pods are kept for people to look at.
const ENDED_PODS_MAX: usize = 12_500;
/// How many ended pods above the limit are tolerated, so that not every ended pod starts a search for the oldest.
const ENDED_PODS_SLACK: usize = 500;

/// How many pods one plan deletes.
const BURST: usize = 256;

/// How long a node has to be silent until its leaving pods are given up. They are replaced long before; this is about the
/// objects alone, and a node that comes back within this time still reports how its pods ended.
const LOST_SECONDS: i64 = 300;

/// An admin's word that a node is switched off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The key under which ended pods are counted.
fn ended() -> Key {
    Key::new(resource::PODS, "", "")
}

fn all(view: &View) -> Vec<Key> {
    let mut keys: Vec<Key> = view
        .objects(&resource::PODS, None)
        .map(|pod| match &pod.node {
            Some(node) => Key::new(resource::NODES, "", node.clone()),
            None => pod.key.clone(),
        })
        .collect();
    keys.push(ended());
    keys.sort();
    keys.dedup();
    keys
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let object = &event.object;
    if object.key.resource == resource::NODES {
        return vec![object.key.clone()];
    }
    if object.key.resource != resource::PODS {
        return Vec::new();
    }
    let mut keys = Vec::new();
    match &object.node {
        None => keys.extend(object.meta.is_leaving().then(|| object.key.clone())),
        Some(node) => {
            let key = Key::new(resource::NODES, "", node.clone());
            if object.meta.is_leaving() || view.object(&key).is_none() {
                keys.push(key);
            }
        }
    }
    if view.count(&resource::PODS) > ENDED_PODS_MAX && pods::has_ended(object) {
        keys.push(ended());
    }
    keys
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let user = User::system("system:controller:pod-garbage-collector");
    let mut plan = Plan::nothing();
    let doomed: Vec<&Arc<Object>> = if key.resource == resource::NODES {
        of_node(&mut plan, view, key.name(), now)
    } else if *key == ended() {
        oldest_ended(view)
    } else {
        let never_started = |pod: &&Arc<Object>| pod.meta.is_leaving() && pod.node.is_none();
        view.object(key).filter(never_started).into_iter().collect()
    };
    if doomed.len() > BURST {
        plan.look_again_at(now);
    }
    for pod in doomed.into_iter().filter(|pod| !is_held(pod)).take(BURST) {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        plan.push(write::delete(&user, pod, options));
    }
    plan
}

/// Finalizers hold a pod that is asked to go already: asking again changes nothing.
fn is_held(pod: &Object) -> bool {
    pod.meta.is_leaving() && pod.meta.deletion_grace_period_seconds() == Some(0) && !pod.meta.finalizers().is_empty()
}

fn of_node<'v>(plan: &mut Plan, view: &'v View, name: &str, now: Timestamp) -> Vec<&'v Arc<Object>> {
    let Some(node) = view.object(&Key::new(resource::NODES, "", name)) else {
        return view.pods_on(name).collect();
    };
    let mut leaving: Vec<&Arc<Object>> = view.pods_on(name).filter(|pod| pod.meta.is_leaving()).collect();
    if leaving.is_empty() {
        return leaving;
    }
    let health = node.node_facts().health;
    let Ok(node) = node.decoded::<Node>() else { return Vec::new() };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    if let Some(taint) = taints.into_iter().flatten().find(|taint| taint.key == OUT_OF_SERVICE) {
        let puts_up = |pod: Pod| tolerations::matching(&pod, taint).next().is_some();
        leaving.retain(|pod| pod.decoded::<Pod>().is_ok_and(|pod| !puts_up(pod)));
        return leaving;
    }
    if health != Health::Silent {
        return Vec::new();
    }
    leaving.retain(|pod| !is_promised_once(pod));
    let given_up = time::after(silent_since(&node).unwrap_or(now), LOST_SECONDS);
    if given_up <= now {
        return leaving;
    }
    if !leaving.is_empty() {
        plan.look_again_at(given_up);
        plan.because(format!("node {name} is silent: {} leaving pods wait for its word", leaving.len()));
    }
    Vec::new()
}

/// A StatefulSet promises that no two pods of one name run at a time; only a person can know that the old one is dead.
fn is_promised_once(pod: &Object) -> bool {
    pod.meta.controller().is_some_and(|owner| owner.kind == "StatefulSet")
}

fn silent_since(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    time::of(&ready.last_transition_time)
}

fn oldest_ended(view: &View) -> Vec<&Arc<Object>> {
    let has_ended = |pod: &&Arc<Object>| pods::has_ended(pod) && !pod.meta.is_leaving();
    let mut ended: Vec<&Arc<Object>> = view.objects(&resource::PODS, None).filter(has_ended).collect();
    if ended.len() <= ENDED_PODS_MAX + ENDED_PODS_SLACK {
        return Vec::new();
    }
    ended.sort_by_key(|pod| pod.meta.creation_timestamp);
    ended.truncate(ended.len() - ENDED_PODS_MAX);
    ended
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    fn plan(fixture: &str, key: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, key))
    }

    #[test]
    fn pods_of_a_node_that_is_gone_go() {
        assert_snapshot!(plan("node n1 | pod a - on=n2 | pod b - on=n1", "nodes n2"), @"delete pod a now");
    }

    #[test]
    fn leaving_pods_of_a_silent_node_are_given_up_at_last() {
        let mut world = World::read("node n1 silent | node n2 | pod a - on=n1 leaving | pod b - on=n1");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "nodes n1")), @r"
            look again in 300s
            because node n1 is silent: 1 leaving pods wait for its word
        ");
        world.wait(301);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "nodes n1")), @"delete pod a now");
    }

    #[test]
    fn out_of_service_is_a_word_to_act_upon() {
        assert_snapshot!(
            plan("node n1 taint=node.kubernetes.io/out-of-service:NoExecute | pod a - on=n1 leaving", "nodes n1"), @"delete pod a now");
    }

    #[test]
    fn a_leaving_pod_that_never_had_a_node_goes() {
        assert_snapshot!(plan("pod a - leaving", "pods default/a"), @"delete pod a now");
    }
}
