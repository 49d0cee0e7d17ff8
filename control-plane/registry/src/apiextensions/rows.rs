//! The rows that a definition makes: one for each version that it serves.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use copepod_api::{Kind, Object, Scope, Timestamp, field::Errors, kind::SchemaSource};
use serde_json::{Value, json};

use super::{
    conversion::Converter,
    validations::{self, Tree},
};
use crate::{
    Row, age,
    jsonpath::JsonPath,
    row::{self, AGE, Column, Hooks, NAME, SCALE, STATUS, ScalePaths, Stored},
    rules::{at, list_at, text_at},
};

/// What a definition says of a version beyond what the kind is.
pub struct Definition {
    pub columns: Vec<Column>,
    cells: Vec<(String, JsonPath)>,
    pub fields: Vec<(String, JsonPath)>,
    pub scale: Option<ScalePaths>,
    /// Its schema states defaults, which objects have that were stored before it did.
    pub fills: bool,
    /// What its rules in CEL stand in.
    document: Arc<Value>,
    validations: OnceLock<Tree>,
    /// Who makes objects of this version of those of another, where that takes more than another name.
    pub converter: Option<Arc<Converter>>,
    /// The definition is on its way out: no new objects.
    pub is_leaving: bool,
}

impl Definition {
    /// Holds the rules in the schema against an object, and against the change from the old one to it.
    pub fn judge(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        validations::judge(self.validations.get_or_init(|| Tree::of(&self.document)), object, old, errors);
    }

    pub fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let value = object.value();
        let own = self.cells.iter().map(|(type_, path)| cell(type_, path.find(value), now));
        let mut cells = vec![row::name(object)];
        cells.extend(own);
        if self.cells.is_empty() {
            cells.push(row::age(object, now));
        }
        cells
    }
}

fn cell(type_: &str, found: Option<&Value>, now: Timestamp) -> Value {
    match (type_, found) {
        (_, None | Some(Value::Null)) => Value::Null,
        ("date", Some(found)) => json!(age::since(found.as_str().and_then(|at| at.parse().ok()), now)),
        ("string", Some(Value::String(text))) => json!(text),
        ("string", Some(other)) => json!(other.to_string()),
        (_, Some(found)) => found.clone(),
    }
}

/// The rows of a definition whose names are accepted, the preferred version first.
pub fn rows_of(definition: &Object) -> Vec<Arc<Row>> {
    let value: Value = serde_json::from_slice(&definition.bytes()).unwrap_or_default();
    let is_true = |type_: &str| {
        let conditions = list_at(&value, "status.conditions");
        conditions.iter().any(|condition| text_at(condition, "type") == type_ && text_at(condition, "status") == "True")
    };
    if !is_true("Established") {
        return Vec::new();
    }
    let versions = list_at(&value, "spec.versions");
    let storage = versions.iter().find(|version| at(version, "storage") == true);
    let storage = storage.map_or("", |version| text_at(version, "name"));
    let mut served: Vec<&Value> = versions.iter().filter(|version| at(version, "served") == true).collect();
    served.sort_by_key(|version| std::cmp::Reverse(priority(text_at(version, "name"))));
    let converter = Converter::of(definition, &value);
    let one = |version| row(&value, version, storage, converter.clone(), definition.meta.is_leaving());
    served.into_iter().map(|version| Arc::new(one(version))).collect()
}

/// Whether a schema, or one inside it, has a default.
fn states_defaults(schema: &Value) -> bool {
    let inner = ["items", "additionalProperties"].into_iter().map(|field| at(schema, field));
    let properties = at(schema, "properties").as_object().into_iter().flat_map(|properties| properties.values());
    schema.is_object() && (!at(schema, "default").is_null() || inner.chain(properties).any(states_defaults))
}

/// Stable before beta before alpha before anything else, and the higher before the lower.
fn priority(name: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let parsed = name.strip_prefix('v').and_then(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        match &rest[end..] {
            "" => Some((3, major, 0)),
            rest => {
                let (rank, minor) =
                    rest.strip_prefix("beta").map(|n| (2, n)).or_else(|| rest.strip_prefix("alpha").map(|n| (1, n)))?;
                Some((rank, major, minor.parse().ok()?))
            }
        }
    });
    let (rank, major, minor) = parsed.unwrap_or_default();
    (rank, major, minor, std::cmp::Reverse(name.to_owned()))
}

fn row(definition: &Value, version: &Value, storage: &str, converter: Option<Arc<Converter>>, is_leaving: bool) -> Row {
    let names = at(definition, "status.acceptedNames");
    let owned = |value: &Value, field: &str| Cow::Owned(text_at(value, field).to_owned());
    let list = |field: &str| {
        list_at(names, field).iter().filter_map(Value::as_str).map(|name| Cow::Owned(name.to_owned())).collect()
    };
    let scale = at(version, "subresources.scale");
    let mut subresources = Vec::new();
    if !scale.is_null() {
        subresources.push(SCALE);
    }
    if at(version, "subresources.status").is_object() {
        subresources.push(STATUS);
    }
    let document = Arc::new(at(version, "schema.openAPIV3Schema").clone());
    let kind = Kind {
        group: owned(definition, "spec.group"),
        version: owned(version, "name"),
        name: owned(names, "kind"),
        plural: owned(names, "plural"),
        singular: owned(names, "singular"),
        short: list("shortNames"),
        categories: list("categories"),
        scope: if text_at(definition, "spec.scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        subresources,
        schema: SchemaSource::Document(document.clone()),
    };
    let stored = Stored {
        resource: kind.resource(),
        api_version: format!("{}/{storage}", kind.group),
        // Versions differ in their names alone, unless a webhook knows better.
        store: |_| (),
        show: |_| (),
    };
    let mut columns = vec![NAME];
    let mut cells = Vec::new();
    for column in list_at(version, "additionalPrinterColumns") {
        let Ok(path) = JsonPath::parse(text_at(column, "jsonPath")) else { continue };
        columns.push(Column {
            name: owned(column, "name"),
            kind: owned(column, "type"),
            format: owned(column, "format"),
            description: owned(column, "description"),
            priority: at(column, "priority").as_i64().and_then(|number| number.try_into().ok()).unwrap_or(0),
        });
        cells.push((text_at(column, "type").to_owned(), path));
    }
    if cells.is_empty() {
        columns.push(AGE);
    }
    let fields = list_at(version, "selectableFields").iter().filter_map(|field| {
        let text = text_at(field, "jsonPath");
        Some((text.trim_start_matches('.').to_owned(), JsonPath::parse(text).ok()?))
    });
    let path = |field: &str| JsonPath::parse(text_at(scale, field)).ok();
    let scale = path("specReplicasPath").zip(path("statusReplicasPath")).map(|(spec, status)| ScalePaths {
        spec,
        status,
        selector: path("labelSelectorPath"),
    });
    let fields = fields.collect();
    let fills = states_defaults(at(version, "schema.openAPIV3Schema"));
    let row =
        Row::new(kind, Hooks { generation: true, returns_deleted: false, ..Hooks::NONE }).defined_by(Definition {
            columns,
            cells,
            fields,
            scale,
            fills,
            document,
            validations: OnceLock::new(),
            converter,
            is_leaving,
        });
    if text_at(version, "name") == storage { row } else { row.stored_as(stored) }
}
