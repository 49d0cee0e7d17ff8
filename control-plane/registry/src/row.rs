//! A kind and what makes it different.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use copepod_api::{
    DeleteOptions, Key, Kind, Object, Reply, Request, Resource, Scope, Status, StatusResult, Subresource, Target,
    Timestamp, Typed,
    field::Errors,
    kind::{SchemaSource, Text},
    resource,
    schema::Schema,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    age,
    apiextensions::{Converter, Definition},
    json::text,
    jsonpath::JsonPath,
    opening::Opening,
    pipeline::World,
};

pub const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A kind and what makes it different.
pub struct Row {
    pub kind: Kind,
    /// What can be done with the collection and its objects, as discovery names it.
    pub verbs: &'static [&'static str],
    pub(crate) hooks: Hooks,
    /// What a definition says of it, where a user defined it.
    definition: Option<Definition>,
    /// How its objects are stored, where that is not how they are shown here.
    stored: Option<Stored>,
    /// How the bytes of an object begin that is stored as it is shown here.
    head: Vec<u8>,
    schema: OnceLock<Arc<Schema>>,
}

/// Where the number of replicas stands in an object that can be scaled.
pub struct ScalePaths {
    pub spec: JsonPath,
    pub status: JsonPath,
    /// A selector as text; without it, the selector of labels in the spec counts.
    pub selector: Option<JsonPath>,
}

/// The version of a kind that is stored, seen from another: several versions, and now and then another group, show the
/// same objects.
pub(crate) struct Stored {
    pub resource: Resource,
    pub api_version: String,
    /// What is stored, from what is shown here; `apiVersion` is set by the pipeline.
    pub store: fn(&mut Value),
    /// What is shown here, from what is stored.
    pub show: fn(&mut Value),
}

/// A column of a table, as `meta.k8s.io/v1 Table` describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Text,
    /// `string` or `integer`.
    pub kind: Text,
    /// `name` for the column of names.
    pub format: Text,
    pub description: Text,
    /// 0 is always shown; the rest with `-o wide`.
    pub priority: i32,
}

/// What a row may do differently. A row states only the fields that differ from `Hooks::NONE`.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    /// Fills in what the client left out. Runs on every write of the object and must be idempotent.
    pub default: fn(&mut Value),
    /// Writes down what the request says beside the object: who asks, and when. At creation, and after an update has been
    /// cut down to what its path may touch.
    pub stamp: fn(&World<'_>, &Request, &mut Value),
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
    /// What may not change in the status: new, old.
    pub validate_status: fn(&Value, &Value, &mut Errors),
    /// What else is created with an object.
    pub created: fn(&mut World<'_>, &Object) -> Result<(), Status>,
    /// Refuses a deletion.
    pub admit_delete: fn(&World<'_>, &Object) -> Result<(), Status>,
    /// Runs on an object that begins to leave, with the options of the deletion and the time.
    pub leaving: fn(&mut Value, &DeleteOptions, Timestamp),
    /// Something besides `metadata.finalizers` holds a leaving object.
    pub is_held: fn(&Value) -> bool,
    /// Seconds between the wish to delete and the end; `None`: at once.
    pub grace: Option<fn(&Value, Option<i64>) -> i64>,
    /// Subresources with a meaning of their own: `binding`, `eviction`.
    pub actions: &'static [(&'static str, Handler)],
    /// Subresources that touch a field of the status and nothing else, with the name of that field.
    pub parts: &'static [(&'static str, &'static str)],
    /// Subresources that touch certain fields of the spec and nothing else.
    pub openings: &'static [Opening],
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
        validate_status: |_, _, _| (),
        stamp: |_, _, _| (),
        parts: &[],
        openings: &[],
        created: |_, _| Ok(()),
        admit_delete: |_, _| Ok(()),
        leaving: |_, _, _| (),
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
    name: Cow::Borrowed("Name"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed("Name is unique within a namespace and cannot be changed."),
    priority: 0,
};
pub const AGE: Column = column("Age", "string", "The time since the object was created.");

/// Kinds without columns of their own say when, and not how long ago.
pub const CREATED_AT: Column = Column {
    name: Cow::Borrowed("Created At"),
    kind: Cow::Borrowed("date"),
    format: Cow::Borrowed(""),
    description: Cow::Borrowed("The time at which the object was created."),
    priority: 0,
};

pub const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed(kind),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(description),
        priority: 0,
    }
}

pub const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed("string"),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(description),
        priority: 1,
    }
}

pub fn name(object: &Object) -> Value {
    json!(object.key.name())
}

pub fn created_at(object: &Object) -> Value {
    json!(object.meta.creation_timestamp.map(copepod_api::time::rfc3339))
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
        short: short.iter().map(|name| Cow::Borrowed(*name)).collect(),
        categories: Vec::new(),
        scope,
        subresources: subresources.to_vec(),
        schema: SchemaSource::Type(T::json_schema),
    }
}

