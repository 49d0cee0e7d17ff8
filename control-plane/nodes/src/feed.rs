//! What one node must hold, as deltas.
//!
//! A node is told of its own pods, of the ConfigMaps and Secrets that those name, and of what every data path needs: all
//! Services, EndpointSlices, NetworkPolicies and Namespaces, and where all nodes are (`peers.rs`); while there are
//! policies, also of who all other pods are. The feed is a place in the log of events, not a queue: a slow node costs nothing,
//! and one that was away resumes from its revision, or starts over with a reset when the log no longer reaches back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use copepod_api::{
    Key, Object, Resource, Revision,
    k8s_openapi::api::core::v1::Pod,
    resource::{CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, NETWORK_POLICIES, NODES, PODS, SECRETS, SERVICES},
};
use copepod_proto::nodes::{Change, Delta};
use copepod_store::{Event, EventKind, View};

use crate::{neighbours, peers::Peers, references};

/// What every node is told in full, because its data path is made of it.
const DATA_PATH: [Resource; 4] = [SERVICES, ENDPOINT_SLICES, NETWORK_POLICIES, NAMESPACES];

/// The objects one node holds beyond the data path.
pub struct Feed {
    node: Arc<str>,
    peers: Arc<Peers>,
    /// What each of the node's pods refers to.
    references: BTreeMap<Key, BTreeSet<Key>>,
    /// There are policies, or were, so it is told who all pods are.
    knows_neighbours: bool,
}

/// A delta, and whether the node's data path changes with it.
pub struct Fed {
    pub delta: Delta,
    pub data_path: bool,
}

impl Feed {
    fn new(node: &str, peers: &Arc<Peers>) -> Feed {
        Feed { node: node.into(), peers: peers.clone(), references: BTreeMap::new(), knows_neighbours: false }
    }

    /// From the first policy on, a node knows who all pods are.
    fn introduce(&mut self, view: &View, changes: &mut Changes) {
        if self.knows_neighbours || view.objects(&NETWORK_POLICIES, None).next().is_none() {
            return;
        }
        self.knows_neighbours = true;
        changes.1.extend(view.objects(&PODS, None).filter_map(|pod| pod.node.clone()));
    }

    /// Everything the node must hold, after which it forgets all else.
    pub fn reset(node: &str, peers: &Arc<Peers>, view: &View) -> (Feed, Fed) {
        let mut feed = Feed::new(node, peers);
        let mut changes = Changes::default();
        feed.introduce(view, &mut changes);
        for resource in &DATA_PATH {
            view.objects(resource, None).for_each(|object| changes.put(object));
        }
        let reachable = view.objects(&NODES, None).filter(|node| peers.of(node).is_some());
        reachable.for_each(|node| changes.put(node));
        for pod in view.pods_on(node) {
            feed.hold(pod, view, &mut changes);
        }
        let fed = Fed { delta: changes.into_delta(view, peers, view.revision(), true), data_path: true };
        (feed, fed)
    }

    /// The node has everything up to some revision, whose events follow. What its pods refer to is sent again, because a
    /// reference that began meanwhile may be to an object that has not changed since.
    pub fn resume(node: &str, peers: &Arc<Peers>, view: &View) -> (Feed, Fed) {
        let mut feed = Feed::new(node, peers);
        let mut changes = Changes::default();
        // Whether it has been told of others is not known here.
        feed.introduce(view, &mut changes);
        for pod in view.pods_on(node) {
            feed.hold(pod, view, &mut changes);
        }
        changes.0.retain(|key, _| key.resource != PODS);
        (feed, Fed { delta: changes.into_delta(view, peers, Revision::ZERO, false), data_path: false })
    }

    /// What the events change for this node; `None` when they are not its business. `view` contains the events.
    pub fn after(&mut self, events: &[Event], view: &View, position: Revision) -> Option<Fed> {
        let mut changes = Changes::default();
        let mut data_path = false;
        for event in events {
            let key = &event.object.key;
            if DATA_PATH.contains(&key.resource) {
                changes.of(event);
                data_path = true;
            } else if key.resource == NODES {
                data_path |= self.peer(event, &mut changes);
            } else if key.resource == PODS {
                data_path |= self.knows_neighbours && changes.neighbour(event);
                self.pod(event, view, &mut changes);
            } else if (key.resource == CONFIG_MAPS || key.resource == SECRETS) && self.refers_to(key) {
                changes.of(event);
            }
        }
        if events.iter().any(|event| event.object.key.resource == NETWORK_POLICIES) {
            self.introduce(view, &mut changes);
        }
        if changes.0.is_empty() && changes.1.is_empty() {
            return None;
        }
        Some(Fed { delta: changes.into_delta(view, &self.peers, position, false), data_path })
    }

