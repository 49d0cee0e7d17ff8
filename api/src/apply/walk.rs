//! Walks objects along their schema: which places they have, and in which two of them differ.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{Set, Step, field, write_step};
use crate::schema::{ListType, Place};

/// In what two objects differ.
#[derive(Debug, Default, PartialEq)]
pub struct Compared {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Compared {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    pub fn without(self, set: &Set) -> Compared {
        Compared {
            added: self.added.without(set),
            modified: self.modified.without(set),
            removed: self.removed.without(set),
        }
    }

    fn set_child(&mut self, step: Step, child: Compared) {
        for (own, child) in [(&mut self.modified, child.modified), (&mut self.removed, child.removed)] {
            if !child.is_empty() {
                own.set_child(step.clone(), child);
            }
        }
        self.added.set_child(step, child.added);
    }
}

/// A value that has one owner as a whole.
pub fn is_leaf(place: Place<'_>, value: &Value) -> bool {
    match value {
        Value::Object(_) => place.is_atomic(),
        Value::Array(_) => *place.list() == ListType::Atomic,
        _ => true,
    }
}

/// The places that an applied object states. Fails where lists cannot be merged.
pub fn fields_of(place: Place<'_>, object: &Value) -> Result<Set, String> {
    let mut set = Set::default();
    collect(place, object, &mut set, &mut Vec::new())?;
    Ok(set)
}

/// The places of a live object; a list in it that cannot be merged is one place.
pub fn fields_of_lenient(place: Place<'_>, object: &Value) -> Set {
    compare(place, None, Some(object)).added
}

fn collect(place: Place<'_>, value: &Value, set: &mut Set, path: &mut Vec<Step>) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                collect_below(place.field(name), field(name), value, !place.has_field(name), set, path)?;
            }
        }
        Value::Array(list) => {
            let mut seen = BTreeSet::new();
            for (at, value) in list.iter().enumerate() {
                let step = entry_step(place, value).map_err(|why| format!("{}: element {at}: {why}", written(path)))?;
                if !seen.insert(step.clone()) {
                    let mut key = String::new();
                    write_step(&mut key, &step);
                    return Err(format!("{}: duplicate entries for key {key}", written(path)));
                }
                collect_below(place.items(), step, value, true, set, path)?;
            }
        }
        _ => (),
    }
    Ok(())
}

fn collect_below(
    place: Place<'_>,
    step: Step,
    value: &Value,
    is_member: bool,
    set: &mut Set,
    path: &mut Vec<Step>,
) -> Result<(), String> {
    let is_empty = value.as_object().is_some_and(Map::is_empty);
    if is_member || is_empty || is_leaf(place, value) {
        set.members.insert(step.clone());
    }
    if !is_leaf(place, value) {
        let mut child = Set::default();
        path.push(step.clone());
        collect(place, value, &mut child, path)?;
        path.pop();
        set.set_child(step, child);
    }
    Ok(())
}

fn written(path: &[Step]) -> String {
    let mut out = String::new();
    path.iter().for_each(|step| write_step(&mut out, step));
    out
}

/// How an entry of a list that is not atomic is found.
pub fn entry_step(place: Place<'_>, entry: &Value) -> Result<Step, String> {
    match place.list() {
        ListType::Map(keys) => {
            let Value::Object(entry) = entry else {
                return Err("associative list with keys may not have non-map elements".to_owned());
            };
            let mut key = Map::new();
            for (name, default) in keys {
                match entry.get(&**name).filter(|value| !value.is_null()).or(default.as_ref()) {
                    Some(value @ (Value::Object(_) | Value::Array(_))) => {
                        return Err(format!("key field {name:?} must be a scalar, not {value}"));
                    }
                    Some(value) => drop(key.insert(name.to_string(), value.clone())),
                    None => (),
                }
            }
            if key.is_empty() {
                let names: Vec<&str> = keys.iter().map(|(name, _)| &**name).collect();
                return Err(format!(
                    "associative list with keys has an element that omits key field {:?} (and doesn't have default value)",
                    names.join(", ")
                ));
            }
            Ok(format!("k:{}", Value::Object(key)).into())
        }
        _ => Ok(format!("v:{entry}").into()),
    }
}

