//! A kind and what makes it different.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use copepod_api::{
    Kind, Object, Reply, Request, Scope, Status, Subresource, Timestamp, Typed, field::Errors, kind::SchemaSource,
    resource, schema::Schema,
};
use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::{age, json::text, pipeline::World};

pub const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A kind and what makes it different.
pub struct Row {
    pub kind: Kind,
    /// What can be done with the collection and its objects, as discovery names it.
    pub verbs: &'static [&'static str],
    pub(crate) hooks: Hooks,
    schema: OnceLock<Arc<Schema>>,
}

/// A column of a table, as `meta.k8s.io/v1 Table` describes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    pub name: &'static str,
    /// `string` or `integer`.
    pub kind: &'static str,
    /// `name` for the column of names.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown; the rest with `-o wide`.
    pub priority: i32,
}

/// What a row may do differently. A row states only the fields that differ from `Hooks::NONE`.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    /// Fills in what the client left out. Runs on every write of the object and must be idempotent.
    pub default: fn(&mut Value),
    /// Refuses content that this user may not write, though they may write the object: new, and old for updates.
    pub guard: fn(&World<'_>, &Request, &Value, Option<&Value>) -> Result<(), Status>,
    /// Admission and allocation at creation; may write other objects of the same transaction.
    pub admit: fn(&mut World<'_>, &mut Value) -> Result<(), Status>,
    /// The same for updates: the new object and the one that it replaces.
    pub admit_update: fn(&mut World<'_>, &mut Value, &Object) -> Result<(), Status>,
    /// All that is wrong with an object; the error of the result says that it does not decode at all.
    pub validate: fn(&Value, &mut Errors) -> Result<(), String>,
    /// What may not change: new, old.
    pub validate_update: fn(&Value, &Value, &mut Errors),
    /// What else is created with an object.
    pub created: fn(&mut World<'_>, &Object) -> Result<(), Status>,
    /// Refuses a deletion.
    pub admit_delete: fn(&World<'_>, &Object) -> Result<(), Status>,
    /// Runs on an object that begins to leave.
    pub leaving: fn(&mut Value),
    /// Something besides `metadata.finalizers` holds a leaving object.
    pub is_held: fn(&Value) -> bool,
    /// Seconds between the wish to delete and the end; `None`: at once.
    pub grace: Option<fn(&Value, Option<i64>) -> i64>,
    /// Subresources with a meaning of their own: `binding`, `eviction`.
    pub actions: &'static [(&'static str, Handler)],
    /// The fields that selectors may name besides `metadata.name` and `metadata.namespace`, and how to read them.
    pub fields: &'static [(&'static str, Read)],
    pub columns: &'static [Column],
    pub cells: fn(&Object, Timestamp) -> Vec<Value>,
    /// `metadata.generation` counts the changes of what the user wants.
    pub generation: bool,
    /// Changed annotations count as well.
    pub generation_counts_annotations: bool,
    /// A deletion is answered with the object instead of a Status.
    pub returns_deleted: bool,
    /// The status a client sends with a new object is kept (a node registers with it).
    pub keeps_status: bool,
    /// An update must say which revision it rests on.
    pub revision_required: bool,
    /// How the names of this kind are checked.
    pub name_rule: fn(&str) -> Result<(), String>,
    /// It has `spec.replicas`, `spec.selector` and `status.replicas`, and with that a scale.
    pub scale: bool,
}

/// Reads a field as the text that selectors compare.
pub(crate) type Read = fn(&Value) -> Option<String>;

pub(crate) type Handler = fn(&mut World<'_>, &Row, &Request) -> Result<Reply, Status>;

impl Hooks {
    pub const NONE: Hooks = Hooks {
        default: |_| (),
        guard: |_, _, _, _| Ok(()),
        admit: |_, _| Ok(()),
        admit_update: |_, _, _| Ok(()),
        validate: |_, _| Ok(()),
        validate_update: |_, _, _| (),
        created: |_, _| Ok(()),
        admit_delete: |_, _| Ok(()),
        leaving: |_| (),
        is_held: |_| false,
        grace: None,
        actions: &[],
        fields: &[],
        columns: &[NAME, AGE],
        cells: |object, now| vec![name(object), age(object, now)],
        generation: false,
        generation_counts_annotations: false,
        returns_deleted: false,
        keeps_status: false,
        revision_required: false,
        name_rule: copepod_api::names::dns_subdomain,
        scale: false,
    };
}

pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name is unique within a namespace and cannot be changed.",
    priority: 0,
};
pub const AGE: Column = column("Age", "string", "The time since the object was created.");

