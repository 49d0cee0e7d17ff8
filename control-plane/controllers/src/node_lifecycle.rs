//! What follows from a node's condition for the pods on it.
//!
//! The node front judges silence (it sets the condition Ready to Unknown); here the judgement becomes taints, and taints
//! become evictions. When most of a cluster is silent, the likelier explanation is that we are cut off and not that
//! everybody died: then nobody is evicted.

mod eviction;
mod taints;

use std::{cell::LazyCell, collections::BTreeMap, ops::Deref, sync::Arc};

use copepod_api::{
    DeleteOptions, Health, Key, NODE_LOST, Object, Of, Plan, Request, Timestamp, User,
    k8s_openapi::{
        api::core::v1::{Node, Pod, PodCondition},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    request::Disruption,
    resource,
};
use copepod_store::{Event, EventKind, View};
use serde_json::json;

use crate::{Controller, made, pods, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "node-lifecycle-controller", wakes, all, reconcile, refused: crate::SILENT };

/// How many pods one plan touches.
const BURST: usize = 256;

fn all(view: &View) -> Vec<Key> {
    view.objects(&resource::NODES, None).map(|node| node.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == resource::NODES {
        let before = event.previous.as_ref().map(|node| node.node_facts().health);
        let now = event.object.node_facts().health;
        // Whether the many are silent decides about each, and when fewer are, those that were spared may lose their pods
        // after all. One more of the silent spares some at most, and those are looked at anyway.
        let are_fewer = match event.kind {
            EventKind::Deleted => now == Health::Silent,
            _ => now != Health::Silent && before != Some(now),
        };
        return if are_fewer { vec![key.clone(), everybody()] } else { vec![key.clone()] };
    }
    if key.resource == resource::PODS
        && let Some(node) = event.object.node.as_ref()
        && let Some(node) = view.object(&Key::new(resource::NODES, "", node.clone()))
        && loses_pods(node)
    {
        return vec![node.key.clone()];
    }
    Vec::new()
}

/// Stands for all nodes that lose their pods: a thousand changes at once are one look at them, not a thousand.
fn everybody() -> Key {
    Key::new(resource::NODES, "", "")
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    // Thousands of nodes may be looked at one by one while most of them stay as they are.
    let outage = LazyCell::new(|| view.derived(&resource::NODES, Outage::of).unwrap_or_default());
    if *key != everybody() {
        return view.object(key).map_or_else(Plan::nothing, |node| one(view, node, &outage, now));
    }
    let mut plan = Plan::nothing();
    for node in view.objects(&resource::NODES, None).filter(|node| loses_pods(node)) {
        let own = one(view, node, &outage, now);
        plan.look_again_at(own.look_again);
        plan.requests.extend(own.requests);
        plan.reasons.extend(own.reasons);
        if plan.requests.len() >= BURST {
            plan.look_again_at(now);
            break;
        }
    }
    plan
}

fn loses_pods(node: &Object) -> bool {
    let facts = node.node_facts();
    facts.health == Health::Silent || facts.evicts
}

fn one(view: &View, node: &Object, outage: &dyn Deref<Target = Arc<Outage>>, now: Timestamp) -> Plan {
    let (mut plan, key, health) = (Plan::nothing(), &node.key, node.node_facts().health);
    // Decoded for this look: there are many nodes, and many pods on those that are lost together.
    let Ok(node) = Of::<Node>::apart(node) else { return plan };
    let user = User::system("system:controller:node-lifecycle-controller");
    if let Some(taints) = taints::change(&node, health, now) {
        plan.push(write::patch(&user, node.object(), json!({"spec": {"taints": taints}})));
        // Evictions follow from the taints once they are written: the time they were added counts.
        return plan;
    }
    if !loses_pods(node.object()) {
        return plan;
    }
    let mut evicted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pod in view.pods_on(key.name()).filter(|pod| !pods::has_ended(pod)) {
        if plan.requests.len() >= BURST {
            plan.look_again_at(now);
            break;
        }
        let (counts_as_ready, stays) = (health == Health::Silent && pods::is_ready(pod), !pod.meta.is_leaving());
        if !counts_as_ready && !stays {
            continue;
        }
        let Ok(pod) = Of::<Pod>::apart(pod) else { continue };
        let taint = stays.then(|| eviction::due(&mut plan, &node, &pod, outage, now)).flatten();
        if counts_as_ready {
            plan.push(not_ready(&user, &pod, key.name(), now));
        }
        if let Some(taint) = taint {
            // That it is evicted tells others, as jobs, that it did not fail by itself.
            let disruption = Some(Disruption {
                reason: "DeletionByTaintManager".into(),
                message: "Taint manager: deleting due to NoExecute taint".into(),
            });
            plan.push(write::delete(&user, pod.object(), DeleteOptions { disruption, ..DeleteOptions::default() }));
            evicted.entry(&taint.key).or_default().push(pod.key().name.to_string());
        }
    }
    // One event for all: a thousand nodes that are lost together would make all others be forgotten.
    for (taint, pods) in evicted {
        let message = format!("Taint {taint} evicts {}", made::named("pod", &pods));
        plan.because(format!("{message} from node {}", key.name()));
        let news = write::News { kind: "Normal", reason: "TaintManagerEviction", message };
        write::announce(&mut plan, view, &user, node.object(), news, now);
    }
    plan
}

/// How much of the cluster is silent.
#[derive(Default)]
pub struct Outage {
    silent: usize,
    nodes: usize,
}

impl Outage {
    fn of(nodes: &mut dyn Iterator<Item = &Arc<Object>>) -> Outage {
        let mut outage = Outage::default();
        for node in nodes {
            outage.nodes += 1;
            outage.silent += usize::from(node.node_facts().health == Health::Silent);
        }
        outage
    }

    /// Too much to believe that all these nodes are dead. Two of three may well be; more than half of many, or
    /// everybody, is rather us.
    fn is_doubtful(&self) -> bool {
        const FEW: usize = 2;
        const MOST_PERCENT: usize = 55;
        self.silent == self.nodes || self.silent > FEW && self.silent * 100 >= self.nodes * MOST_PERCENT
    }
}

/// Nobody knows whether a pod of a silent node still serves, so it counts as not ready; should the node have come back
/// before this is written, its agent hears of it and says again how the pod is.
fn not_ready(user: &User, pod: &Of<Pod>, node: &str, now: Timestamp) -> Request {
    let mut conditions: Vec<PodCondition> =
        pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let condition = PodCondition {
        type_: "Ready".into(),
        status: "False".into(),
        reason: Some(NODE_LOST.into()),
        message: Some(format!("node {node} is silent")),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|known| known.type_ == condition.type_) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    let mut request = write::patch(user, pod.object(), json!({"status": {"conditions": conditions}}));
    request.target.subresource = "status".into();
    request
}

#[cfg(test)]
mod tests {
    use copepod_api::{Action, Body, Expect, Op, Txn};
    use insta::assert_snapshot;

    use crate::world::World;

    fn plan(fixture: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, "nodes n1"))
    }

    #[test]
    fn a_silent_node_is_tainted() {
        assert_snapshot!(plan("node n1 silent | node n2"), @"patch node n1 {spec:{taints:[{effect:NoSchedule,key:node.kubernetes.io/unreachable},{effect:NoExecute,key:node.kubernetes.io/unreachable,timeAdded:2001-09-09T01:46:40Z}]}}");
    }

    #[test]
    fn a_healed_node_loses_its_taints() {
        assert_snapshot!(plan("node n1 taint=node.kubernetes.io/unreachable:NoExecute taint=mine:NoSchedule"), @"patch node n1 {spec:{taints:[{effect:NoSchedule,key:mine}]}}");
    }

    #[test]
    fn pods_of_a_silent_node_are_lost_and_evicted() {
        let mut world =
            World::read("node n1 silent | node n2 | pod a - ready on=n1 | pod b - on=n1 tolerates=60 | pod c - on=n2");
        let plan = world.plan(&super::CONTROLLER, "nodes n1");
        world.apply(&plan);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "nodes n1")), @r"
            patch pod a {status:{conditions:[{lastTransitionTime:2001-09-09T01:46:40Z,message:node n1 is silent,reason:NodeLost,status:False,type:Ready}]}}
            delete pod a DeletionByTaintManager
            event TaintManagerEviction: Taint node.kubernetes.io/unreachable evicts pod default/a
            look again in 60s
            because Taint node.kubernetes.io/unreachable evicts pod default/a from node n1
        ");
        world.wait(61);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "nodes n1")), @r"
            patch pod a {status:{conditions:[{lastTransitionTime:2001-09-09T01:47:41Z,message:node n1 is silent,reason:NodeLost,status:False,type:Ready}]}}
            delete pod a DeletionByTaintManager
            delete pod b DeletionByTaintManager
            event TaintManagerEviction: Taint node.kubernetes.io/unreachable evicts pods default/a, default/b
            because Taint node.kubernetes.io/unreachable evicts pods default/a, default/b from node n1
        ");
    }

    #[test]
    fn when_everybody_is_silent_nobody_is_evicted() {
        let mut world = World::read("node n1 silent | node n2 silent | pod a - on=n1");
        let plan = world.plan(&super::CONTROLLER, "nodes n1");
        world.apply(&plan);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "nodes n1")), @"because 2 of 2 nodes are silent, so pods of n1 are left alone");
    }

    #[test]
    fn when_one_is_back_the_others_lose_their_pods_after_all() {
        let mut world = World::read("node n1 silent | node n2 silent | node n3 silent | pod a - on=n1 | pod b - on=n2");
        for node in ["nodes n1", "nodes n2", "nodes n3"] {
            let plan = world.plan(&super::CONTROLLER, node);
            world.apply(&plan);
        }
        let everybody = |world: &World| (super::CONTROLLER.reconcile)(&world.view, &super::everybody(), world.now);
        assert!(everybody(&world).requests.is_empty());
        let mut back = world.value(&world.key("nodes n3"));
        back["status"]["conditions"][0]["status"] = "True".into();
        let back = Op::Put { key: world.key("nodes n3"), body: Body::encode(&back), expect: Expect::Present };
        let (view, events) = world.view.apply(&Txn { ops: vec![back] }, world.now).unwrap();
        assert_eq!((super::CONTROLLER.wakes)(&view, &events[0]), [world.key("nodes n3"), super::everybody()]);
        world.view = view;
        let gone = everybody(&world).requests;
        let gone: Vec<_> = gone.iter().filter(|request| matches!(request.action, Action::Delete { .. })).collect();
        assert_eq!(gone.iter().map(|request| &*request.target.name).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn all_are_looked_at_when_fewer_are_silent() {
        let woken = |before: &str, now: &str| {
            let world = World::read(before);
            let op = match now {
                "" => Op::Delete { key: world.key("nodes n1"), expect: Expect::Present },
                now => {
                    let object = Body::encode(&World::read(now).value(&world.key("nodes n1")));
                    Op::Put { key: world.key("nodes n1"), body: object, expect: Expect::Any }
                }
            };
            let (view, events) = world.view.apply(&Txn { ops: vec![op] }, world.now).unwrap();
            (super::CONTROLLER.wakes)(&view, &events[0]).contains(&super::everybody())
        };
        assert!(woken("node n1 silent", "node n1") && woken("node n1 silent", "") && woken("node n2", "node n1"));
        assert!(!woken("node n1", "node n1 silent") && !woken("node n1", "node n1 cordoned") && !woken("node n1", ""));
    }

    #[test]
    fn a_taint_of_a_person_evicts_too() {
        assert_snapshot!(plan("node n1 taint=mine:NoExecute | node n2 | pod a - ready on=n1"), @r"
            delete pod a DeletionByTaintManager
            event TaintManagerEviction: Taint mine evicts pod default/a
            because Taint mine evicts pod default/a from node n1
        ");
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        assert_snapshot!(plan("node n1 cordoned"), @"patch node n1 {spec:{taints:[{effect:NoSchedule,key:node.kubernetes.io/unschedulable}]}}");
    }
}
