//! A schema as rules see it.

use std::{collections::BTreeMap, sync::Arc};

use copepod_cel::{Declarations, List, Order, Program, Type, Value as CelValue};
use serde_json::Value;

use super::names::escaped;
use crate::rules::{at, list_at, map_at, text_at};

/// How deep values are seen; what is deeper, rules take as it is.
const DEPTH_MAX: usize = 64;

pub struct Tree {
    shape: Shape,
    pub rules: Vec<Rule>,
    /// There are rules here or below.
    pub has_rules: bool,
}

pub enum Shape {
    /// Seen as it is: an integer or a text, or whatever a client sent.
    Free,
    Bool,
    Int,
    Double,
    Text(Format),
    /// An object whose fields are known.
    Object(BTreeMap<String, Tree>),
    /// Values by names that are not known, and how many there may be.
    Map(Box<Tree>, u64),
    /// Elements, how many there may be, and the fields that tell them apart, where there are such.
    List(Box<Tree>, u64, Vec<String>, Order),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Plain,
    Bytes,
    Duration,
    Timestamp,
}

/// A rule as it is written, and compiled.
pub struct Rule {
    pub text: String,
    pub program: Result<Program, String>,
    pub message: String,
    pub message_program: Option<Result<Program, String>>,
    pub reason: String,
    /// Which field below is named in the refusal.
    pub field_path: String,
    /// It speaks of the old value: it only means something where there is one.
    pub is_transition: bool,
    /// The old value may be missing, and the rule says what then.
    pub is_optional: bool,
}

impl Tree {
    /// The tree of a whole object's schema.
    pub fn of(schema: &Value) -> Tree {
        Tree::at(schema, 0, true)
    }

