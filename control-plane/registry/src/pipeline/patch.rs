//! Changes that say only what changes. They are carried out on the newest object, so they do not conflict unless they
//! say what they rest on.

use copepod_api::{Kind, Patch, Reply, Request, Status, StatusResult};
use serde_json::Value;

use super::{
    World, check,
    update::{Tracking, replace},
};
use crate::Row;

pub fn patch(world: &mut World<'_>, row: &Row, request: &Request, patch: &Patch) -> StatusResult<Reply> {
    let live = world.find(&request.target.key())?;
    let changed = patched(&row.kind, live.value(), patch)?;
    let new = check::admit(world, row, request, &changed)?;
    let stored = replace(world, row, request, &live, new, Tracking::Update)?;
    Ok(world.reply(stored, false))
}

/// The document after a patch that is not an apply.
pub fn patched(_kind: &Kind, document: &Value, patch: &Patch) -> StatusResult<Value> {
    match patch {
        Patch::Merge(patch) => Ok(merge(document, patch)),
        _ => Err(Status::unsupported_media_type("only merge patches are understood")),
    }
}

fn merge(document: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut out = document.as_object().cloned().unwrap_or_default();
    for (field, change) in patch {
        if change.is_null() {
            out.remove(field);
        } else {
            let before = out.get(field).cloned().unwrap_or(Value::Null);
            out.insert(field.clone(), merge(&before, change));
        }
    }
    Value::Object(out)
}