    /// False if nobody is told otherwise of the node.
    fn peer(&self, event: &Event, changes: &mut Changes) -> bool {
        if event.kind == EventKind::Deleted {
            // Whatever was told of it: to look that up would remember a node that is gone.
            changes.0.insert(event.object.key.clone(), None);
            return true;
        }
        let now = self.peers.of(&event.object);
        if now == event.previous.as_deref().and_then(|node| self.peers.of(node)) {
            return false;
        }
        match now {
            Some(_) => changes.put(&event.object),
            None => drop(changes.0.insert(event.object.key.clone(), None)),
        }
        true
    }

    fn pod(&mut self, event: &Event, view: &View, changes: &mut Changes) {
        let pod = &event.object;
        if pod.node.as_deref() != Some(&*self.node) {
            return;
        }
        match event.kind {
            EventKind::Deleted => {
                changes.0.insert(pod.key.clone(), None);
                let released = self.references.remove(&pod.key).unwrap_or_default();
                for reference in released.into_iter().filter(|reference| !self.refers_to(reference)) {
                    changes.0.insert(reference, None);
                }
            }
            _ => self.hold(pod, view, changes),
        }
    }

    fn hold(&mut self, pod: &Arc<Object>, view: &View, changes: &mut Changes) {
        changes.put(pod);
        let Ok(decoded) = pod.decoded::<Pod>() else { return };
        let references = references::of(pod.key.namespace(), &decoded);
        for reference in references.iter().filter(|reference| !self.refers_to(reference)) {
            if let Some(object) = view.object(reference) {
                changes.put(object);
            }
        }
        self.references.insert(pod.key.clone(), references);
    }

    fn refers_to(&self, key: &Key) -> bool {
        self.references.values().any(|references| references.contains(key))
    }
}

/// The newest state of each object touched, where `None` is gone; and nodes whose pods others see otherwise.
#[derive(Default)]
struct Changes(BTreeMap<Key, Option<Arc<Object>>>, BTreeSet<Arc<str>>);

impl Changes {
    fn put(&mut self, object: &Arc<Object>) {
        let slot = self.0.entry(object.key.clone()).or_insert(None);
        if slot.as_ref().is_none_or(|held| held.revision < object.revision) {
            *slot = Some(object.clone());
        }
    }

    fn of(&mut self, event: &Event) {
        match event.kind {
            EventKind::Deleted => drop(self.0.insert(event.object.key.clone(), None)),
            _ => self.put(&event.object),
        }
    }

    /// False if others see nothing of what happened to a pod.
    fn neighbour(&mut self, event: &Event) -> bool {
        let is_there = event.kind != EventKind::Deleted;
        let now = is_there.then(|| neighbours::of(&event.object)).flatten();
        let before = if is_there { event.previous.as_deref() } else { Some(&*event.object) };
        if now == before.and_then(neighbours::of) {
            return false;
        }
        let nodes = [Some(&*event.object), before].into_iter().flatten().filter_map(|pod| pod.node.clone());
        self.1.extend(nodes);
        true
    }

    /// `view` contains the changes.
    fn into_delta(self, view: &View, peers: &Peers, revision: Revision, reset: bool) -> Delta {
        let changes = self.0.into_iter().map(|(key, object)| Change {
            group: key.resource.group.to_string(),
            plural: key.resource.plural.to_string(),
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            object: object.and_then(|object| match key.resource == NODES {
                true => peers.of(&object),
                false => Some(object.bytes().clone()),
            }),
        });
        let neighbours = self.1.into_iter().map(|node| Change {
            group: String::new(),
            plural: neighbours::NEIGHBOURS.to_owned(),
            namespace: String::new(),
            name: node.to_string(),
            object: neighbours::on(&node, view),
        });
        Delta { revision: revision.0, reset, changes: changes.chain(neighbours).collect() }
    }
}

#[cfg(test)]
mod tests {
    use copepod_api::{Body, Op, Timestamp, Txn};
    use serde_json::{Value, json};

    use super::*;

    /// Applies one write and says what the node hears of it.
    struct World {
        view: View,
        peers: Arc<Peers>,
        feed: Feed,
    }

    impl World {
        fn new() -> World {
            let view = View::default();
            let peers = Arc::default();
            let (feed, _) = Feed::reset("n1", &peers, &view);
            World { view, peers, feed }
        }

        fn put(&mut self, resource: Resource, name: &str, object: Value) -> Vec<String> {
            let namespace = namespace(&resource);
            let key = Key::new(resource, namespace, name);
            let mut object = object;
            object["metadata"]["name"] = json!(name);
            object["metadata"]["uid"] = json!(name);
            let body = Body::encode(&object);
            self.apply(Op::Put { key, body, expect: copepod_api::Expect::Any })
        }

        fn delete(&mut self, resource: Resource, name: &str) -> Vec<String> {
            let namespace = namespace(&resource);
            self.apply(Op::Delete { key: Key::new(resource, namespace, name), expect: copepod_api::Expect::Any })
        }

