//! The end of an object: at once, after its grace, or when its finalizers let go.

use std::sync::Arc;

use copepod_api::{
    DeleteOptions, Object, Reply, Request, Status, StatusResult, Timestamp,
    request::Propagation,
    time::{self, SignedDuration},
};
use serde_json::{Value, json};

use super::{World, node_restriction, success, update::may_go};
use crate::{
    Row,
    asking::{self, Attempt},
    json,
    json::text,
};

/// Waits until the dependents are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// Waits until the dependents have forgotten this owner.
const ORPHAN: &str = "orphan";

pub fn delete(world: &mut World<'_>, row: &Row, request: &Request, options: &DeleteOptions) -> StatusResult<Reply> {
    let live = world.find(row, &request.target)?;
    node_restriction::check(row, request, None, Some(live.value()))?;
    asking::ask(world, &Attempt::of(row, request, Some(live.value())), &Value::Null)?;
    let left = delete_object(world, row, &live, options)?;
    let gone = world.view.object(&live.key).is_none();
    if gone && !row.hooks.returns_deleted {
        let mut status = success(None);
        let mut details = json!({"name": live.key.name(), "kind": row.kind.plural, "uid": live.meta.uid});
        if !row.kind.group.is_empty() {
            details["group"] = json!(row.kind.group);
        }
        status["details"] = details;
        let mut reply = world.reply_value(&status, false);
        reply.revision = left.revision;
        return Ok(reply);
    }
    Ok(world.reply(left, false))
}

/// Lets an object go; gives it as it stands now, or as it stood last.
pub(crate) fn delete_object(
    world: &mut World<'_>,
    row: &Row,
    live: &Arc<Object>,
    options: &DeleteOptions,
) -> StatusResult<Arc<Object>> {
    preconditions(live, options)?;
    (row.hooks.admit_delete)(world, live)?;
    let mut object = live.value().clone();
    let waits = finalizers(&mut object, options.propagation);
    let leaving = live.meta.is_leaving();
    let grace = row.hooks.grace.map_or(0, |grace| grace(live.value(), options.grace_period_seconds));

    let held = waits || (row.hooks.is_held)(&object);
    if !held && grace == 0 {
        // Who watches is shown what an object was last.
        if options.disruption.is_some() && !leaving {
            (row.hooks.leaving)(&mut object, options, world.now);
            let marked = super::store_update(world, row, live, &object)?;
            return world.remove(&marked);
        }
        return world.remove(live);
    }
    let since = match (live.meta.deletion_timestamp(), live.meta.deletion_grace_period_seconds()) {
        // The time of the first wish: a later wish can shorten the grace and never lengthen it.
        (Some(end), before) => {
            end.checked_sub(SignedDuration::from_secs(before.unwrap_or(0).max(0))).unwrap_or(world.now)
        }
        (None, _) => world.now,
    };
    let grace = match live.meta.deletion_grace_period_seconds() {
        Some(before) if leaving => grace.min(before),
        _ => grace,
    };
    if !leaving {
        (row.hooks.leaving)(&mut object, options, world.now);
    }
    mark(&mut object, since, grace, leaving);
    if may_go(row, &object) {
        return world.remove(live);
    }
    super::store_update(world, row, live, &object)
}

fn preconditions(live: &Object, options: &DeleteOptions) -> StatusResult<()> {
    let (resource, name) = (&live.key.resource, live.key.name());
    if let Some(uid) = options.uid.as_ref().filter(|uid| **uid != live.meta.uid) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.meta.uid);
        return Err(Status::conflict(resource, name, why));
    }
    if let Some(revision) = options.revision.filter(|revision| *revision != live.revision) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
            live.revision
        );
        return Err(Status::conflict(resource, name, why));
    }
    Ok(())
}

/// Puts the wish about dependents into the finalizers; says whether any finalizer holds the object.
fn finalizers(object: &mut Value, propagation: Option<Propagation>) -> bool {
    let mut kept: Vec<String> = json::items(object, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| propagation.is_none() || ![FOREGROUND, ORPHAN].contains(name))
        .map(str::to_owned)
        .collect();
    match propagation {
        Some(Propagation::Foreground) => kept.push(FOREGROUND.to_owned()),
        Some(Propagation::Orphan) => kept.push(ORPHAN.to_owned()),
        Some(Propagation::Background) | None => {}
    }
    let held = !kept.is_empty();
    if let Some(metadata) = json::object(object, "metadata") {
        match held {
            true => json::set(metadata, "finalizers", kept),
            false => json::remove(metadata, "finalizers"),
        }
    }
    held
}

fn mark(object: &mut Value, since: Timestamp, grace: i64, leaving: bool) {
    let Some(metadata) = json::object(object, "metadata") else { return };
    let end = since.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    json::set(metadata, "deletionTimestamp", time::rfc3339(end));
    json::set(metadata, "deletionGracePeriodSeconds", grace);
    if let (false, Some(generation)) = (leaving, json::number(metadata, "/generation")) {
        json::set(metadata, "generation", generation + 1);
    }
    debug_assert!(text(metadata, "/deletionTimestamp").is_some());
}