/// `kubectl get all` shows it.
pub(crate) fn in_all(mut kind: Kind) -> Kind {
    kind.categories = vec![Cow::Borrowed("all")];
    kind
}

pub(crate) const STATUS: Subresource = Subresource { name: "status", kind: None, verbs: &["get", "patch", "update"] };
/// What `proxy` subresources allow: all that HTTP has.
pub(crate) const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

pub(crate) const SCALE: Subresource =
    Subresource { name: "scale", kind: Some(("autoscaling", "v1", "Scale")), verbs: &["get", "patch", "update"] };

impl Row {
    pub(crate) fn new(kind: Kind, hooks: Hooks) -> Row {
        let head = format!("{{\"apiVersion\":\"{}\",", kind.api_version()).into_bytes();
        Row { kind, verbs: VERBS, hooks, definition: None, stored: None, head, schema: OnceLock::new() }
    }

    pub(crate) fn defined_by(mut self, definition: Definition) -> Row {
        self.definition = Some(definition);
        self
    }

    /// Defined by a user: its schema states more than types.
    pub(crate) fn is_custom(&self) -> bool {
        self.definition.is_some()
    }

    /// Its definition is on its way out.
    pub(crate) fn is_closing(&self) -> bool {
        self.definition.as_ref().is_some_and(|definition| definition.is_leaving)
    }

    /// Says what is wrong with an object by the rules in CEL of its definition, where it has one.
    pub(crate) fn judge(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        if let Some(definition) = &self.definition {
            definition.judge(object, old, errors);
        }
    }

    /// Fills in what the client left out.
    pub(crate) fn fill(&self, object: &mut Value) {
        if self.is_custom() {
            self.schema().fill_defaults(object);
        }
        (self.hooks.default)(object);
    }

    /// Where replicas stand, where it can be scaled.
    pub(crate) fn scale_paths(&self) -> Option<&ScalePaths> {
        static BUILT_IN: std::sync::LazyLock<Option<ScalePaths>> = std::sync::LazyLock::new(|| {
            let path = |text: &str| JsonPath::parse(text).ok();
            Some(ScalePaths { spec: path(".spec.replicas")?, status: path(".status.replicas")?, selector: None })
        });
        match &self.definition {
            Some(definition) => definition.scale.as_ref(),
            None => BUILT_IN.as_ref().filter(|_| self.hooks.scale),
        }
    }

    /// Another view of objects that are stored as those of another row.
    pub(crate) fn stored_as(mut self, stored: Stored) -> Row {
        self.stored = Some(stored);
        self
    }

    /// Where the objects are kept.
    pub fn resource(&self) -> Resource {
        self.stored.as_ref().map_or_else(|| self.kind.resource(), |stored| stored.resource.clone())
    }

    pub(crate) fn key(&self, target: &Target) -> Key {
        Key::new(self.resource(), target.namespace.clone(), target.name.clone())
    }

    /// A stored object as this row shows it: itself, but for those that are stored in another version, or were before their
    /// definition stated a default.
    pub fn show(&self, object: &Arc<Object>) -> Arc<Object> {
        let fills = self.definition.as_ref().is_some_and(|definition| definition.fills);
        // Looked into here and again by whoever shows it.
        let object = &object.open();
        if !fills && object.bytes().starts_with(&self.head) {
            return object.clone();
        }
        let mut value: Value = serde_json::from_slice(&object.bytes()).unwrap_or(Value::Null);
        let own = self.kind.api_version();
        if text(&value, "/apiVersion") == Some(&own) {
            // Its first field may be another one, which comes before in the alphabet.
            if !fills {
                return object.clone();
            }
            let stored = value.clone();
            self.schema().fill_defaults(&mut value);
            let is_whole = value == stored;
            return if is_whole {
                object.clone()
            } else {
                object.said(&value).map_or_else(|_| object.clone(), Arc::new)
            };
        }
        if fills {
            self.schema().fill_defaults(&mut value);
        }
        if let Some(stored) = &self.stored {
            (stored.show)(&mut value);
        }
        crate::json::set(&mut value, "apiVersion", own);
        object.said(&value).map_or_else(|_| object.clone(), Arc::new)
    }

    /// Who must be asked where objects of one version are to become objects of another.
    pub fn converter(&self) -> Option<&Converter> {
        self.definition.as_ref().and_then(|definition| definition.converter.as_deref())
    }

    /// Who must be asked before this stored object can be shown here.
    pub fn converter_for(&self, object: &Object) -> Option<&Converter> {
        let converter = self.converter()?;
        let text = object.bytes();
        let is_own = || version_of(&text).is_some_and(|version| version == self.kind.api_version());
        (!text.starts_with(&self.head) && !is_own()).then_some(converter)
    }

