//! When a pod that was asked to leave may be stopped.
//!
//! Elsewhere the signal to a leaving pod races the news that it leaves, and requests that are routed meanwhile are lost;
//! hence everybody's `preStop: sleep`. Here the order is kept: first no EndpointSlice offers the pod any more, then every
//! living node says that its data path knows, then the pod's own node is told to stop it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use copepod_api::{
    Key, Object, Revision,
    k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice},
    resource::{ENDPOINT_SLICES, PODS},
};
use copepod_store::{Event, EventKind, View};

/// The leaving pods of the nodes that have sessions, and the revision that all nodes must contain before each is stopped.
#[derive(Default)]
pub struct Leaving {
    pods: BTreeMap<Key, Wait>,
    /// Namespaces whose slices may offer others than when they were looked at last, or whose pods have not been looked for.
    look: BTreeSet<String>,
}

struct Wait {
    node: Arc<str>,
    uid: String,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Offered,
    /// No slice has offered it since then, and none will (`registry/src/discovery/offers.rs`).
    Withdrawn(Revision),
    /// Its node was told to stop it, and has not said yet that it is gone.
    Released,
}

/// A pod that may be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub node: Arc<str>,
    pub uid: String,
}

impl Leaving {
    /// A node has come, and may not know what it was told of its pods.
    pub fn begin(&mut self, node: &str, view: &View) {
        self.end(node);
        view.pods_on(node).for_each(|pod| self.consider(pod));
    }

    pub fn end(&mut self, node: &str) {
        self.pods.retain(|_, wait| *wait.node != *node);
    }

    /// `has_session`: whether there is anybody to be told of a node's pods.
    pub fn after(&mut self, events: &[Event], has_session: impl Fn(&str) -> bool) {
        for event in events {
            let object = &event.object;
            if object.key.resource == ENDPOINT_SLICES {
                self.look.insert(object.key.namespace().to_owned());
            } else if object.key.resource == PODS && object.node.as_deref().is_some_and(&has_session) {
                match event.kind {
                    EventKind::Deleted => drop(self.pods.remove(&object.key)),
                    _ => self.consider(object),
                }
            }
        }
    }

    fn consider(&mut self, pod: &Object) {
        let Some(node) = pod.node.clone().filter(|_| pod.meta.is_leaving()) else { return };
        if self.pods.get(&pod.key).is_none_or(|wait| pod.meta.uid != wait.uid) {
            self.look.insert(pod.key.namespace().to_owned());
            let uid = pod.meta.uid.to_string();
            self.pods.insert(pod.key.clone(), Wait { node, uid, stage: Stage::Offered });
        }
    }

    pub fn is_waiting(&self) -> bool {
        self.pods.values().any(|wait| wait.stage != Stage::Released)
    }

    /// Those that may be stopped now that every node contains so much; each is named once.
    pub fn released(&mut self, view: &View, contained: Revision) -> Vec<Release> {
        let mut offered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut released = Vec::new();
        for (key, wait) in &mut self.pods {
            if wait.stage != Stage::Released && self.look.contains(key.namespace()) {
                let namespace = key.namespace();
                let offered = offered.entry(namespace.to_owned()).or_insert_with(|| offered_in(view, namespace));
                wait.stage = match wait.stage {
                    // Also one that was not offered any more: a slice that was decided before the pod was asked to leave may
                    // be written after that.
                    _ if offered.contains(&wait.uid) => Stage::Offered,
                    Stage::Offered => Stage::Withdrawn(view.revision()),
                    withdrawn => withdrawn,
                };
            }
            if let Stage::Withdrawn(revision) = wait.stage
                && contained >= revision
            {
                wait.stage = Stage::Released;
                released.push(Release { node: wait.node.clone(), uid: wait.uid.clone() });
            }
        }
        self.look.clear();
        released
    }
}

/// The uids of pods that slices offer.
fn offered_in(view: &View, namespace: &str) -> BTreeSet<String> {
    view.objects(&ENDPOINT_SLICES, Some(namespace))
        .filter_map(|object| object.typed::<EndpointSlice>().ok())
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(is_offer))
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.clone())
        .collect()
}

/// One that is marked as leaving is not waited for: of a service that publishes pods that are not ready, all are listed as
/// ready to their end.
fn is_offer(conditions: &EndpointConditions) -> bool {
    conditions.ready != Some(false) && conditions.terminating != Some(true)
}

#[cfg(test)]
mod tests {
    use copepod_api::{Body, Expect, Op, Timestamp, Txn};
    use serde_json::{Value, json};

    use super::*;
    use crate::slices::tests::of as slice;

    struct World {
        view: View,
        leaving: Leaving,
    }

    impl World {
        fn new() -> World {
            World { view: View::default(), leaving: Leaving::default() }
        }

        fn put(&mut self, resource: copepod_api::Resource, name: &str, object: &Value) {
            let op = Op::Put { key: Key::new(resource, "d", name), body: Body::encode(object), expect: Expect::Any };
            let (view, events) = self.view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap();
            self.view = view;
            self.leaving.after(&events, |node| node == "n1");
        }

        fn pod(&mut self, node: &str, uid: &str, leaves: bool) {
            let mut pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"nodeName": node, "containers": []}});
            if leaves {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            self.put(PODS, uid, &pod);
        }

        fn slice(&mut self, endpoints: &[&str]) {
            let endpoints: Vec<String> = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
            self.put(ENDPOINT_SLICES, "web-1", &slice(&endpoints));
        }

        fn released(&mut self, contained: u64) -> Vec<String> {
            let released = self.leaving.released(&self.view, Revision(contained));
            released.into_iter().map(|release| release.uid).collect()
        }
    }

    #[test]
    fn a_pod_is_released_once_when_nobody_offers_it_and_all_nodes_know() {
        let mut world = World::new();
        world.slice(&["a"]);
        world.pod("n1", "a", false);
        world.pod("n2", "b", true);
        assert!(!world.leaving.is_waiting(), "one stays, and the other's node has no session");
        world.pod("n1", "a", true);
        assert_eq!(world.released(99), [""; 0], "it is offered");
        world.slice(&["-a"]);
        let withdrawn = world.view.revision().0;
        assert_eq!(world.released(withdrawn - 1), [""; 0], "some node may still lead to it");
        assert_eq!(world.released(withdrawn), ["a"]);
        world.pod("n1", "a", true);
        assert_eq!(world.released(99), [""; 0]);
        assert!(!world.leaving.is_waiting());
        world.leaving.begin("n1", &world.view);
        assert_eq!(world.released(99), ["a"], "a node that comes again may not have heard it");
    }

    /// As a headless service does that publishes pods that are not ready.
    #[test]
    fn a_pod_that_is_listed_as_ready_and_leaving_is_not_waited_for() {
        let mut world = World::new();
        world.pod("n1", "a", true);
        let mut listed = slice(&["a".to_owned()]);
        listed["endpoints"][0]["conditions"]["terminating"] = json!(true);
        world.put(ENDPOINT_SLICES, "web-1", &listed);
        assert_eq!(world.released(99), ["a"]);
    }

    #[test]
    fn a_slice_that_was_decided_before_the_pod_left_holds_it_back() {
        let mut world = World::new();
        world.pod("n1", "a", true);
        let asked = world.view.revision().0;
        assert_eq!(world.released(asked - 1), [""; 0], "nobody offers it yet");
        world.slice(&["a"]);
        assert_eq!(world.released(asked), [""; 0], "now somebody does");
        world.slice(&["-a"]);
        assert_eq!(world.released(asked), [""; 0]);
        assert_eq!(world.released(world.view.revision().0), ["a"]);
    }
}
