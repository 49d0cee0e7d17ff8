//! A changed object, or its changed status.

use std::sync::Arc;

use copepod_api::{Object, Reply, Request, Status, StatusResult};
use serde_json::Value;

use super::{World, check, managed, node_restriction, statuses};
use crate::{
    Row,
    admission::{self, Write},
    asking::{self, Attempt},
    json,
    json::text,
};

pub fn update(world: &mut World<'_>, row: &Row, request: &Request, sent: &Value) -> StatusResult<Reply> {
    if statuses::is_about_status(row, request)
        && let Ok(live) = world.find(row, &request.target)
        && statuses::is_same_beside(live.value(), sent)
    {
        let new = statuses::admitted(world, row, request, live.value(), statuses::stated(sent))?;
        let stored = replace(world, row, request, &live, new, Tracking::Update)?;
        return Ok(world.reply(stored, false));
    }
    let new = check::admit(world, row, request, sent)?;
    let live = world.find(row, &request.target)?;
    let stored = replace(world, row, request, &live, new, Tracking::Update)?;
    Ok(world.reply(stored, false))
}

/// How `metadata.managedFields` comes about.
#[derive(Clone, Copy)]
pub enum Tracking {
    /// From the difference between the old and the new object.
    Update,
    /// The new object carries it already (server-side apply).
    Done,
}

/// Puts `new` in the place of `live`, as far as the request may: a status request touches the status, any other request
/// everything else.
pub fn replace(
    world: &mut World<'_>,
    row: &Row,
    request: &Request,
    live: &Arc<Object>,
    mut new: Value,
    tracking: Tracking,
) -> StatusResult<Arc<Object>> {
    let old = live.value();
    preconditions(row, live, &new)?;
    row.fill(&mut new);
    let attempt = Attempt::of(row, request, Some(old));
    // What a Scale says was asked about as a Scale.
    let is_asked = attempt.is_of_kind();
    if is_asked {
        asking::mutate(world, &attempt, &mut new)?;
    }
    isolate(row, &request.target.subresource, &mut new, old);
    let is_of_status = &*request.target.subresource == "status" || row.part(&request.target.subresource).is_some();
    if is_of_status {
        (row.hooks.stamp)(world, request, &mut new);
    }
    row.fill(&mut new);
    (row.hooks.guard)(world, request, &new, Some(old))?;
    node_restriction::check(row, request, Some(&new), Some(old))?;
    if !is_of_status {
        (row.hooks.admit_update)(world, &mut new, live)?;
    }
    count_generation(row, &mut new, old);
    check::validate(row, &new, Some(old), row.opening(&request.target.subresource))?;
    let write = Write { row, request, old: Some(old) };
    admission::judge(world, &write, &new)?;
    if is_asked {
        asking::validate(world, &attempt, &new)?;
    }
    admission::charge(world, &write, &new)?;
    if matches!(tracking, Tracking::Update) {
        managed::track(world, row, request, Some(old), &mut new);
    }
    store_update(world, row, live, &new)
}

/// Stores a finished object: nothing where nothing changed, and the end of it where nothing holds it any more.
pub(crate) fn store_update(
    world: &mut World<'_>,
    row: &Row,
    live: &Arc<Object>,
    new: &Value,
) -> StatusResult<Arc<Object>> {
    if managed::is_same(new, live.value()) {
        return Ok(live.clone());
    }
    if may_go(row, new) {
        // Watchers are shown the object as it was last; what this request changed on it goes with it.
        return world.remove(live);
    }
    world.replace(row, live, new)
}

/// A leaving object that nothing holds: no finalizer, no grace, nothing of its kind's own.
pub fn may_go(row: &Row, object: &Value) -> bool {
    text(object, "/metadata/deletionTimestamp").is_some()
        && json::items(object, "/metadata/finalizers").is_empty()
        && json::number(object, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !(row.hooks.is_held)(object)
}

fn preconditions(row: &Row, live: &Object, new: &Value) -> StatusResult<()> {
    let resource = &live.key.resource;
    if let Some(uid) = text(new, "/metadata/uid").filter(|uid| *uid != live.meta.uid) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.meta.uid);
        return Err(Status::conflict(resource, live.key.name(), why));
    }
    match text(new, "/metadata/resourceVersion") {
        Some(revision) if revision == live.revision.to_string() => Ok(()),
        Some(revision) if revision.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(Status::changed_meanwhile(resource, live.key.name()))
        }
        Some(revision) => {
            let mut errors = copepod_api::field::Errors::default();
            errors.invalid("metadata.resourceVersion", revision, "must be the number of a revision, or absent");
            Err(Status::invalid(&row.kind, live.key.name(), errors))
        }
        None if row.hooks.revision_required => {
            let mut errors = copepod_api::field::Errors::default();
            errors.invalid("metadata.resourceVersion", "", "must be specified for an update");
            Err(Status::invalid(&row.kind, live.key.name(), errors))
        }
        None => Ok(()),
    }
}

/// Takes back what this request may not touch.
fn isolate(row: &Row, subresource: &str, new: &mut Value, old: &Value) {
    if let Some(opening) = row.opening(subresource) {
        *new = opening.changed(old, new);
        return;
    }
    const SYSTEM: &[&str] =
        &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"];
    let old_metadata = old.get("metadata").unwrap_or(&Value::Null);
    if let Some(metadata) = json::object(new, "metadata") {
        for field in SYSTEM {
            json::take_over(metadata, field, old_metadata);
        }
        json::remove(metadata, "selfLink");
        json::remove(metadata, "resourceVersion");
        if subresource == "status" || row.part(subresource).is_some() {
            // Labels and annotations may travel with a status; who owns the object and what holds it may not.
            json::take_over(metadata, "ownerReferences", old_metadata);
            json::take_over(metadata, "finalizers", old_metadata);
        }
    }
    if let Some(part) = row.part(subresource) {
        let stated = new.get("status").cloned().unwrap_or(Value::Null);
        json::take_over(new, "status", old);
        if let Some(status) = json::object(new, "status") {
            json::take_over(status, part, &stated);
        }
    }
    if subresource == "status" || row.part(subresource).is_some() {
        let fields: Vec<String> = [&*new, old]
            .into_iter()
            .filter_map(Value::as_object)
            .flat_map(|map| map.keys().cloned())
            .filter(|field| field != "metadata" && field != "status")
            .collect();
        for field in fields {
            json::take_over(new, &field, old);
        }
    } else if row.has_status() {
        json::take_over(new, "status", old);
    }
}

/// The generation counts what the user wants: everything but metadata and status.
fn count_generation(row: &Row, new: &mut Value, old: &Value) {
    if !row.hooks.generation {
        return;
    }
    let fields: Vec<&str> = [&*new, old]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|map| map.keys().map(String::as_str))
        .filter(|field| *field != "metadata" && *field != "status")
        .collect();
    let annotations = |object: &'_ Value| object.pointer("/metadata/annotations").cloned();
    let is_wanted_otherwise = fields.iter().any(|field| new.get(field) != old.get(field))
        || row.hooks.generation_counts_annotations && annotations(new) != annotations(old);
    if is_wanted_otherwise {
        let generation = json::number(old, "/metadata/generation").unwrap_or(0) + 1;
        if let Some(metadata) = json::object(new, "metadata") {
            json::set(metadata, "generation", generation);
        }
    }
}
