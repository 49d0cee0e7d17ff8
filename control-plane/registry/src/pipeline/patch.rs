//! Changes that say only what changes. They are carried out on the newest object, so they do not conflict unless they
//! say what they rest on.

use std::sync::Arc;

use copepod_api::{Object, Patch, Reply, Request, Status, StatusResult, apply, patch as patches, schema::Schema};
use serde_json::Value;

use super::{
    World, check,
    create::create_admitted,
    managed, statuses,
    update::{Tracking, replace},
};
use crate::{Row, json, json::text};

pub fn patch(world: &mut World<'_>, row: &Row, request: &Request, patch: &Patch) -> StatusResult<Reply> {
    if let Patch::Apply(sent) = patch {
        let stated = check::admit(world, row, request, sent)?;
        let live = world.find(row, &request.target).ok();
        let stored = apply_to(world, row, request, live.as_ref(), stated)?;
        return Ok(world.reply(stored, live.is_none()));
    }
    let live = world.find(row, &request.target)?;
    let new = match patch {
        Patch::Merge(patch) if is_of_status_alone(row, request, patch) => {
            let stated = patches::merge(statuses::stated(live.value()), patch);
            statuses::admitted(world, row, request, live.value(), stated)?
        }
        _ => {
            let changed = patched(row.schema(), live.value(), patch)?;
            check::admitted(world, row, request, changed)?
        }
    };
    let stored = replace(world, row, request, &live, new, Tracking::Update)?;
    Ok(world.reply(stored, false))
}

fn is_of_status_alone(row: &Row, request: &Request, patch: &Value) -> bool {
    statuses::is_about_status(row, request)
        && patch.as_object().is_some_and(|patch| patch.keys().all(|field| statuses::is_of_status(field)))
}

/// The document after a patch that is not an apply.
pub fn patched(schema: &Schema, document: &Value, patch: &Patch) -> StatusResult<Value> {
    match patch {
        Patch::Json(patch) => Ok(patches::json(document, patch)?),
        Patch::Merge(patch) => Ok(patches::merge(document.clone(), patch)),
        Patch::Strategic(patch) => Ok(patches::strategic(schema, document, patch)?),
        Patch::Apply(_) => Err(Status::unsupported_media_type("an apply patch needs an object to be merged into")),
    }
}

/// Merges what a manager states into the object, or creates it from that.
pub fn apply_to(
    world: &mut World<'_>,
    row: &Row,
    request: &Request,
    live: Option<&Arc<Object>>,
    mut stated: Value,
) -> StatusResult<Arc<Object>> {
    if request.options.field_manager.is_empty() {
        let why = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(Status::new(422, "Invalid", why));
    }
    own_part(row, &request.target.subresource, &mut stated);
    let manager = managed::manager(row, request);
    let force = request.options.force;
    let before = live.map(|live| live.value());
    let merged = apply::apply(row.schema(), before, &stated, &manager, force, world.now)?;
    match live {
        Some(live) => replace(world, row, request, live, merged, Tracking::Done),
        None => {
            let (resource, name) = (row.kind.resource(), &request.target.name);
            if let Some(uid) = text(&stated, "/metadata/uid") {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                return Err(Status::conflict(&resource, name, why));
            }
            if !request.target.subresource.is_empty() || text(&stated, "/metadata/resourceVersion").is_some() {
                return Err(Status::not_found(&resource, name));
            }
            create_admitted(world, row, request, merged, Tracking::Done)
        }
    }
}

/// Leaves of what is stated only what this path may touch, so that nobody comes to own what it cannot set.
fn own_part(row: &Row, subresource: &str, stated: &mut Value) {
    if let Some(opening) = row.opening(subresource) {
        *stated = opening.stated(stated);
    } else if subresource == "status" {
        if let Some(map) = stated.as_object_mut() {
            map.retain(|field, _| statuses::is_of_status(field));
        }
    } else if row.has_status() {
        json::remove(stated, "status");
    }
}