    fn at(schema: &Value, depth: usize, is_whole: bool) -> Tree {
        let mut shape = if depth > DEPTH_MAX { Shape::Free } else { shape(schema, depth) };
        let is_embedded = at(schema, "x-kubernetes-embedded-resource") == true;
        if let (Shape::Object(fields), true) = (&mut shape, is_whole || is_embedded) {
            with_metadata(fields);
        }
        let below = match &shape {
            Shape::Object(fields) => fields.values().any(|field| field.has_rules),
            Shape::Map(inner, _) | Shape::List(inner, ..) => inner.has_rules,
            _ => false,
        };
        let mut tree = Tree { shape, rules: Vec::new(), has_rules: below };
        let own = tree.type_();
        let rules = list_at(schema, "x-kubernetes-validations");
        tree.rules = rules.iter().map(|rule| Rule::of(rule, &own)).collect();
        tree.has_rules |= !tree.rules.is_empty();
        tree
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The type by which expressions know it.
    pub fn type_(&self) -> Type {
        match &self.shape {
            Shape::Free => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::Text(Format::Plain) => Type::String,
            Shape::Text(Format::Bytes) => Type::Bytes,
            Shape::Text(Format::Duration) => Type::Duration,
            Shape::Text(Format::Timestamp) => Type::Timestamp,
            Shape::Map(values, max) => Type::Map(Arc::new(Type::String), Arc::new(values.type_()), *max),
            Shape::List(items, max, ..) => Type::List(Arc::new(items.type_()), *max),
            Shape::Object(fields) => {
                let names = fields.iter().flat_map(|(name, field)| {
                    let escaped = escaped(name).filter(|escaped| escaped != name);
                    [Some(name.clone()), escaped].into_iter().flatten().map(|name| (name, field.type_()))
                });
                // Even an object without fields has none that is not known.
                Type::object("object", names.chain([(String::new(), Type::Null)]))
            }
        }
    }

    /// The value as expressions see it.
    pub fn value(&self, json: &Value) -> CelValue {
        match (&self.shape, json) {
            (Shape::Double, Value::Number(number)) => CelValue::Double(number.as_f64().unwrap_or(f64::NAN)),
            (Shape::Text(format), Value::String(text)) => format.value(text),
            (Shape::List(items, .., order), Value::Array(all)) => {
                let items = all.iter().map(|item| items.value(item)).collect();
                CelValue::List(Arc::new(List::new(items, order.clone())))
            }
            (Shape::Map(values, _), Value::Object(all)) => {
                CelValue::map(all.iter().map(|(name, value)| (name.as_str(), values.value(value))))
            }
            (Shape::Object(fields), Value::Object(all)) => {
                let mut seen: Vec<(String, CelValue)> = Vec::new();
                for (name, value) in all {
                    let Some(field) = fields.get(name) else { continue };
                    let value = field.value(value);
                    if let Some(escaped) = escaped(name).filter(|escaped| escaped != name) {
                        seen.push((escaped, value.clone()));
                    }
                    seen.push((name.clone(), value));
                }
                CelValue::map(seen.iter().map(|(name, value)| (name.as_str(), value.clone())))
            }
            (_, json) => json.into(),
        }
    }
}

fn shape(schema: &Value, depth: usize) -> Shape {
    let below = |schema: &Value| Box::new(Tree::at(schema, depth + 1, false));
    // Each element brings a comma, and in maps a name in quotes and a colon.
    let bound = |field: &str, of: &str, more: u64| {
        let room = REQUEST_BYTES_MAX / (bytes_min(at(schema, of)) + more);
        at(schema, field).as_u64().unwrap_or(room).min(room)
    };
    if at(schema, "x-kubernetes-int-or-string") == true {
        return Shape::Free;
    }
    match text_at(schema, "type") {
        "boolean" => Shape::Bool,
        "integer" => Shape::Int,
        "number" => Shape::Double,
        "string" => Shape::Text(match text_at(schema, "format") {
            "byte" => Format::Bytes,
            "duration" => Format::Duration,
            "date" | "date-time" => Format::Timestamp,
            _ => Format::Plain,
        }),
        "array" => {
            let keys = list_at(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str);
            let keys: Vec<String> = keys.map(str::to_owned).collect();
            let order = match text_at(schema, "x-kubernetes-list-type") {
                "set" => Order::Set,
                "map" => Order::Keyed(keys.as_slice().into()),
                _ => Order::Given,
            };
            Shape::List(below(at(schema, "items")), bound("maxItems", "items", 1), keys, order)
        }
        "object" if at(schema, "additionalProperties").is_object() => {
            Shape::Map(below(at(schema, "additionalProperties")), bound("maxProperties", "additionalProperties", 4))
        }
        "object" => {
            let fields: BTreeMap<String, Tree> = map_at(schema, "properties")
                .map(|(name, field)| (name.to_owned(), Tree::at(field, depth + 1, false)))
                .collect();
            let is_open = at(schema, "x-kubernetes-preserve-unknown-fields") == true;
            if fields.is_empty() && is_open { Shape::Free } else { Shape::Object(fields) }
        }
        _ => Shape::Free,
    }
}

/// The largest request. It says how many elements there may be where the schema does not.
const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// The bytes of the shortest JSON that a schema allows, roughly.
fn bytes_min(schema: &Value) -> u64 {
    match text_at(schema, "type") {
        "boolean" => 4,
        "string" | "array" => 2,
        "object" => {
            let required = list_at(schema, "required").iter().filter_map(Value::as_str);
            let field = |name: &str| {
                let quotes_colon_comma = 4;
                let value = at(schema, "properties").get(name).map_or(1, bytes_min);
                name.len() as u64 + quotes_colon_comma + value
            };
            2 + required.map(field).sum::<u64>()
        }
        _ => 1,
    }
}

/// What every whole object has, and rules may look at.
fn with_metadata(fields: &mut BTreeMap<String, Tree>) {
    let text = || Tree { shape: Shape::Text(Format::Plain), rules: Vec::new(), has_rules: false };
    for name in ["apiVersion", "kind"] {
        fields.entry(name.to_owned()).or_insert_with(text);
    }
    let metadata = fields.entry("metadata".to_owned()).or_insert_with(|| Tree {
        shape: Shape::Object(BTreeMap::new()),
        rules: Vec::new(),
        has_rules: false,
    });
    if let Shape::Object(own) = &mut metadata.shape {
        for name in ["name", "generateName"] {
            own.entry(name.to_owned()).or_insert_with(text);
        }
    }
}

impl Format {
    fn value(self, text: &str) -> CelValue {
        let parsed = match self {
            Format::Plain => None,
            Format::Bytes => CelValue::bytes(text),
            Format::Duration => CelValue::duration(text),
            Format::Timestamp => CelValue::timestamp(text),
        };
        parsed.unwrap_or_else(|| text.into())
    }
}

impl Rule {
    fn of(rule: &Value, own: &Type) -> Rule {
        let text = text_at(rule, "rule");
        let is_optional = at(rule, "optionalOldSelf") == true;
        let old = if is_optional { Type::Optional(Arc::new(own.clone())) } else { own.clone() };
        let declared = Declarations::default().with("self", own.clone()).with("oldSelf", old);
        let compiled =
            |text: &str, wanted: Type| Program::of_type(text, &declared, &[wanted]).map_err(|wrong| wrong.to_string());
        let program = compiled(text, Type::Bool);
        let message = text_at(rule, "messageExpression");
        let field = |name: &str| text_at(rule, name).to_owned();
        Rule {
            text: text.to_owned(),
            is_transition: program.as_ref().is_ok_and(|program| program.uses("oldSelf")),
            program,
            message: field("message"),
            message_program: (!message.is_empty()).then(|| compiled(message, Type::String)),
            reason: field("reason"),
            field_path: field("fieldPath"),
            is_optional,
        }
    }
}
