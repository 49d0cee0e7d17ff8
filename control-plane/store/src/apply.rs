//! The state machine.

use std::sync::Arc;

use copepod_api::{Expect, Key, Name, Object, Op, Revision, Timestamp, Txn, resource};

use crate::view::{Inner, View};

/// What happened to one object.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: Revision,
    pub kind: EventKind,
    /// The object as it is now; for a deletion, as it was, with the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before, for selectors that it may have left.
    pub previous: Option<Arc<Object>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// Why a transaction was not carried out. Nothing of it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("{0} already exists")]
    Exists(Key),
    #[error("{0} does not exist")]
    Absent(Key),
    #[error("{key} is at revision {actual}, not {expected}")]
    Changed { key: Key, expected: Revision, actual: Revision },
    #[error("{key} is not an object: {reason}")]
    Malformed { key: Key, reason: String },
}

impl View {
    /// The view after `txn`, and what happened. Depends on its arguments alone, so every server computes the same.
    pub fn apply(&self, txn: &Txn, at: Timestamp) -> Result<(View, Vec<Event>), Refusal> {
        for op in &txn.ops {
            self.check(op)?;
        }
        let mut inner = Inner::clone(&self.inner);
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            match op {
                Op::Put { key, body, .. } => {
                    let revision = inner.revision.next();
                    let object = Object::store(inner.shared(key), body, revision)
                        .map_err(|error| Refusal::Malformed { key: key.clone(), reason: error.to_string() })?;
                    events.push(inner.put(Arc::new(object)));
                }
                Op::Delete { key, .. } => events.extend(inner.delete(key)),
                Op::Check { .. } => {}
            }
        }
        inner.at = at;
        Ok((View { inner: Arc::new(inner) }, events))
    }

    fn check(&self, op: &Op) -> Result<(), Refusal> {
        let actual = self.object(op.key()).map(|object| object.revision);
        match (op.expect(), actual) {
            (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
            (Expect::Absent, Some(_)) => Err(Refusal::Exists(op.key().clone())),
            (Expect::Present | Expect::At(_), None) => Err(Refusal::Absent(op.key().clone())),
            (Expect::At(expected), Some(actual)) if expected == actual => Ok(()),
            (Expect::At(expected), Some(actual)) => Err(Refusal::Changed { key: op.key().clone(), expected, actual }),
        }
    }

    /// Puts an object at the revision it already has: how a snapshot is read back.
    pub fn restore(revision: Revision, at: Timestamp, objects: impl IntoIterator<Item = Object>) -> View {
        let mut inner = Inner { at, ..Inner::default() };
        for object in objects {
            inner.put(Arc::new(object));
        }
        inner.revision = revision;
        View { inner: Arc::new(inner) }
    }

    /// The same objects at a later revision: what a cluster goes on with that may have lost its newest transactions. Whoever
    /// has seen those finds that revisions do not go back.
    pub fn skip_to(&self, revision: Revision) -> View {
        let mut inner = Inner::clone(&self.inner);
        inner.revision = inner.revision.max(revision);
        View { inner: Arc::new(inner) }
    }
}

impl Inner {
    /// The same key in memory that is there already: its own if the object is replaced, else the namespace of a neighbour.
    fn shared(&self, key: &Key) -> Key {
        let Some(collection) = self.collections.get(&key.resource) else { return key.clone() };
        match collection.objects.get_prev(&key.name) {
            Some((name, object)) if *name == key.name => object.key.clone(),
            Some((name, _)) if name.namespace == key.name.namespace => Key {
                resource: key.resource.clone(),
                name: Name { namespace: name.namespace.clone(), name: key.name.name.clone() },
            },
            _ => key.clone(),
        }
    }

    fn put(&mut self, object: Arc<Object>) -> Event {
        let collection = self.collections.entry(object.key.resource.clone()).or_default();
        let previous = collection.insert(object.clone());
        let stays = |previous: &Arc<Object>| {
            previous.node == object.node
                && previous.meta.owner_references() == object.meta.owner_references()
                && previous.meta.labels == object.meta.labels
                && previous.node_facts().range == object.node_facts().range
        };
        // Most changes are of a status.
        if !previous.as_ref().is_some_and(stays) {
            if let Some(previous) = &previous {
                self.unindex(previous);
            }
            self.index(&object);
        }
        self.revision = object.revision;
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
        Event { revision: object.revision, kind, object, previous }
    }

    fn delete(&mut self, key: &Key) -> Option<Event> {
        let previous = self.collections.get_mut(&key.resource)?.remove(&key.name)?;
        self.unindex(&previous);
        self.revision = self.revision.next();
        let object = Arc::new(previous.at(self.revision));
        Some(Event { revision: self.revision, kind: EventKind::Deleted, object, previous: Some(previous) })
    }

    fn index(&mut self, object: &Arc<Object>) {
        for owner in object.meta.owner_references() {
            self.by_owner.entry(owner.uid.as_str().into()).or_default().insert(object.key.clone());
        }
        self.single.insert(object);
        self.node_ranges.extend(object.node_facts().range.clone());
        if let (true, Some(node)) = (object.key.resource == resource::PODS, &object.node) {
            self.pods_by_node.entry(node.clone()).or_default().insert(object.key.name.clone());
        }
    }

