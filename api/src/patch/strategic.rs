//! Kubernetes' strategic merge patch: a merge patch that knows which lists are merged, and by which key.
//!
//! Besides values a patch may hold directives: `$patch: replace | delete | merge` in a map or in an entry of a list,
//! `$retainKeys: [names]`, `$setElementOrder/<list>: [keys]` and `$deleteFromPrimitiveList/<list>: [values]`. What is
//! merged and by what comes from the schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Place, Schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

pub fn strategic(schema: &Schema, document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(document), Value::Object(patch)) = (document, patch) else {
        return Err(PatchError::malformed("a strategic merge patch is an object, and changes one"));
    };
    merge_map(schema.root(), document.clone(), patch).map(Value::Object)
}

fn merge_map(place: Place<'_>, mut target: Object, patch: &Object) -> Result<Object, PatchError> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => (),
        Some("delete") => return Ok(Object::new()),
        Some("replace") => {
            let mut replaced = patch.clone();
            replaced.remove(PATCH);
            return Ok(replaced);
        }
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut target, patch, retained)?;
    }
    for (directive, values) in patch {
        if let Some(name) = directive.strip_prefix(DELETE) {
            let deleted = list_of(values, directive)?;
            let deleted: BTreeSet<String> = deleted.iter().map(Value::to_string).collect();
            if let Some(Value::Array(list)) = target.get_mut(name) {
                list.retain(|value| !deleted.contains(&value.to_string()));
            }
        }
    }
    for (name, value) in patch {
        if is_directive(name) {
            continue;
        }
        if value.is_null() {
            target.remove(name);
            continue;
        }
        let inner = place.field(name);
        let merged = match (target.remove(name), value) {
            (None, value) => without_directives(value),
            (Some(Value::Object(old)), Value::Object(new)) if !inner.patch().is_replaced => {
                Value::Object(merge_map(inner, old, new)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if inner.patch().is_merged => {
                let order = patch.get(&format!("{ORDER}{name}")).map(|order| list_of(order, name)).transpose()?;
                Value::Array(merge_list(inner, name, old, new, order)?)
            }
            (Some(_), value) => without_directives(value),
        };
        target.insert(name.clone(), merged);
    }
    // An order may be given for a list that the patch does not touch otherwise.
    for (directive, order) in patch {
        let Some(name) = directive.strip_prefix(ORDER) else { continue };
        let order = list_of(order, directive)?;
        let inner = place.field(name);
        if let (Some(Value::Array(list)), false) = (target.get_mut(name), patch.contains_key(name)) {
            let server = list.clone();
            *list = in_order(std::mem::take(list), order, &server, inner.patch().key.as_deref());
        }
    }
    Ok(target)
}

fn retain_keys(target: &mut Object, patch: &Object, retained: &Value) -> Result<(), PatchError> {
    let retained = list_of(retained, RETAIN_KEYS)?;
    let retained: BTreeSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let is_retained = |name: &str| retained.contains(name);
    if let Some((name, _)) =
        patch.iter().find(|(name, value)| !is_directive(name) && !value.is_null() && !is_retained(name))
    {
        return Err(PatchError::malformed(format!(
            "{RETAIN_KEYS} must name all fields of the patch, {name:?} is missing"
        )));
    }
    target.retain(|name, _| is_retained(name));
    Ok(())
}

fn merge_list(
    place: Place<'_>,
    name: &str,
    old: Vec<Value>,
    new: &[Value],
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, PatchError> {
    let key = place.patch().key.as_deref();
    let order = order.map_or(new, Vec::as_slice);
    if !old.iter().chain(new).any(Value::is_object) {
        let mut seen = BTreeSet::new();
        let mut merged: Vec<Value> = old.iter().chain(new).cloned().collect();
        merged.retain(|value| seen.insert(value.to_string()));
        return Ok(in_order(merged, order, &old, None));
    }
    let Some(key) = key else {
        return Err(PatchError::unfit(format!("cannot merge lists without merge key for {name}")));
    };

    // Entries that are directives come first: they say what becomes of the old list.
    let mut entries: Vec<&Object> = Vec::new();
    let mut deleted = BTreeSet::new();
    let mut is_replaced = false;
    for value in new {
        let Value::Object(entry) = value else {
            return Err(PatchError::malformed(format!("the entries of {name} must be objects")));
        };
        match entry.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None | Some("merge") => entries.push(entry),
            Some("replace") => is_replaced = true,
            Some("delete") => {
                deleted.insert(key_of(entry, key, name)?.to_string());
            }
            Some(other) => return Err(unknown_directive(other)),
        }
    }
    if is_replaced {
        return Ok(entries.into_iter().map(|entry| without_directives(&Value::Object(entry.clone()))).collect());
    }

    let mut merged = old.clone();
    merged.retain(|value| !deleted.contains(&identity(value, Some(key))));
    let mut known = positions(&merged, Some(key));
    for entry in entries {
        let wanted = key_of(entry, key, name)?.to_string();
        match known.get(&wanted).and_then(|at| merged.get_mut(*at)) {
            Some(Value::Object(found)) => *found = merge_map(place.items(), std::mem::take(found), entry)?,
            _ => {
                known.insert(wanted, merged.len());
                merged.push(without_directives(&Value::Object(entry.clone())));
            }
        }
    }
    Ok(in_order(merged, order, &old, Some(key)))
}

/// Entries that `order` names stand in its order; the others in the order they had on the server, woven in where they
/// stood relative to the named ones.
fn in_order(list: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let (order, server) = (positions(order, key), positions(server, key));
    let place = |value: &Value| server.get(&identity(value, key)).copied();
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut others: Vec<(Option<usize>, Value)> = Vec::new();
    for value in list {
        match order.get(&identity(&value, key)) {
            Some(at) => named.push((*at, value)),
            None => others.push((place(&value), value)),
        }
    }
    named.sort_by_key(|(at, _)| *at);
    others.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));

    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().map(|(_, value)| value).peekable();
    for (at, other) in others {
        while let Some(next) = named.peek() {
            if matches!((at, place(next)), (Some(other), Some(next)) if other < next) {
                break;
            }
            out.extend(named.next());
        }
        out.push(other);
    }
    out.extend(named);
    out
}

