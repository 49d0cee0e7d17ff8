//! JSON as values, and values as JSON.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value as Json};

use crate::{
    Fault, Value,
    value::{Key, Structure},
};

impl From<&Json> for Value {
    fn from(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Int(number),
                (None, Some(number)) => Value::Uint(number),
                _ => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::from(text.as_str()),
            Json::Array(items) => items.iter().map(Value::from).collect::<Vec<_>>().into(),
            Json::Object(fields) => {
                Value::Map(Arc::new(fields.iter().map(|(name, value)| (Key::text(name), value.into())).collect()))
            }
        }
    }
}

/// The value in JSON, if it is no larger than JSON may be. What has no JSON of its own is written as text.
pub fn to_json(value: &Value) -> Result<Json, Fault> {
    value.leaves().map(|()| json(value))
}

fn json(value: &Value) -> Json {
    match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Optional(Some(value)) => json(value),
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Double(number) => serde_json::Number::from_f64(*number).map_or(Json::Null, Json::Number),
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(fields) => {
            let named = |(key, value): (&Key, &Value)| {
                let name = match key {
                    Key::String(text) => text.to_string(),
                    Key::Bool(value) => value.to_string(),
                    Key::Int(number) => number.to_string(),
                    Key::Uint(number) => number.to_string(),
                };
                (name, json(value))
            };
            Json::Object(fields.iter().map(named).collect())
        }
        Value::Structure(structure) => structure_to_json(structure),
        other => Json::String(crate::functions::text_of(other).unwrap_or_default()),
    }
}

fn structure_to_json(structure: &Structure) -> Json {
    Json::Object(structure.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect::<Map<_, _>>())
}
