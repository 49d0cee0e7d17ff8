//! Who set which field: `metadata.managedFields`.

use copepod_api::{
    Request,
    apply::{self, Manager},
};
use serde_json::{Map, Value};

use super::World;
use crate::Row;

/// Under which name a request's fields are remembered: the one it gave, or who it is.
pub fn manager(row: &Row, request: &Request) -> Manager {
    let name = match &*request.options.field_manager {
        "" => request.user.name.to_string(),
        name => name.to_owned(),
    };
    Manager { name, subresource: request.target.subresource.to_string(), api_version: row.kind.api_version() }
}

/// Notes in `after` which fields this request set.
pub fn track(world: &World<'_>, row: &Row, request: &Request, before: Option<&Value>, after: &mut Value) {
    apply::track(row.schema(), before, after, &manager(row, request), world.now);
}

/// Two objects that differ in nothing but the revision and the time at which fields were last set.
pub fn is_same(one: &Value, other: &Value) -> bool {
    // The spec or the status decides most cases, without a copy of anything.
    let fields = |object: &Value| object.as_object().map_or(0, serde_json::Map::len);
    if fields(one) != fields(other) {
        return false;
    }
    let differs = one
        .as_object()
        .into_iter()
        .flatten()
        .any(|(field, value)| field != "metadata" && other.get(field) != Some(value));
    !differs && is_same_metadata(one.get("metadata"), other.get("metadata"))
}

fn is_same_metadata(one: Option<&Value>, other: Option<&Value>) -> bool {
    let (Some(one), Some(other)) = (one.and_then(Value::as_object), other.and_then(Value::as_object)) else {
        return one == other;
    };
    is_same_but(one, other, "resourceVersion", |field, one, other| match (one, other) {
        (Value::Array(one), Value::Array(other)) if field == "managedFields" => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same_entry(one, other))
        }
        _ => one == other,
    })
}

fn is_same_entry(one: &Value, other: &Value) -> bool {
    match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) => is_same_but(one, other, "time", |_, one, other| one == other),
        _ => one == other,
    }
}

/// Whether two maps have the same fields, one of which does not count.
fn is_same_but(
    one: &Map<String, Value>,
    other: &Map<String, Value>,
    left_out: &str,
    is_same: impl Fn(&str, &Value, &Value) -> bool,
) -> bool {
    let count = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(left_out));
    let is_found = |(field, value): (&String, &Value)| {
        field == left_out || other.get(field).is_some_and(|other| is_same(field, value, other))
    };
    count(one) == count(other) && one.iter().all(is_found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json;

    #[test]
    fn revisions_and_times_make_no_difference() {
        let object = |revision: &str, time: &str, manager: &str| {
            let entry = json!({"manager": manager, "time": time});
            json!({"kind": "A", "metadata": {"name": "a", "resourceVersion": revision, "managedFields": [entry]}})
        };
        let one = object("1", "t1", "m");
        assert!(is_same(&one, &one) && is_same(&one, &object("2", "t2", "m")));
        assert!(!is_same(&one, &object("1", "t1", "n")));
        let with = |path: &str, value: Value| {
            let mut other = one.clone();
            let (parent, field) = path.rsplit_once('/').unwrap();
            other.pointer_mut(parent).unwrap()[field] = value;
            other
        };
        for (path, value) in [
            ("/metadata/name", json!("b")),
            ("/metadata/labels", json!({})),
            ("/metadata/managedFields", json!([])),
            ("/metadata/managedFields", json!({})),
            ("/kind", json!("B")),
            ("/spec", json!({})),
        ] {
            let other = with(path, value);
            assert!(!is_same(&one, &other) && !is_same(&other, &one), "{path}");
        }
        let mut without = one.clone();
        json::remove(&mut without["metadata"], "resourceVersion");
        assert!(is_same(&one, &without) && is_same(&without, &one));
        json::remove(&mut without, "metadata");
        assert!(!is_same(&one, &without) && !is_same(&without, &one) && is_same(&without, &without));
    }
}
