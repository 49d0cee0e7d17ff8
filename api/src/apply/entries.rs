//! `metadata.managedFields`: the owners of an object's fields, read and written.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value, json};

use super::{Conflict, Manager, fields::Set};
use crate::{Timestamp, time};

/// How many managers of plain updates are remembered, as in Kubernetes; older ones become `ancient-changes`. An object
/// updated by ever new clients would grow without end.
const UPDATE_MANAGERS_MAX: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// What makes an owner the same owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    operation: Operation,
    manager: String,
    /// Empty for those who apply: they are the same in every version.
    api_version: String,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub api_version: String,
    pub time: Option<Timestamp>,
    pub fields: Set,
}

#[derive(Clone, Debug, Default)]
pub struct Managed {
    entries: BTreeMap<Id, Entry>,
}

impl Id {
    pub fn new(manager: &Manager, operation: Operation) -> Id {
        Id {
            operation,
            manager: manager.name.clone(),
            api_version: if operation == Operation::Apply { String::new() } else { manager.api_version.clone() },
            subresource: manager.subresource.clone(),
        }
    }

    /// Who owns what was there when nobody kept books.
    pub fn before_first_apply(manager: &Manager) -> Id {
        let name = "before-first-apply".to_owned();
        Id::new(&Manager { name, subresource: String::new(), ..manager.clone() }, Operation::Update)
    }
}

impl Managed {
    /// The owners that an object names. Entries that cannot be read are left out.
    pub fn of(object: &Value) -> Managed {
        let mut managed = Managed::default();
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            if let Some((id, entry)) = read(entry) {
                managed.set(id, entry);
            }
        }
        managed
    }

    /// The owners that a written object states: `None` if it states none, or broken ones.
    pub fn stated_by(object: &Value) -> Option<Managed> {
        let list = object["metadata"]["managedFields"].as_array().filter(|list| !list.is_empty())?;
        if let [Value::Object(only)] = list.as_slice()
            && only.is_empty()
        {
            return Some(Managed::default());
        }
        let entries: Option<BTreeMap<Id, Entry>> = list.iter().map(read).collect();
        Some(Managed { entries: entries? })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Owners of nothing are not kept.
    pub fn set(&mut self, id: Id, entry: Entry) {
        if !entry.fields.is_empty() {
            self.entries.insert(id, entry);
        }
    }

    pub fn take(&mut self, id: &Id) -> Option<Entry> {
        self.entries.remove(id)
    }

    pub fn take_from_all(&mut self, fields: &Set) {
        if fields.is_empty() {
            return;
        }
        for entry in self.entries.values_mut() {
            entry.fields = entry.fields.without(fields);
        }
        self.entries.retain(|_, entry| !entry.fields.is_empty());
    }

    pub fn all_fields(&self) -> Set {
        let mut all = Set::default();
        self.entries.values().for_each(|entry| all.add(&entry.fields));
        all
    }

    pub fn conflicts(&self, touched: &Set) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (id, entry) in &self.entries {
            for field in entry.fields.intersection(touched).paths() {
                conflicts.push(Conflict { manager: printed(id), field });
            }
        }
        conflicts.sort_by(|a, b| (&a.manager, &a.field).cmp(&(&b.manager, &b.field)));
        conflicts
    }

    /// Holds the number of remembered managers of updates within its bound.
    pub fn forget_ancient(&mut self) {
        let mut updates: Vec<(Option<Timestamp>, Id)> = self
            .entries
            .iter()
            .filter(|(id, _)| id.operation == Operation::Update)
            .map(|(id, entry)| (entry.time, id.clone()))
            .collect();
        if updates.len() <= UPDATE_MANAGERS_MAX {
            return;
        }
        updates.sort();
        // One more than is over the bound goes, because the ancient ones get an entry themselves.
        let n_ancient = updates.len() - UPDATE_MANAGERS_MAX + 1;
        for (_, id) in updates.into_iter().take(n_ancient) {
            let Some(entry) = self.entries.remove(&id) else { continue };
            let id = Id { manager: "ancient-changes".to_owned(), subresource: String::new(), ..id };
            match self.entries.get_mut(&id) {
                Some(ancient) => {
                    ancient.fields.add(&entry.fields);
                    ancient.time = ancient.time.max(entry.time);
                }
                None => drop(self.entries.insert(id, entry)),
            }
        }
    }

    /// Writes the entries in Kubernetes' order: by operation, time, manager, version and subresource.
    pub fn write(&self, object: &mut Value) {
        let Some(object) = object.as_object_mut() else { return };
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        let Some(metadata) = metadata.as_object_mut() else { return };
        if self.entries.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        let mut entries: Vec<(&Id, &Entry)> = self.entries.iter().collect();
        entries.sort_by_key(|(id, entry)| {
            (id.operation, entry.time.map(Timestamp::as_second), &id.manager, &entry.api_version, &id.subresource)
        });
        let entries = entries.into_iter().map(|(id, entry)| {
            let mut written = json!({
                "manager": id.manager,
                "operation": if id.operation == Operation::Apply { "Apply" } else { "Update" },
                "apiVersion": entry.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": entry.fields.to_value(),
            });
            if let Some(at) = entry.time {
                written["time"] = time::rfc3339(at).into();
            }
            if !id.subresource.is_empty() {
                written["subresource"] = id.subresource.clone().into();
            }
            written
        });
        metadata.insert("managedFields".to_owned(), entries.collect());
    }
}

fn read(entry: &Value) -> Option<(Id, Entry)> {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let operation = match entry["operation"].as_str()? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    if entry["fieldsType"].as_str().is_some_and(|fields_type| fields_type != "FieldsV1") {
        return None;
    }
    let manager = Manager { name: text("manager"), subresource: text("subresource"), api_version: text("apiVersion") };
    let id = Id::new(&manager, operation);
    let fields = match &entry["fieldsV1"] {
        Value::Null => Set::default(),
        fields => Set::from_value(fields)?,
    };
    let time = entry["time"].as_str().and_then(|time| time.parse().ok());
    Some((id, Entry { api_version: manager.api_version, time, fields }))
}

/// A manager as it stands in sentences: `"kubectl" with subresource "status" using apps/v1`.
fn printed(id: &Id) -> String {
    let mut out = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        write!(out, " with subresource {:?}", id.subresource).expect("writing to a String cannot fail");
    }
    if id.operation == Operation::Update {
        write!(out, " using {}", id.api_version).expect("writing to a String cannot fail");
    }
    out
}

pub fn conflict_sentence(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.field);
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.manager).or_default().push(&conflict.field);
    }
    let told: Vec<String> = by_manager
        .into_iter()
        .map(|(manager, fields)| format!("conflicts with {manager}:\n- {}", fields.join("\n- ")))
        .collect();
    format!("Apply failed with {} conflicts: {}", conflicts.len(), told.join("\n"))
}
