//! Changes that say only what changes. They are carried out on the newest object, so they do not conflict unless they
//! say what they rest on.

use copepod_api::{Patch, Reply, Request, Status, StatusResult, patch as patches, schema::Schema};
use serde_json::Value;

use super::{
    World, check,
    update::{Tracking, replace},
};
use crate::Row;

pub fn patch(world: &mut World<'_>, row: &Row, request: &Request, patch: &Patch) -> StatusResult<Reply> {
    let live = world.find(&request.target.key())?;
    let changed = patched(row.schema(), live.value(), patch)?;
    let new = check::admit(world, row, request, &changed)?;
    let stored = replace(world, row, request, &live, new, Tracking::Update)?;
    Ok(world.reply(stored, false))
}

/// The document after a patch that is not an apply.
pub fn patched(schema: &Schema, document: &Value, patch: &Patch) -> StatusResult<Value> {
    match patch {
        Patch::Json(patch) => Ok(patches::json(document, patch)?),
        Patch::Merge(patch) => Ok(patches::merge(document, patch)),
        Patch::Strategic(patch) => Ok(patches::strategic(schema, document, patch)?),
        Patch::Apply(_) => Err(Status::unsupported_media_type("server-side apply is not understood here")),
    }
}