/// The entries of a list by their steps; those with equal steps stand together. `None` for a list that has to be taken
/// as a whole.
pub fn entries<'a>(place: Place<'_>, list: &'a [Value]) -> Option<BTreeMap<Step, Vec<&'a Value>>> {
    let mut entries: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for value in list {
        entries.entry(entry_step(place, value).ok()?).or_default().push(value);
    }
    Some(entries)
}

pub fn compare(place: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Compared {
    let mut compared = Compared::default();
    if old == new {
        return compared;
    }
    if let (None | Some(Value::Object(_)), None | Some(Value::Object(_))) = (old, new) {
        let empty = Map::new();
        let old = old.and_then(Value::as_object).unwrap_or(&empty);
        let new = new.and_then(Value::as_object).unwrap_or(&empty);
        for (name, new) in new {
            compare_child(place.field(name), Way::Field(name), old.get(name), Some(new), &mut compared);
        }
        for (name, old) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
            compare_child(place.field(name), Way::Field(name), Some(old), None, &mut compared);
        }
    }
    compared
}

/// A step to a child, not yet written down: most children are the same, and nobody asks for theirs.
enum Way<'a> {
    Field(&'a str),
    Entry(&'a Step),
}

impl Way<'_> {
    fn step(self) -> Step {
        match self {
            Way::Field(name) => field(name),
            Way::Entry(step) => step.clone(),
        }
    }
}

fn compare_child(place: Place<'_>, way: Way<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Compared) {
    let (old, new) = (old.filter(|value| !value.is_null()), new.filter(|value| !value.is_null()));
    if old == new {
        return;
    }
    let step = way.step();
    match (old, new) {
        (None, Some(_)) => drop(out.added.members.insert(step.clone())),
        (Some(_), None) => drop(out.removed.members.insert(step.clone())),
        _ => (),
    }
    let either = [old, new].into_iter().flatten();
    if either.clone().any(|value| is_leaf(place, value)) {
        if old.is_some() && new.is_some() {
            out.modified.members.insert(step);
        }
        return;
    }
    if either.clone().all(Value::is_object) {
        out.set_child(step, compare(place, old, new));
        return;
    }
    fn list_of(value: Option<&Value>) -> Option<&[Value]> {
        match value {
            None => Some(&[][..]),
            Some(value) => value.as_array().map(Vec::as_slice),
        }
    }
    let (Some(old_list), Some(new_list)) = (list_of(old), list_of(new)) else {
        // An object became a list, or a list an object.
        out.modified.members.insert(step);
        return;
    };
    let (Some(old_entries), Some(new_entries)) = (entries(place, old_list), entries(place, new_list)) else {
        if old.is_some() && new.is_some() {
            out.modified.members.insert(step);
        }
        return;
    };
    let mut inner = Compared::default();
    let steps: BTreeSet<&Step> = old_entries.keys().chain(new_entries.keys()).collect();
    for step in steps {
        let old = old_entries.get(step).map(Vec::as_slice).unwrap_or_default();
        let new = new_entries.get(step).map(Vec::as_slice).unwrap_or_default();
        compare_child(place.items(), Way::Entry(step), old.first().copied(), new.first().copied(), &mut inner);
        // Old objects may hold entries twice; a change among those is one of all of them.
        if !old.is_empty() && !new.is_empty() && old[1..] != new[1..] {
            inner.modified.members.insert(step.clone());
        }
    }
    out.set_child(step, inner);
}

/// Nulls in what is applied mean nothing: there is `null` in the output of many templates.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        value => value.clone(),
    }
}
