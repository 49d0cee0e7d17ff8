//! JSON, made into protobuf.
//!
//! What is stored is canonical, so a value that does not fit its field is a fault of ours; it is left out and the rest of
//! the object still reaches its reader.

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::Timestamp;
use serde_json::{Map, Value};

use super::{
    table::{Field, Item, Kind, SCHEMA, messages},
    wire::{put_bytes, put_double, put_message, put_number},
};

/// The fields of a message, in the order of their numbers.
pub fn message(out: &mut Vec<u8>, message: &str, object: &Map<String, Value>) {
    let Some(message) = messages().get(message) else { return };
    for (number, Field { name, kind }) in &message.fields {
        let Some(name) = name else {
            if let Kind::One(Item::Message(inner)) | Kind::Optional(Item::Message(inner)) = kind {
                put_message(out, *number, |out| self::message(out, inner, object));
            }
            continue;
        };
        match (kind, object.get(*name)) {
            (_, None | Some(Value::Null)) => {}
            (Kind::One(item) | Kind::Optional(item), Some(value)) => put(out, *number, item, value),
            (Kind::List(item), Some(value)) => {
                for value in value.as_array().into_iter().flatten() {
                    put(out, *number, item, value);
                }
            }
            (Kind::Map(item), Some(value)) => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    put_message(out, *number, |out| {
                        put_bytes(out, 1, key.as_bytes());
                        put(out, 2, item, value);
                    });
                }
            }
        }
    }
}

fn put(out: &mut Vec<u8>, number: u64, item: &Item, value: &Value) {
    let text = || value.as_str().unwrap_or_default();
    match item {
        Item::Text => put_bytes(out, number, text().as_bytes()),
        Item::Bool => put_number(out, number, value.as_bool().unwrap_or_default().into()),
        Item::Integer => put_number(out, number, integer(value)),
        Item::Double => put_double(out, number, value.as_f64().unwrap_or_default()),
        Item::Bytes => put_bytes(out, number, &BASE64_STANDARD.decode(text()).unwrap_or_default()),
        Item::Quantity => put_message(out, number, |out| match value {
            Value::String(text) => put_bytes(out, 1, text.as_bytes()),
            other => put_bytes(out, 1, other.to_string().as_bytes()),
        }),
        Item::IntOrString => put_message(out, number, |out| match value {
            Value::String(text) => {
                put_number(out, 1, 1);
                put_bytes(out, 3, text.as_bytes());
            }
            other => {
                put_number(out, 1, 0);
                put_number(out, 2, integer(other));
            }
        }),
        Item::Time | Item::MicroTime => {
            if let Ok(at) = text().parse::<Timestamp>() {
                put_message(out, number, |out| {
                    put_number(out, 1, at.as_second() as u64);
                    put_number(out, 2, at.subsec_nanosecond() as u64);
                });
            }
        }
        Item::Embedded => put_message(out, number, |out| put_bytes(out, 1, value.to_string().as_bytes())),
        Item::Texts => put_message(out, number, |out| put_texts(out, 1, value)),
        Item::SchemaOrBool => put_message(out, number, |out| match value {
            Value::Object(schema) => {
                put_number(out, 1, 1);
                put_message(out, 2, |out| message(out, SCHEMA, schema));
            }
            other => put_number(out, 1, other.as_bool().unwrap_or_default().into()),
        }),
        Item::SchemaOrList => put_message(out, number, |out| match value {
            Value::Object(schema) => put_message(out, 1, |out| message(out, SCHEMA, schema)),
            other => {
                for schema in other.as_array().into_iter().flatten().filter_map(Value::as_object) {
                    put_message(out, 2, |out| message(out, SCHEMA, schema));
                }
            }
        }),
        Item::SchemaOrTexts => put_message(out, number, |out| match value {
            Value::Object(schema) => put_message(out, 1, |out| message(out, SCHEMA, schema)),
            other => put_texts(out, 2, other),
        }),
        Item::Message(inner) => put_message(out, number, |out| {
            if let Some(object) = value.as_object() {
                message(out, inner, object);
            }
        }),
    }
}

fn put_texts(out: &mut Vec<u8>, number: u64, value: &Value) {
    for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
        put_bytes(out, number, text.as_bytes());
    }
}

/// Negative numbers are written as the large ones with the same bits.
fn integer(value: &Value) -> u64 {
    value.as_i64().map_or_else(|| value.as_u64().unwrap_or_default(), |number| number as u64)
}
