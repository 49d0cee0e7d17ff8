//! `metadata.managedFields`: the owners of an object's fields, read and written.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value};

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

#[derive(Clone, Debug)]
pub struct Entry {
    pub api_version: String,
    pub time: Option<Timestamp>,
    pub fields: Fields,
}

/// The fields of one owner. Most writes leave most owners alone, so what an object carries is read when it has to be.
#[derive(Clone, Debug)]
pub enum Fields {
    /// As it stands in a stored object, whose steps are canonical.
    Written(Value),
    Read(Set),
}

impl Fields {
    fn is_empty(&self) -> bool {
        match self {
            Fields::Written(value) => value.as_object().is_none_or(Map::is_empty),
            Fields::Read(set) => set.is_empty(),
        }
    }

    pub fn into_set(self) -> Set {
        match self {
            Fields::Written(value) => Set::from_value(&value).unwrap_or_default(),
            Fields::Read(set) => set,
        }
    }

    fn to_set(&self) -> Cow<'_, Set> {
        match self {
            Fields::Written(value) => Cow::Owned(Set::from_value(value).unwrap_or_default()),
            Fields::Read(set) => Cow::Borrowed(set),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Fields::Written(value) => value,
            Fields::Read(set) => set.into_value(),
        }
    }

    fn remove(&mut self, gone: &Set) {
        if let Fields::Written(value) = self {
            if !gone.meets(value) {
                return;
            }
            *self = Fields::Read(std::mem::replace(self, Fields::Read(Set::default())).into_set());
        }
        if let Fields::Read(set) = self {
            set.remove(gone);
        }
    }
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
    /// The owners that a stored object names.
    pub fn of(object: &Value) -> Managed {
        let mut managed = Managed::default();
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            if let Some((id, entry)) = read(entry, |fields| Some(Fields::Written(fields.clone()))) {
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
        let entries: Option<BTreeMap<Id, Entry>> =
            list.iter().map(|entry| read(entry, |fields| Set::from_value(fields).map(Fields::Read))).collect();
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
            entry.fields.remove(fields);
        }
        self.entries.retain(|_, entry| !entry.fields.is_empty());
    }

    pub fn all_fields(&self) -> Set {
        let mut all = Set::default();
        self.entries.values().for_each(|entry| all.add(entry.fields.to_set().into_owned()));
        all
    }

    pub fn conflicts(&self, touched: &Set) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (id, entry) in &self.entries {
            for field in entry.fields.to_set().intersection(touched).paths() {
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
                    let all = ancient.fields.to_set().into_owned().with(entry.fields.into_set());
                    ancient.fields = Fields::Read(all);
                    ancient.time = ancient.time.max(entry.time);
                }
                None => drop(self.entries.insert(id, entry)),
            }
        }
    }

    /// Writes the entries in Kubernetes' order: by operation, time, manager, version and subresource.
    pub fn write(self, object: &mut Value) {
        let Some(object) = object.as_object_mut() else { return };
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        let Some(metadata) = metadata.as_object_mut() else { return };
        if self.entries.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        let mut entries: Vec<(Id, Entry)> = self.entries.into_iter().collect();
        entries.sort_by(|(one, its), (other, theirs)| {
            let order = |id: &Id, entry: &Entry| (id.operation, entry.time.map(Timestamp::as_second));
            let then = |id: &Id, entry: &Entry| [&id.manager, &entry.api_version, &id.subresource].map(String::clone);
            order(one, its).cmp(&order(other, theirs)).then_with(|| then(one, its).cmp(&then(other, theirs)))
        });
        let entries = entries.into_iter().map(|(id, entry)| {
            let operation = if id.operation == Operation::Apply { "Apply" } else { "Update" };
            let mut written = Map::new();
            let mut say = |field: &str, value: Value| drop(written.insert(field.to_owned(), value));
            say("manager", id.manager.into());
            say("operation", operation.into());
            say("apiVersion", entry.api_version.into());
            say("fieldsType", "FieldsV1".into());
            say("fieldsV1", entry.fields.into_value());
            if let Some(at) = entry.time {
                say("time", time::rfc3339(at).into());
            }
            if !id.subresource.is_empty() {
                say("subresource", id.subresource.into());
            }
            Value::Object(written)
        });
        metadata.insert("managedFields".to_owned(), entries.collect());
    }
}

fn read(entry: &Value, fields: impl Fn(&Value) -> Option<Fields>) -> Option<(Id, Entry)> {
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
        Value::Null => Fields::Read(Set::default()),
        written => fields(written)?,
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
