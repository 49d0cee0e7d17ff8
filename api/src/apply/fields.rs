//! Sets of places in an object, as `fieldsV1` writes them.
//!
//! A step is kept in its written form: `f:name`, `k:{"name":"web"}`, `v:"value"`, `i:0`. A set is a tree of steps, where
//! a place is a member, or has members below it, or both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::OnceLock,
};

use serde_json::{Map, Value};

use crate::schema::Place;

pub type Step = Box<str>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    pub members: BTreeSet<Step>,
    pub children: BTreeMap<Step, Set>,
}

/// How deep a set may be; those in `managedFields` come from clients too.
const DEPTH_MAX: usize = 2 * crate::decode::DEPTH_MAX;

pub fn field(name: &str) -> Step {
    format!("f:{name}").into()
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    pub fn set_child(&mut self, step: Step, child: Set) {
        if !child.is_empty() {
            self.children.insert(step, child);
        }
    }

    /// The union.
    pub fn with(mut self, other: Set) -> Set {
        self.add(other);
        self
    }

    pub fn add(&mut self, mut other: Set) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.members.append(&mut other.members);
        for (step, child) in other.children {
            match self.children.get_mut(&step) {
                Some(own) => own.add(child),
                None => drop(self.children.insert(step, child)),
            }
        }
    }

    /// The difference.
    pub fn without(mut self, other: &Set) -> Set {
        self.remove(other);
        self
    }

    pub fn remove(&mut self, other: &Set) {
        self.members.retain(|step| !other.members.contains(step));
        for (step, gone) in &other.children {
            if let Some(child) = self.children.get_mut(step) {
                child.remove(gone);
                if child.is_empty() {
                    self.children.remove(step);
                }
            }
        }
    }

    /// Whether it has a member in common with a set that is written down, in canonical steps.
    pub fn meets(&self, written: &Value) -> bool {
        let below = |step: &str| written.get(step).and_then(Value::as_object);
        let is_member = |fields: &Map<String, Value>| fields.is_empty() || fields.contains_key(".");
        self.members.iter().any(|step| below(step).is_some_and(is_member))
            || self.children.iter().any(|(step, child)| written.get(&**step).is_some_and(|below| child.meets(below)))
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set { members: &self.members & &other.members, children: BTreeMap::new() };
        for (step, child) in &self.children {
            if let Some(other) = other.children.get(step) {
                out.set_child(step.clone(), child.intersection(other));
            }
        }
        out
    }

    /// With the fields of structures that have members below them as members too: a structure goes when the last of its
    /// fields goes.
    pub fn with_parents(&self, place: Place<'_>) -> Set {
        let mut out = Set { members: self.members.clone(), children: BTreeMap::new() };
        for (step, child) in &self.children {
            let inner = match step.strip_prefix("f:") {
                Some(name) => {
                    if place.has_field(name) {
                        out.members.insert(step.clone());
                    }
                    place.field(name)
                }
                None => place.items(),
            };
            out.children.insert(step.clone(), child.with_parents(inner));
        }
        out
    }

    /// What nobody owns: the address of an object, and what the server itself writes.
    pub fn unowned() -> &'static Set {
        static UNOWNED: OnceLock<Set> = OnceLock::new();
        UNOWNED.get_or_init(|| {
            let fields = |names: &[&str]| names.iter().map(|name| field(name)).collect::<BTreeSet<Step>>();
            let metadata = [
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "generation",
                "managedFields",
                "resourceVersion",
            ];
            let metadata = Set { members: fields(&metadata), children: BTreeMap::new() };
            let children = BTreeMap::from([(field("metadata"), metadata)]);
            Set { members: fields(&["apiVersion", "kind", "metadata"]), children }
        })
    }

    /// The paths of all members, as conflicts are told: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, path: &mut String, paths: &mut Vec<String>) {
        let steps: BTreeSet<&Step> = self.members.iter().chain(self.children.keys()).collect();
        for step in steps {
            let length = path.len();
            write_step(path, step);
            if self.members.contains(step) {
                paths.push(path.clone());
            }
            if let Some(child) = self.children.get(step) {
                child.collect_paths(path, paths);
            }
            path.truncate(length);
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.into_map())
    }

    fn into_map(self) -> Map<String, Value> {
        let Set { members, mut children } = self;
        let mut map = Map::new();
        for step in members {
            let mut below = children.remove(&step).map(Set::into_map).unwrap_or_default();
            if !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(step.into(), Value::Object(below));
        }
        map.extend(children.into_iter().map(|(step, child)| (step.into(), Value::Object(child.into_map()))));
        map
    }

    pub fn from_value(value: &Value) -> Option<Set> {
        Set::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Option<Set> {
        let mut set = Set::default();
        if depth > DEPTH_MAX {
            return None;
        }
        for (step, child) in value.as_object()? {
            if step == "." {
                continue;
            }
            let step = canonical(step)?;
            let fields = child.as_object()?;
            if fields.is_empty() || fields.contains_key(".") {
                set.members.insert(step.clone());
            }
            set.set_child(step, Set::read(child, depth + 1)?);
        }
        Some(set)
    }
}

/// Clients write the JSON of keys with other spaces and another order of fields.
fn canonical(step: &str) -> Option<Step> {
    match step.split_once(':')? {
        ("f", _) => Some(step.into()),
        ("i", index) => index.parse::<i64>().is_ok().then(|| step.into()),
        (kind @ ("k" | "v"), json) => {
            let value: Value = serde_json::from_str(json).ok()?;
            (kind == "v" || value.is_object()).then(|| format!("{kind}:{value}").into())
        }
        _ => None,
    }
}

pub fn write_step(out: &mut String, step: &str) {
    let result = match step.split_once(':') {
        Some(("f", name)) => write!(out, ".{name}"),
        Some(("k", json)) => {
            let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            write!(out, "[{}]", keys.join(","))
        }
        Some(("v", json)) => write!(out, "[={json}]"),
        Some(("i", index)) => write!(out, "[{index}]"),
        _ => Ok(()),
    };
    result.expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_are_written_as_fields_v1() {
        let written = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:replicas": {}, "f:list": {
            "k:{\"name\":\"a\",\"port\":80}": {".": {}, "f:image": {}}, "v:\"x\"": {}}}});
        let set = Set::from_value(&written).unwrap();
        assert_eq!(set.clone().into_value(), written);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.list[name=\"a\",port=80]",
                ".spec.list[name=\"a\",port=80].image",
                ".spec.list[=\"x\"]",
                ".spec.replicas",
            ]
        );
        assert_eq!(set.clone().without(&set), Set::default());
        assert_eq!(set.intersection(&set), set);
        assert_eq!(set.clone().with(set.clone()), set);
        assert!(set.meets(&written));
        assert!(
            !Set::from_value(&json!({"f:spec": {"f:list": {}}})).unwrap().meets(&written),
            "its entries are members"
        );
        assert!(Set::from_value(&json!({"f:metadata": {"f:labels": {}}})).unwrap().meets(&written));
        assert_eq!(
            Set::from_value(&json!({"k:{ \"b\": 1, \"a\": 2 }": {}})).unwrap().into_value(),
            json!({"k:{\"a\":2,\"b\":1}": {}})
        );
        for broken in [json!([]), json!({"x": {}}), json!({"k:1": {}}), json!({"i:x": {}}), json!({"f:a": 1})] {
            assert!(Set::from_value(&broken).is_none(), "{broken}");
        }
    }
}