/// What makes an entry the same entry: its key, or its value. As text, so that it can be looked up: lists come from
/// anybody and may be long, and comparing all with all would let one patch stop the world.
fn identity(value: &Value, key: Option<&str>) -> String {
    match key {
        Some(key) => value.get(key).map(Value::to_string).unwrap_or_default(),
        None => value.to_string(),
    }
}

/// Where each entry stands first.
fn positions(list: &[Value], key: Option<&str>) -> BTreeMap<String, usize> {
    let mut positions = BTreeMap::new();
    for (at, value) in list.iter().enumerate() {
        positions.entry(identity(value, key)).or_insert(at);
    }
    positions
}

fn key_of<'a>(entry: &'a Object, key: &str, name: &str) -> Result<&'a Value, PatchError> {
    entry
        .get(key)
        .ok_or_else(|| PatchError::malformed(format!("an entry of {name} does not contain declared merge key: {key}")))
}

fn list_of<'a>(value: &'a Value, directive: &str) -> Result<&'a Vec<Value>, PatchError> {
    value.as_array().ok_or_else(|| PatchError::malformed(format!("{directive} takes a list")))
}

fn is_directive(name: &str) -> bool {
    name.starts_with('$')
        && (name == PATCH || name == RETAIN_KEYS || name.starts_with(ORDER) || name.starts_with(DELETE))
}

fn unknown_directive(directive: &str) -> PatchError {
    PatchError::malformed(format!("unknown patch type found: {directive:?} is not one of merge, replace, delete"))
}

