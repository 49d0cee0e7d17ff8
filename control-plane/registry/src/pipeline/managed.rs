//! Who set which field: `metadata.managedFields`.

use copepod_api::Request;
use serde_json::Value;

use super::World;
use crate::{Row, json};

/// The name under which a writer's fields are remembered: the one it gave, or the first word of what it is.
pub fn manager_of(request: &Request) -> &str {
    match &*request.options.field_manager {
        "" => &request.user.name,
        name => name,
    }
}

/// Notes in `after` which fields this request set.
pub fn track(_world: &World<'_>, _row: &Row, _request: &Request, before: Option<&Value>, after: &mut Value) {
    let Some(metadata) = json::object(after, "metadata") else { return };
    match before.and_then(|before| before.get("metadata")) {
        Some(old) => json::take_over(metadata, "managedFields", old),
        None => json::remove(metadata, "managedFields"),
    }
}

/// Two objects that differ in nothing but the revision and the time at which fields were last set.
pub fn is_same(one: &Value, other: &Value) -> bool {
    fn without_times(object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata") {
            json::remove(metadata, "resourceVersion");
            for entry in json::each(metadata, "managedFields") {
                json::remove(entry, "time");
            }
        }
        object
    }
    without_times(one) == without_times(other)
}