pub const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

pub const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 1 }
}

pub fn name(object: &Object) -> Value {
    json!(object.key.name())
}

pub fn age(object: &Object, now: Timestamp) -> Value {
    json!(age::since(object.meta.creation_timestamp, now))
}

/// A kind whose objects are a `T`.
pub(crate) fn kind<T: Typed + JsonSchema>(
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    scope: Scope,
    subresources: &'static [Subresource],
) -> Kind {
    Kind {
        group: T::GROUP.into(),
        version: T::VERSION.into(),
        name: T::KIND.into(),
        plural: plural.into(),
        singular: singular.into(),
        short: Cow::Borrowed(short),
        categories: Cow::Borrowed(&[]),
        scope,
        subresources: Cow::Borrowed(subresources),
        schema: SchemaSource::Type(T::json_schema),
    }
}

/// `kubectl get all` shows it.
pub(crate) fn in_all(mut kind: Kind) -> Kind {
    kind.categories = Cow::Borrowed(&["all"]);
    kind
}

pub(crate) const STATUS: Subresource = Subresource { name: "status", kind: None, verbs: &["get", "patch", "update"] };
pub(crate) const SCALE: Subresource =
    Subresource { name: "scale", kind: Some(("autoscaling", "v1", "Scale")), verbs: &["get", "patch", "update"] };

impl Row {
    pub(crate) fn new(kind: Kind, hooks: Hooks) -> Row {
        Row { kind, verbs: VERBS, hooks, schema: OnceLock::new() }
    }

    pub(crate) fn with_verbs(mut self, verbs: &'static [&'static str]) -> Row {
        self.verbs = verbs;
        self
    }

    /// The columns of this kind in a table, as upstream prints them.
    pub fn table_columns(&self) -> &'static [Column] {
        self.hooks.columns
    }

    /// One cell a column.
    pub fn table_row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        // A copy, so that a table does not leave every object of its list decoded in memory.
        (self.hooks.cells)(&object.at(object.revision), now)
    }

    /// The value of a field for selectors; `None` where selectors may not name it. A field that is not set is empty.
    pub fn field(&self, object: &Object, field: &str) -> Option<String> {
        match field {
            "metadata.name" => Some(object.key.name().to_owned()),
            "metadata.namespace" => Some(object.key.namespace().to_owned()),
            "spec.nodeName" if object.key.resource == resource::PODS => {
                Some(object.node.as_deref().unwrap_or_default().to_owned())
            }
            _ => {
                let (_, read) = self.hooks.fields.iter().find(|(name, _)| *name == field)?;
                let decoded = serde_json::from_slice(object.bytes()).unwrap_or(Value::Null);
                Some(read(&decoded).unwrap_or_default())
            }
        }
    }

    /// The fields that selectors may name.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        ["metadata.name", "metadata.namespace"].into_iter().chain(self.hooks.fields.iter().map(|(name, _)| *name))
    }

    /// The object as an `autoscaling/v1 Scale`, where it can be scaled.
    pub fn scale(&self, object: &Object) -> Option<Value> {
        self.hooks
            .scale
            .then(|| crate::pipeline::scale_of(object.at(object.revision).value(), &object.revision.to_string()))
    }

    /// The verbs of a subresource.
    pub fn subresource_verbs(&self, name: &str) -> &'static [&'static str] {
        self.kind.subresource(name).map_or(&[], |subresource| subresource.verbs)
    }

    pub(crate) fn has_status(&self) -> bool {
        self.kind.subresource("status").is_some()
    }

    /// The schema of this kind; made when first asked for.
    pub fn schema(&self) -> &Arc<Schema> {
        self.schema.get_or_init(|| Schema::of(&self.kind))
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.api_version(), self.kind.plural)
    }
}

/// Reads a text at a JSON pointer, for `Hooks::fields`.
pub(crate) fn field_text(value: &Value, pointer: &str) -> Option<String> {
    text(value, pointer).map(str::to_owned)
}
