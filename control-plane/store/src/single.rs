//! What a controller could take over and none manages, found by its labels.
//!
//! Whoever manages pods asks for those that it may adopt each time that it looks at its own. Most pods have a controller, but
//! ten thousand may have none; an index by each of their labels leaves few that a selector has to be held against.

use std::sync::Arc;

use copepod_api::{
    Key, Object, Resource,
    resource::{PODS, REPLICA_SETS},
    selector::{LabelSelector, Test},
};
use imbl::{OrdMap, OrdSet};

/// What controllers adopt.
pub const ADOPTED: [Resource; 3] = [PODS, REPLICA_SETS, Resource::known("apps", "controllerrevisions")];

#[derive(Clone, Default)]
pub(crate) struct Single {
    all: OrdSet<Key>,
    labelled: OrdMap<Label, OrdSet<Key>>,
}

/// A label of objects of one resource in one namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    resource: Resource,
    namespace: Arc<str>,
    key: Arc<str>,
    value: Arc<str>,
}

impl Single {
    pub fn insert(&mut self, object: &Object) {
        if !ADOPTED.contains(&object.key.resource) || object.meta.controller().is_some() {
            return;
        }
        self.all.insert(object.key.clone());
        for label in labels(object) {
            self.labelled.entry(label).or_default().insert(object.key.clone());
        }
    }

    pub fn remove(&mut self, object: &Object) {
        if self.all.remove(&object.key).is_none() {
            return;
        }
        for label in labels(object) {
            if let Some(keys) = self.labelled.get_mut(&label) {
                keys.remove(&object.key);
                if keys.is_empty() {
                    self.labelled.remove(&label);
                }
            }
        }
    }

    /// Those that a selector may match, and no more than have one of the labels that it asks for.
    pub fn candidates<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: &'a str,
        selector: &LabelSelector,
    ) -> Box<dyn Iterator<Item = &'a Key> + 'a> {
        let asked = selector.requirements().iter().filter_map(|requirement| match &requirement.test {
            Test::In(values) => Some(values.iter().map(|value| Label {
                resource: resource.clone(),
                namespace: namespace.into(),
                key: requirement.key.as_str().into(),
                value: value.as_str().into(),
            })),
            _ => None,
        });
        let carrying = asked.map(|labels| labels.filter_map(|label| self.labelled.get(&label)).collect::<Vec<_>>());
        let fewest = carrying.min_by_key(|sets| sets.iter().map(|keys| keys.len()).sum::<usize>());
        match fewest {
            Some(sets) => Box::new(sets.into_iter().flatten()),
            None => {
                let all = self.all.range(Key::new(resource.clone(), namespace, "")..);
                Box::new(all.take_while(move |key| key.resource == *resource && key.namespace() == namespace))
            }
        }
    }
}

fn labels(object: &Object) -> impl Iterator<Item = Label> {
    let Key { resource, name } = &object.key;
    object.meta.labels.iter().map(|(key, value)| Label {
        resource: resource.clone(),
        namespace: name.namespace.clone(),
        key: key.into(),
        value: value.into(),
    })
}

#[cfg(test)]
mod tests {
    use copepod_api::{Body, Expect, Op, Timestamp, Txn, resource};
    use serde_json::{Value, json};

    use super::*;
    use crate::View;

    fn apply(view: &View, ops: Vec<Op>) -> View {
        view.apply(&Txn { ops }, Timestamp::UNIX_EPOCH).unwrap().0
    }

    fn put(key: Key, labels: &Value, owners: &Value) -> Op {
        let object = json!({"metadata": {"labels": labels, "ownerReferences": owners}});
        Op::Put { key, body: Body::encode(&object), expect: Expect::Any }
    }

    fn of(view: &View, resource: &Resource, namespace: &str, selector: &str) -> Vec<String> {
        let selector = LabelSelector::parse(selector).unwrap();
        let mut names: Vec<String> =
            view.single(resource, namespace, &selector).map(|one| one.key.name().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_has_no_controller_is_found_whether_that_is_known_or_searched_for() {
        for resource in ADOPTED.into_iter().chain([resource::CONFIG_MAPS]) {
            let of = |view: &View, namespace: &str| of(view, &resource, namespace, "a=1").join(" ");
            let key = |namespace: &str, name: &str| Key::new(resource.clone(), namespace, name);
            let put = |key: Key, owners: Value| put(key, &json!({"a": "1"}), &owners);
            let controlled = |name: &str, controller: bool| {
                put(key("d", name), json!([{"uid": "o", "kind": "ReplicaSet", "name": "o", "controller": controller}]))
            };
            let others = [key("c", "a"), key("da", "a"), Key::new(resource::NODES, "", "d")];
            let view = apply(&View::default(), others.map(|key| put(key, json!([]))).into());
            let all = [controlled("a", true), controlled("b", false), put(key("d", "c"), json!([{"uid": ""}]))];
            let view = apply(&view, all.into());
            assert_eq!([of(&view, "d"), of(&view, "c"), of(&view, "e")], ["b c", "a", ""]);
            let taken = apply(&view, vec![controlled("a", false), controlled("b", true)]);
            assert_eq!(of(&taken, "d"), "a c");
            let gone = apply(&taken, vec![Op::Delete { key: key("d", "a"), expect: Expect::Any }]);
            assert_eq!((of(&gone, "d"), of(&view, "d")), ("c".into(), "b c".into()));
        }
    }

    #[test]
    fn labels_find_what_a_selector_matches() {
        let selectors = ["", "a=1", "a=2", "a in (1,2)", "a", "!a", "a=1,b=1", "a!=1", "b in (1,3),a", "c=1", "a=1,!b"];
        let labelled =
            [json!({}), json!({"a": "1"}), json!({"a": "2"}), json!({"a": "1", "b": "1"}), json!({"b": "3", "a": "1"})];
        let mut view = View::default();
        // Each pod goes through all labels, and in the end is gone.
        for turn in 0..=labelled.len() {
            for number in 0..labelled.len() {
                let key = Key::new(PODS, "d", format!("p{number}"));
                let op = match labelled.get((number + turn) % labelled.len()) {
                    Some(labels) if turn < labelled.len() => put(key, labels, &json!([])),
                    _ => Op::Delete { key, expect: Expect::Present },
                };
                view = apply(&view, vec![op]);
                for text in selectors {
                    let selector = LabelSelector::parse(text).unwrap();
                    let all = view.objects(&PODS, Some("d")).filter(|pod| selector.matches(&pod.meta.labels));
                    let all: Vec<String> = all.map(|pod| pod.key.name().to_owned()).collect();
                    assert_eq!(of(&view, &PODS, "d", text), all, "{text} after {turn}, {number}");
                }
            }
        }
        let single = &view.inner.single;
        assert!(single.all.is_empty() && single.labelled.is_empty());
    }

    #[test]
    fn a_label_that_few_carry_leaves_the_others_alone() {
        let key = |number: usize| Key::new(PODS, "d", format!("p{number}"));
        let labels = |number: usize| json!({"all": "1", "one": number.to_string()});
        let ops = (0..1_000).map(|number| put(key(number), &labels(number), &json!([]))).collect();
        let view = apply(&View::default(), ops);
        let candidates = |selector: &str| {
            let selector = LabelSelector::parse(selector).unwrap();
            view.inner.single.candidates(&PODS, "d", &selector).count()
        };
        assert_eq!(["all=1,one=7", "all=1,one in (7,8)", "all=1,one=x", "all=1"].map(candidates), [1, 2, 0, 1_000]);
    }
}