/// What a patch adds where nothing was: its values, without nulls and directives.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(name, value)| !is_directive(name) && !value.is_null())
                .map(|(name, value)| (name.clone(), without_directives(value)))
                .collect(),
        ),
        Value::Array(list) => {
            let is_kept =
                |value: &&Value| !matches!(value.get(PATCH).and_then(Value::as_str), Some("delete" | "replace"));
            Value::Array(list.iter().filter(is_kept).map(without_directives).collect())
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::testing;

    fn pod(patch: Value) -> Value {
        let pod = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}}, "spec": {
            "containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}], "args": ["1"]},
                {"name": "b", "image": "1"}, {"name": "c", "image": "1"}],
            "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {"a": "1"}}});
        strategic(&Schema::of(&testing::pod()), &pod, &patch).unwrap()
    }

    /// `a:1 b:2`: names and images.
    fn containers(patch: Value) -> String {
        let pod = pod(patch);
        let list = pod["spec"]["containers"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        list.iter().map(|it| format!("{}:{}", text(&it["name"]), text(&it["image"]))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lists_with_a_key_are_merged_by_it() {
        let table = [
            (json!([{"name": "b", "image": "2"}]), "a:1 b:2 c:1"),
            (json!([{"name": "d", "image": "2"}]), "d:2 a:1 b:1 c:1"),
            (json!([{"name": "b", "$patch": "delete"}]), "a:1 c:1"),
            (json!([{"$patch": "replace"}, {"name": "d", "image": "2"}]), "d:2"),
            (json!([{"name": "c", "image": null}]), "a:1 b:1 c:-"),
            (json!([{"name": "c", "$patch": "replace", "image": "3"}]), ""),
        ];
        for (patch, expected) in table {
            assert_eq!(containers(json!({"spec": {"containers": patch}})), expected);
        }
        let patched =
            pod(json!({"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}], "args": ["2"]}]}}));
        let a = &patched["spec"]["containers"][0];
        assert_eq!(a["env"].as_array().unwrap().len(), 2);
        assert_eq!(a["args"], json!(["2"]));
        assert_eq!(a["image"], "1");
    }

    #[test]
    fn the_order_of_entries_can_be_set() {
        let order = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
        let patch = json!({"spec": {"$setElementOrder/containers": order(&["c", "a", "d"]), "containers": [{"name": "d", "image": "2"}]}});
        assert_eq!(containers(patch), "b:1 c:1 a:1 d:2");
        let patch = json!({"spec": {"$setElementOrder/containers": order(&["c", "b", "a"])}});
        assert_eq!(containers(patch), "c:1 b:1 a:1");
    }

    #[test]
    fn maps_primitive_lists_and_directives() {
        let patched = pod(json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"],
            "labels": {"x": null, "y": "2"}}, "spec": {"nodeSelector": {"$patch": "replace", "b": "2"},
            "volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}}));
        assert_eq!(patched["metadata"], json!({"finalizers": ["c", "b"], "labels": {"y": "2"}}));
        assert_eq!(patched["spec"]["nodeSelector"], json!({"b": "2"}));
        assert_eq!(patched["spec"]["volumes"], json!([{"name": "v", "secret": {"secretName": "s"}}]));
        assert_eq!(pod(json!({"spec": {"$patch": "delete"}}))["spec"], json!({}));
        assert_eq!(
            pod(json!({"status": {"a": null, "$patch": "merge", "b": [{"$patch": "delete"}]}}))["status"],
            json!({"b": []})
        );
    }

    #[test]
    fn broken_patches_are_refused() {
        let schema = Schema::of(&testing::pod());
        let document = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        for patch in [
            json!([]),
            json!({"spec": {"$patch": "explode"}}),
            json!({"spec": {"containers": [{"image": "1"}]}}),
            json!({"spec": {"containers": ["a"]}}),
            json!({"spec": {"containers": [{"name": "a", "$patch": 1}]}}),
            json!({"spec": {"$setElementOrder/containers": {}}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "secret": {}}]}}),
        ] {
            assert!(strategic(&schema, &document, &patch).is_err(), "{patch}");
        }
    }

    #[test]
    fn long_lists_take_no_longer_than_they_must() {
        let list = |suffix: &str| (0..20_000).map(|n| json!({"name": format!("{suffix}{n}")})).collect::<Value>();
        let pod = |env: Value| json!({"spec": {"containers": [{"name": "a", "env": env}]}});
        let patched = strategic(&Schema::of(&testing::pod()), &pod(list("a")), &pod(list("b"))).unwrap();
        assert_eq!(patched["spec"]["containers"][0]["env"].as_array().unwrap().len(), 40_000);
    }

    proptest::proptest! {
        /// Values without directives say how things are to be, so saying it twice changes nothing.
        #[test]
        fn twice_is_once(
            before in proptest::collection::btree_map(0..6u8, 0..3u8, 0..6),
            patch in proptest::collection::btree_map(0..6u8, 0..3u8, 0..6),
            finalizers in proptest::collection::btree_set(0..4u8, 0..4),
        ) {
            let containers = |all: &BTreeMap<u8, u8>| all
                .iter()
                .map(|(name, image)| json!({"name": name.to_string(), "image": image.to_string()}))
                .collect::<Value>();
            let finalizers: Value = finalizers.iter().map(u8::to_string).collect();
            let document = json!({"metadata": {"finalizers": ["0", "9"]}, "spec": {"containers": containers(&before)}});
            let patch = json!({"metadata": {"finalizers": finalizers}, "spec": {"containers": containers(&patch)}});
            let schema = Schema::of(&testing::pod());
            let once = strategic(&schema, &document, &patch).unwrap();
            proptest::prop_assert_eq!(&strategic(&schema, &once, &patch).unwrap(), &once);
        }
    }
}
