//! Who set which field: `metadata.managedFields`.

use copepod_api::{
    Request,
    apply::{self, Manager},
};
use serde_json::Value;

use super::World;
use crate::{Row, json};

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
    !differs && without_times(one.get("metadata")) == without_times(other.get("metadata"))
}

fn without_times(metadata: Option<&Value>) -> Option<Value> {
    let mut metadata = metadata?.clone();
    json::remove(&mut metadata, "resourceVersion");
    for entry in json::each(&mut metadata, "managedFields") {
        json::remove(entry, "time");
    }
    Some(metadata)
}
