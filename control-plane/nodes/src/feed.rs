//! What one node is told alone: its pods, and the ConfigMaps and Secrets that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use copepod_api::{
    Key, Object,
    k8s_openapi::api::core::v1::Pod,
    resource::{CONFIG_MAPS, PODS, SECRETS},
};
use copepod_proto::nodes::Change;
use copepod_store::{Event, EventKind, View};

use crate::{everybody, references};

/// The objects that one node holds beyond what all do.
pub struct Feed {
    /// What each of the node's pods refers to.
    references: BTreeMap<Key, BTreeSet<Key>>,
}

/// The newest state of each object touched, where `None` is gone.
#[derive(Default)]
pub struct Own(BTreeMap<Key, Option<Arc<Object>>>);

impl Feed {
    /// Everything the node must hold.
    pub fn of(node: &str, view: &View) -> (Feed, Own) {
        let mut feed = Feed { references: BTreeMap::new() };
        let mut own = Own::default();
        for pod in view.pods_on(node) {
            feed.hold(pod, view, &mut own);
        }
        (feed, own)
    }

    /// What the node must hold of what its pods name.
    pub fn references(&self) -> impl Iterator<Item = &Key> {
        self.references.values().flatten()
    }

    pub fn refers_to(&self, key: &Key) -> bool {
        self.references.values().any(|references| references.contains(key))
    }

    /// Something happened to a pod of the node. `view` contains it.
    pub fn pod(&mut self, event: &Event, view: &View, own: &mut Own) {
        let pod = &event.object;
        if event.kind != EventKind::Deleted {
            return self.hold(pod, view, own);
        }
        own.0.insert(pod.key.clone(), None);
        let released = self.references.remove(&pod.key).unwrap_or_default();
        for reference in released.into_iter().filter(|reference| !self.refers_to(reference)) {
            own.0.insert(reference, None);
        }
    }

    /// What the node may still hold of what these events took away, and must not.
    pub fn gone(&self, node: &str, events: &[Event], view: &View) -> Vec<Change> {
        let deleted = events.iter().filter(|event| event.kind == EventKind::Deleted).map(|event| &event.object);
        let mut gone: BTreeSet<Key> = BTreeSet::new();
        for object in deleted {
            let resource = &object.key.resource;
            if *resource == PODS && object.node.as_deref() == Some(node) {
                let decoded = object.decoded::<Pod>();
                let named = decoded.map(|pod| references::of(object.key.namespace(), &pod)).unwrap_or_default();
                gone.extend(named.into_iter().filter(|reference| !self.refers_to(reference)));
                gone.insert(object.key.clone());
            } else if (*resource == CONFIG_MAPS || *resource == SECRETS) && self.refers_to(&object.key) {
                gone.insert(object.key.clone());
            }
        }
        // Another pod of the same name may be on another node by now.
        let is_here = |object: &Arc<Object>| object.node.as_deref() == Some(node);
        let is_there = |key: &Key| match key.resource == PODS {
            true => view.object(key).is_some_and(is_here),
            false => self.refers_to(key) && view.object(key).is_some(),
        };
        gone.iter().filter(|key| !is_there(key)).map(|key| everybody::change(key, None)).collect()
    }

    fn hold(&mut self, pod: &Arc<Object>, view: &View, own: &mut Own) {
        own.put(pod);
        let Ok(decoded) = pod.decoded::<Pod>() else { return };
        let references = references::of(pod.key.namespace(), &decoded);
        for reference in references.iter().filter(|reference| !self.refers_to(reference)) {
            if let Some(object) = view.object(reference) {
                own.put(object);
            }
        }
        self.references.insert(pod.key.clone(), references);
    }
}

impl Own {
    fn put(&mut self, object: &Arc<Object>) {
        let slot = self.0.entry(object.key.clone()).or_insert(None);
        if slot.as_ref().is_none_or(|held| held.revision < object.revision) {
            *slot = Some(object.clone());
        }
    }

    /// Something happened to an object that the node holds.
    pub fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::Deleted => drop(self.0.insert(event.object.key.clone(), None)),
            _ => self.put(&event.object),
        }
    }

    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.0.iter().map(|(key, object)| everybody::change(key, object.as_deref()))
    }
}