        fn apply(&mut self, op: Op) -> Vec<String> {
            let (view, events) = self.view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap();
            self.view = view;
            let fed = self.feed.after(&events, &self.view, self.view.revision());
            fed.map(|fed| fed.delta.changes).unwrap_or_default().iter().map(text).collect()
        }
    }

    fn namespace(resource: &Resource) -> &'static str {
        if *resource == NODES { "" } else { "d" }
    }

    fn text(change: &Change) -> String {
        let sign = if change.object.is_some() { '+' } else { '-' };
        format!("{sign}{}/{}", change.plural, change.name)
    }

    fn pod(node: &str, config: &str) -> Value {
        json!({"metadata": {}, "spec": {"nodeName": node, "containers": [
            {"name": "c", "envFrom": [{"configMapRef": {"name": config}}]}]}})
    }

    #[test]
    fn a_node_hears_of_its_own_pods_and_of_what_they_name() {
        let mut world = World::new();
        assert!(world.put(CONFIG_MAPS, "settings", json!({"metadata": {}})).is_empty());
        assert!(world.put(PODS, "other", pod("n2", "settings")).is_empty());
        assert_eq!(world.put(PODS, "mine", pod("n1", "settings")), ["+configmaps/settings", "+pods/mine"]);
        assert_eq!(
            world.put(CONFIG_MAPS, "settings", json!({"metadata": {}, "data": {"a": "b"}})),
            ["+configmaps/settings"]
        );
        assert_eq!(world.put(PODS, "second", pod("n1", "settings")), ["+pods/second"]);
        assert_eq!(world.delete(PODS, "mine"), ["-pods/mine"]);
        assert_eq!(world.delete(PODS, "second"), ["-configmaps/settings", "-pods/second"]);
    }

    #[test]
    fn nodes_know_each_others_pods_while_there_are_policies() {
        let mut world = World::new();
        let known = |address: &str, label: &str| {
            json!({"metadata": {"labels": {"app": label}}, "spec": {"nodeName": "n2", "containers": []},
                "status": {"podIPs": [{"ip": address}]}})
        };
        assert!(world.put(PODS, "far", known("10.244.2.2", "web")).is_empty());
        let policy = json!({"metadata": {}, "spec": {"podSelector": {}}});
        assert_eq!(world.put(NETWORK_POLICIES, "deny", policy), ["+networkpolicies/deny", "+neighbours/n2"]);
        let mut same = known("10.244.2.2", "web");
        same["status"]["message"] = json!("what nobody else needs to know");
        assert!(world.put(PODS, "far", same).is_empty());
        assert_eq!(world.put(PODS, "far", known("10.244.2.2", "db")), ["+neighbours/n2"]);
        let (_, fed) = Feed::reset("n1", &world.peers, &world.view);
        assert_eq!(fed.delta.changes.iter().map(text).collect::<Vec<_>>(), ["+networkpolicies/deny", "+neighbours/n2"]);
        assert_eq!(world.delete(PODS, "far"), ["-neighbours/n2"]);
    }

    #[test]
    fn every_node_hears_of_services() {
        let mut world = World::new();
        assert_eq!(world.put(SERVICES, "web", json!({"metadata": {}, "spec": {}})), ["+services/web"]);
        assert_eq!(world.delete(SERVICES, "web"), ["-services/web"]);
    }

    #[test]
    fn what_a_node_is_to_others_is_made_once_and_told_when_it_changes() {
        let mut world = World::new();
        let node = |address: &str, ready: &str| {
            json!({"metadata": {}, "spec": {"podCIDR": "10.244.2.0/24"}, "status": {
                "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": "n2"}],
                "conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert!(world.put(NODES, "n2", json!({"metadata": {}, "spec": {"podCIDR": "10.244.2.0/24"}})).is_empty());
        assert_eq!(world.put(NODES, "n2", node("10.0.0.2", "True")), ["+nodes/n2"]);
        assert!(world.put(NODES, "n2", node("10.0.0.2", "Unknown")).is_empty());
        assert_eq!(world.put(NODES, "n2", node("10.0.0.3", "Unknown")), ["+nodes/n2"]);
        let made = world.peers.made();
        assert_eq!(made, 4, "one a revision");
        for node in 0..1_000 {
            let (_, fed) = Feed::reset(&format!("n{node}"), &world.peers, &world.view);
            let told = fed.delta.changes[0].object.as_ref().unwrap();
            assert!(told.len() < 200 && fed.delta.changes.len() == 1, "{told:?}");
        }
        assert_eq!(world.peers.made(), made, "a thousand nodes share what was made");
        assert_eq!(world.delete(NODES, "n2"), ["-nodes/n2"]);
    }
}
