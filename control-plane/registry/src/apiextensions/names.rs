//! Whether the names of a definition are free, and what its status says of that.

use copepod_api::time;
use serde_json::{Value, json};

use crate::{
    Catalog, json as fields,
    pipeline::World,
    rules::{at, list_at, text_at},
};

/// Holds a leaving definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The status of a definition, from the state of the cluster.
pub fn settle(world: &World<'_>, definition: &mut Value) {
    let conflict = conflict(world, definition);
    let now = time::rfc3339(world.now);
    let wanted = at(definition, "spec.names").clone();
    let storage: Vec<Value> = list_at(definition, "spec.versions")
        .iter()
        .filter(|version| at(version, "storage") == true)
        .map(|version| json!(text_at(version, "name")))
        .collect();
    let Some(status) = fields::object(definition, "status") else { return };
    let mut stored = list_at(status, "storedVersions").to_vec();
    stored.extend(storage.into_iter().filter(|version| !list_at(status, "storedVersions").contains(version)));
    fields::set(status, "storedVersions", stored);
    match conflict {
        None => {
            fields::set(status, "acceptedNames", wanted);
            condition(status, "NamesAccepted", "True", "NoConflicts", "no conflicts found", &now);
            condition(
                status,
                "Established",
                "True",
                "InitialNamesAccepted",
                "the initial names have been accepted",
                &now,
            );
        }
        Some((reason, message)) => {
            fields::default(status, "acceptedNames", json!({"kind": "", "plural": ""}));
            condition(status, "NamesAccepted", "False", reason, &message, &now);
            // What is served already stays served under the names that it had.
            let is_established = list_at(status, "conditions")
                .iter()
                .any(|condition| text_at(condition, "type") == "Established" && text_at(condition, "status") == "True");
            if !is_established {
                condition(status, "Established", "False", "NotAccepted", "not all names are accepted", &now);
            }
        }
    }
}

/// Somebody else has one of the names in this group.
fn conflict(world: &World<'_>, definition: &Value) -> Option<(&'static str, String)> {
    let (own, group) = (text_at(definition, "metadata.name"), text_at(definition, "spec.group"));
    let names = at(definition, "spec.names");
    let catalog = Catalog::of(&world.view);
    let others =
        catalog.rows().iter().filter(|row| row.kind.group == group && format!("{}.{group}", row.kind.plural) != own);
    let mut shorts: Vec<&str> = list_at(names, "shortNames").iter().filter_map(Value::as_str).collect();
    shorts.extend([text_at(names, "plural"), text_at(names, "singular")]);
    for other in others {
        let kind = &other.kind;
        let taken = |name: &&&str| {
            kind.plural == **name || kind.singular == **name || kind.short.iter().any(|short| short == *name)
        };
        if let Some(name) = shorts.iter().find(taken) {
            return Some(("PluralConflict", format!("{name:?} is already in use")));
        }
        if kind.name == text_at(names, "kind") {
            return Some(("KindConflict", format!("{:?} is already in use", kind.name)));
        }
    }
    None
}

/// Sets a condition; its time is that of its last change.
fn condition(status: &mut Value, type_: &str, value: &str, reason: &str, message: &str, now: &str) {
    let mut conditions = list_at(status, "conditions").to_vec();
    let new = |since: &str| json!({"type": type_, "status": value, "reason": reason, "message": message, "lastTransitionTime": since});
    match conditions.iter_mut().find(|condition| text_at(condition, "type") == type_) {
        Some(old) => {
            let since = if text_at(old, "status") == value { text_at(old, "lastTransitionTime") } else { now };
            *old = new(since);
        }
        None => conditions.push(new(now)),
    }
    fields::set(status, "conditions", conditions);
}
