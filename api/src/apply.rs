//! Server-side apply: who owns which field of an object.
//!
//! Several parties write one object: a person its image, an autoscaler its replicas, a controller its status. Each
//! party states only what it cares about. The object remembers, in `metadata.managedFields`, which fields each of them
//! set last. With that, *apply* can merge what a party states into what is there, take away what the party stated
//! before and does not any more (unless somebody else owns it too), and refuse to overwrite what another one set, unless
//! forced. All other writes are *tracked*: whatever they change becomes theirs.
//!
//! Words: a *set* (`fields`) is a set of places in an object. A list is one place if it is atomic; otherwise each entry is
//! one, found by its key or value (`walk`, after the schema). Comparing two objects gives three sets: added, modified,
//! removed. Rules and sentences are Kubernetes' (KEP-555, structured-merge-diff).

mod combine;
mod entries;
mod fields;
mod walk;

use serde_json::Value;

use crate::{Schema, Status, Timestamp};
use entries::{Entry, Fields, Id, Managed, Operation};
use fields::Set;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// `kubectl`, or the first part of a client's user agent.
    pub name: String,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: String,
    /// The version that the client speaks: `apps/v1`.
    pub api_version: String,
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// What is applied cannot be merged: two entries of a list with the same key, an entry without its key.
    #[error("failed to create typed patch object: {0}")]
    Invalid(String),
    #[error("{}", entries::conflict_sentence(.0))]
    Conflicts(Vec<Conflict>),
}

/// A field that another manager owns and that would get another value.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// `"kubectl" using apps/v1`, as it stands in sentences.
    pub manager: String,
    /// `.spec.template.spec.containers[name="web"].image`.
    pub field: String,
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Status {
        let message = error.to_string();
        match error {
            ApplyError::Invalid(_) => Status::bad_request(message),
            ApplyError::Conflicts(conflicts) => {
                conflicts.iter().fold(Status::new(409, "Conflict", message), |status, conflict| {
                    let message = format!("conflict with {}", conflict.manager);
                    status.with_cause("FieldManagerConflict", &conflict.field, message)
                })
            }
        }
    }
}

/// Merges what a manager applies into the live object, and notes down who owns what.
///
/// Nulls in `applied` count as absent. The caller takes out of `applied` what the request may not touch (`status`, or
/// everything else on the `status` path), checks `metadata.resourceVersion` and `uid` where `applied` states them (the
/// result then carries those), and normalizes, defaults and validates the result. Applying the same thing twice gives
/// the same object, times included.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager,
    force: bool,
    now: Timestamp,
) -> Result<Value, ApplyError> {
    if applied
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| fields.as_array().is_none_or(|it| !it.is_empty()))
    {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    let root = schema.root();
    let mut applied = walk::without_nulls(applied);
    // Otherwise `cpu: 1000m` would be a change of the stored `cpu: "1"`.
    schema.normalize(&mut applied);
    let stated = walk::fields_of(root, &applied).map_err(ApplyError::Invalid)?.without(Set::unowned());
    let me = Id::new(manager, Operation::Apply);

    let Some(live) = live else {
        let mut object = applied;
        let mut managed = Managed::default();
        managed
            .set(me, Entry { api_version: manager.api_version.clone(), time: Some(now), fields: Fields::Read(stated) });
        managed.write(&mut object);
        return Ok(object);
    };
    let mut managed = Managed::of(live);
    // What states nothing belongs to nobody: an empty list that is merged, for one.
    let states_something = |fields: Set| !fields.without(Set::unowned()).is_empty();
    if managed.is_empty() && walk::fields_of(root, live).map_or(true, states_something) {
        managed.set(
            Id::before_first_apply(manager),
            Entry {
                api_version: manager.api_version.clone(),
                time: Some(now),
                fields: Fields::Read(walk::fields_of_lenient(root, live).without(Set::unowned())),
            },
        );
    }

    let mut merged = combine::merge(root, live, &applied);
    let last = managed.take(&me).map(|entry| (entry.time, entry.fields.into_set()));
    let kept = managed.all_fields().with(stated.clone());
    if let Some((_, last)) = &last {
        let dropped = last.with_parents(root).without(&kept.with_parents(root));
        merged = combine::remove(root, merged, &dropped, &kept);
    }

    let compared = walk::compare(root, Some(live), Some(&merged)).without(Set::unowned());
    let is_same = compared.is_empty();
    let touched = compared.added.with(compared.modified);
    if !force {
        let conflicts = managed.conflicts(&touched);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    managed.take_from_all(&touched);
    managed.take_from_all(&compared.removed);

    let is_unchanged = is_same && last.as_ref().is_some_and(|(_, last)| *last == stated);
    let time = last.filter(|_| is_unchanged).map_or(Some(now), |(time, _)| time);
    managed.set(me, Entry { api_version: manager.api_version.clone(), time, fields: Fields::Read(stated) });
    managed.write(&mut merged);
    Ok(merged)
}

/// Notes down in `after` who owns what, after a create (`before` is `None`), an update or a patch.
///
/// `after` is the object as it will be stored. Managed fields that it carries itself are the starting point, so that a
/// client can edit them; a list of one empty entry forgets all owners. Where nothing changed, nothing is noted.
pub fn track(schema: &Schema, before: Option<&Value>, after: &mut Value, manager: &Manager, now: Timestamp) {
    // Clients send back what they read, so most of the time nothing new is stated.
    let is_news = before.is_none_or(|before| managed_fields(before) != managed_fields(after));
    let stated = if is_news { Managed::stated_by(after) } else { None };
    let mut managed = stated.or_else(|| before.map(Managed::of)).unwrap_or_default();
    let root = schema.root();
    let compared = walk::compare(root, before, Some(after)).without(Set::unowned());

    if !compared.is_empty() {
        let me = Id::new(manager, Operation::Update);
        let mine = managed.take(&me).map(|entry| entry.fields.into_set()).unwrap_or_default();
        let touched = compared.added.with(compared.modified);
        managed.take_from_all(&touched);
        managed.take_from_all(&compared.removed);
        let fields = mine.with(touched).without(&compared.removed);
        let fields = Fields::Read(fields);
        managed.set(me, Entry { api_version: manager.api_version.clone(), time: Some(now), fields });
        managed.forget_ancient();
    }
    managed.write(after);
}

fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

#[cfg(test)]
mod tests;