    /// A stored object as this row shows it, by what a webhook made of it.
    pub fn adopt(&self, object: &Object, mut converted: Value) -> StatusResult<Arc<Object>> {
        self.schema().prune(&mut converted);
        let shown = object.said(&converted).map_err(Status::internal)?;
        Ok(self.show(&Arc::new(shown)))
    }

    pub(crate) fn is_stored_version(&self) -> bool {
        self.stored.is_none()
    }

    /// The version in which objects are stored.
    pub(crate) fn stored_version(&self) -> Cow<'_, str> {
        match &self.stored {
            Some(stored) => Cow::Borrowed(&stored.api_version),
            None => Cow::Owned(self.kind.api_version()),
        }
    }

    /// The same as a value, for those who look at one and keep nothing.
    fn shown(&self, object: &Object) -> Value {
        let text = object.bytes();
        let mut value: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        if let Some(stored) = self.stored.as_ref().filter(|_| !text.starts_with(&self.head)) {
            (stored.show)(&mut value);
        }
        value
    }

    /// An object of this row as another row of the same kind shows it.
    pub(crate) fn converted(&self, object: &Value, to: &Row) -> Value {
        let mut value = self.store(object).into_owned();
        if let Some(stored) = &to.stored {
            (stored.show)(&mut value);
        }
        crate::json::set(&mut value, "apiVersion", to.kind.api_version());
        value
    }

    /// The object as it is to be stored.
    pub(crate) fn store<'v>(&self, shown: &'v Value) -> Cow<'v, Value> {
        let Some(stored) = &self.stored else { return Cow::Borrowed(shown) };
        let mut value = shown.clone();
        (stored.store)(&mut value);
        crate::json::set(&mut value, "apiVersion", stored.api_version.as_str());
        Cow::Owned(value)
    }

    pub(crate) fn with_verbs(mut self, verbs: &'static [&'static str]) -> Row {
        self.verbs = verbs;
        self
    }

    /// The columns of this kind in a table, as upstream prints them.
    pub fn table_columns(&self) -> &[Column] {
        self.definition.as_ref().map_or(self.hooks.columns, |definition| &definition.columns)
    }

    /// One cell a column.
    pub fn table_row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        // A copy, so that a table does not leave every object of its list decoded in memory.
        let object = object.apart();
        match &self.definition {
            Some(definition) => definition.cells(&object, now),
            None => (self.hooks.cells)(&object, now),
        }
    }

    /// The value of a field for selectors; `None` where selectors may not name it. A field that is not set is empty.
    pub fn field(&self, object: &Object, field: &str) -> Option<String> {
        match field {
            "metadata.name" => Some(object.key.name().to_owned()),
            "metadata.namespace" => Some(object.key.namespace().to_owned()),
            "spec.nodeName" if object.key.resource == resource::PODS => {
                Some(object.node.as_deref().unwrap_or_default().to_owned())
            }
            _ if self.is_custom() => {
                let own = &self.definition.as_ref()?.fields;
                let (_, path) = own.iter().find(|(name, _)| name == field)?;
                Some(match path.find(&self.shown(object)) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                })
            }
            _ => {
                let (_, read) = self.hooks.fields.iter().find(|(name, _)| *name == field)?;
                Some(read(&self.shown(object)).unwrap_or_default())
            }
        }
    }

    /// The fields that selectors may name.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let own = self.definition.iter().flat_map(|definition| &definition.fields).map(|(name, _)| name.as_str());
        let built_in = self.hooks.fields.iter().map(|(name, _)| *name);
        ["metadata.name", "metadata.namespace"].into_iter().chain(built_in).chain(own)
    }

    /// The object as an `autoscaling/v1 Scale`, where it can be scaled.
    pub fn scale(&self, object: &Object) -> Option<Value> {
        let paths = self.scale_paths()?;
        Some(crate::pipeline::scale_of(paths, object.apart().value(), &object.revision.to_string()))
    }

    /// The verbs of a subresource.
    pub fn subresource_verbs(&self, name: &str) -> &'static [&'static str] {
        self.kind.subresource(name).map_or(&[], |subresource| subresource.verbs)
    }

    /// The field of the status that a subresource is about.
    pub(crate) fn part(&self, subresource: &str) -> Option<&'static str> {
        self.hooks.parts.iter().find(|(name, _)| *name == subresource).map(|(_, field)| *field)
    }

    /// The fields of the spec that a subresource is about.
    pub(crate) fn opening(&self, subresource: &str) -> Option<&'static Opening> {
        self.hooks.openings.iter().find(|opening| opening.name == subresource)
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

fn version_of(object: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow, rename = "apiVersion")]
        api_version: Cow<'a, str>,
    }
    serde_json::from_slice::<Head<'_>>(object).ok().map(|head| head.api_version)
}

/// Reads a text at a JSON pointer, for `Hooks::fields`.
pub(crate) fn field_text(value: &Value, pointer: &str) -> Option<String> {
    text(value, pointer).map(str::to_owned)
}