    fn unindex(&mut self, object: &Arc<Object>) {
        for owner in object.meta.owner_references() {
            let uid: Arc<str> = owner.uid.as_str().into();
            if let Some(dependents) = self.by_owner.get_mut(&uid) {
                dependents.remove(&object.key);
                if dependents.is_empty() {
                    self.by_owner.remove(&uid);
                }
            }
        }
        self.single.remove(object);
        if let Some(range) = &object.node_facts().range {
            self.node_ranges.remove(range);
        }
        if let (true, Some(node)) = (object.key.resource == resource::PODS, &object.node)
            && let Some(pods) = self.pods_by_node.get_mut(node)
        {
            pods.remove(&object.key.name);
            if pods.is_empty() {
                self.pods_by_node.remove(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copepod_api::{Body, resource::PODS};
    use serde_json::json;

    fn put(name: &str, node: &str, owner: &str, expect: Expect) -> Op {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node},
            "metadata": {"name": name, "namespace": "d", "ownerReferences": [{"uid": owner}]},
        });
        Op::Put { key: Key::new(PODS, "d", name), body: Body::encode(&object), expect }
    }

    fn apply(view: &View, ops: Vec<Op>) -> Result<View, Refusal> {
        view.apply(&Txn { ops }, Timestamp::UNIX_EPOCH).map(|(view, _)| view)
    }

    #[test]
    fn every_object_changed_has_a_revision_of_its_own() {
        let view = View::default();
        let (view, events) = view
            .apply(
                &Txn { ops: vec![put("a", "n1", "o", Expect::Absent), put("b", "n1", "o", Expect::Absent)] },
                Timestamp::UNIX_EPOCH,
            )
            .unwrap();
        assert_eq!(events.iter().map(|event| event.revision.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(view.revision(), Revision(2));
        assert_eq!(view.pods_on("n1").count(), 2);
        assert_eq!(view.dependents("o").count(), 2);
    }

    #[test]
    fn names_that_are_in_memory_already_are_not_kept_twice() {
        let first =
            apply(&View::default(), vec![put("a", "", "", Expect::Any), put("b", "", "", Expect::Any)]).unwrap();
        let again = apply(&first, vec![put("a", "", "", Expect::Any)]).unwrap();
        let name = |view: &View, name: &str| view.object(&Key::new(PODS, "d", name)).unwrap().key.name.clone();
        assert!(Arc::ptr_eq(&name(&first, "a").namespace, &name(&first, "b").namespace));
        assert!(Arc::ptr_eq(&name(&first, "a").name, &name(&again, "a").name));
    }

    #[test]
    fn a_transaction_is_refused_whole() {
        let view = apply(&View::default(), vec![put("a", "n1", "o", Expect::Absent)]).unwrap();
        let refused = apply(&view, vec![put("b", "n1", "o", Expect::Absent), put("a", "n2", "o", Expect::Absent)]);
        assert_eq!(refused.unwrap_err(), Refusal::Exists(Key::new(PODS, "d", "a")));
        assert_eq!(view.count(&PODS), 1);
    }

    #[test]
    fn objects_of_a_namespace_are_counted() {
        let named = |namespace: &str, name: &str| Key::new(PODS, namespace, name);
        let put = |key: Key| Op::Put { key, body: Body::encode(&json!({"metadata": {}})), expect: Expect::Any };
        let all = [named("a", "x"), named("a", "y"), named("b", "x"), named("a", "x")];
        let view = apply(&View::default(), all.into_iter().map(put).collect()).unwrap();
        let counts = |view: &View| ["a", "b", "c"].map(|namespace| view.count_in(&PODS, Some(namespace)));
        assert_eq!((counts(&view), view.count_in(&PODS, None)), ([2, 1, 0], 3));
        let delete = |key: Key| Op::Delete { key, expect: Expect::Any };
        let gone = ["x", "z"].map(|name| delete(named("a", name))).into_iter().chain([delete(named("b", "x"))]);
        let gone = apply(&view, gone.collect()).unwrap();
        assert_eq!((counts(&gone), gone.count_in(&PODS, None)), ([1, 0, 0], 1));
        assert_eq!(counts(&view), [2, 1, 0]);
    }

    #[test]
    fn indexes_follow_changes_and_old_views_stay() {
        let first = apply(&View::default(), vec![put("a", "n1", "o", Expect::Absent)]).unwrap();
        let moved = apply(&first, vec![put("a", "n2", "p", Expect::At(Revision(1)))]).unwrap();
        assert_eq!((moved.pods_on("n1").count(), moved.pods_on("n2").count()), (0, 1));
        assert_eq!((moved.dependents("o").count(), moved.dependents("p").count()), (0, 1));
        let gone = apply(&moved, vec![Op::Delete { key: Key::new(PODS, "d", "a"), expect: Expect::Present }]).unwrap();
        assert_eq!((gone.pods_on("n2").count(), gone.count(&PODS), gone.revision()), (0, 0, Revision(3)));
        assert_eq!(first.pods_on("n1").count(), 1);
    }
}
