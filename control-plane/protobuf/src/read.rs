//! What clients send, made into JSON.
//!
//! Go writes empty texts, zeros and `false` of fields that cannot be absent; those count as absent here, as in its
//! JSON.

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::{
    Status, StatusResult, Timestamp,
    decode::{self, DEPTH_MAX},
    time,
};
use serde_json::{Map, Value, json};

use super::{
    MAGIC, MEDIA_TYPE,
    table::{self, Item, Kind, SCHEMA, messages},
    wire::{Reader, Wire, malformed, text, varint},
};

/// How many values one body may hold: a value of two bytes takes fifty times that when it is decoded.
const VALUES_MAX: usize = 500_000;

/// The object of a body, `apiVersion` and `kind` included.
pub fn decode(bytes: &[u8]) -> StatusResult<Value> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not begin with \"k8s\\0\""))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader(envelope) {
        match field? {
            (1, Wire::Bytes(types)) => {
                for field in Reader(types) {
                    match field? {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => return Err(malformed("its content is encoded")),
            _ => {}
        }
    }
    let known = table::known(&api_version, &kind).ok_or_else(|| {
        Status::unsupported_media_type(format!(
            "{kind} of {api_version} is not known in {MEDIA_TYPE}: send application/json"
        ))
    })?;
    let mut object = Decoder { n_values: 0, depth: 0 }.message(known.message, raw)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

struct Decoder {
    n_values: usize,
    depth: usize,
}

impl Decoder {
    fn message(&mut self, message: &str, bytes: &[u8]) -> StatusResult<Map<String, Value>> {
        let message = messages().get(message).ok_or_else(|| malformed(&format!("there is no message {message}")))?;
        if self.depth == DEPTH_MAX {
            // Only schemas can be deeper than a dozen, and JSON has the same limit.
            return Err(malformed(&format!("it is nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let mut object = Map::new();
        for read in Reader(bytes) {
            let (number, wire) = read?;
            // A newer client may know more fields; as in JSON, what is not known is left out.
            let Some(field) = message.fields.get(&number) else { continue };
            self.n_values += 1;
            if self.n_values > VALUES_MAX {
                return Err(Status::too_large(format!(
                    "the body holds more than {VALUES_MAX} values: split the request"
                )));
            }
            match (field.name, &field.kind) {
                (Some(name), kind) => self.field(&mut object, name, kind, wire)?,
                (None, Kind::One(Item::Message(inner)) | Kind::Optional(Item::Message(inner))) => {
                    object.extend(self.message(inner, wire.bytes()?)?);
                }
                (None, _) => {}
            }
        }
        self.depth -= 1;
        Ok(object)
    }

    fn field(&mut self, object: &mut Map<String, Value>, name: &str, kind: &Kind, wire: Wire<'_>) -> StatusResult<()> {
        match kind {
            Kind::List(item) => {
                let items = object.entry(name).or_insert_with(|| json!([]));
                let items = items.as_array_mut().ok_or_else(|| malformed(name))?;
                match (item, wire) {
                    // Numbers of a list may be packed together.
                    (Item::Integer, Wire::Bytes(mut packed)) => {
                        while !packed.is_empty() {
                            items.push(json!(varint(&mut packed)? as i64));
                        }
                    }
                    _ => items.push(self.value(item, wire)?.unwrap_or_else(|| json!({}))),
                }
            }
            Kind::Map(item) => {
                let (mut key, mut value) = (String::new(), None);
                for read in Reader(wire.bytes()?) {
                    match read? {
                        (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                        (2, wire) => value = self.value(item, wire)?,
                        _ => {}
                    }
                }
                // What is not written is as if nothing were in it: an empty text, an empty message.
                if value.is_none() {
                    value = self.value(item, Wire::Bytes(&[])).ok().flatten();
                }
                let map = object.entry(name).or_insert_with(|| json!({}));
                map.as_object_mut().ok_or_else(|| malformed(name))?.insert(key, value.unwrap_or_else(|| json!("")));
            }
            Kind::Optional(item) => {
                if let Some(value) = self.value(item, wire)? {
                    object.insert(name.to_owned(), value);
                }
            }
            Kind::One(item) => {
                if let Some(value) = self.value(item, wire)?.filter(|value| !is_empty(value)) {
                    object.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// `None` for a time that is none.
    fn value(&mut self, item: &Item, wire: Wire<'_>) -> StatusResult<Option<Value>> {
        Ok(Some(match item {
            Item::Text => json!(text(wire.bytes()?)?),
            Item::Bool => json!(wire.number()? != 0),
            Item::Integer => json!(wire.number()? as i64),
            Item::Double => number(wire.bytes()?)?,
            Item::Bytes => json!(BASE64_STANDARD.encode(wire.bytes()?)),
            Item::Quantity => {
                let mut quantity = String::new();
                for read in Reader(wire.bytes()?) {
                    if let (1, wire) = read? {
                        quantity = text(wire.bytes()?)?;
                    }
                }
                json!(quantity)
            }
            Item::IntOrString => {
                let (mut is_text, mut number, mut string) = (false, 0, String::new());
                for read in Reader(wire.bytes()?) {
                    match read? {
                        (1, wire) => is_text = wire.number()? == 1,
                        (2, wire) => number = wire.number()? as i64,
                        (3, wire) => string = text(wire.bytes()?)?,
                        _ => {}
                    }
                }
                if is_text { json!(string) } else { json!(number) }
            }
            Item::Time => return instant(wire.bytes()?, false),
            Item::MicroTime => return instant(wire.bytes()?, true),
            Item::Embedded => {
                let mut embedded = None;
                for read in Reader(wire.bytes()?) {
                    if let (1, wire) = read? {
                        let bytes = wire.bytes()?;
                        let read = decode::json(bytes, &decode::Limits::default());
                        embedded = Some(read.map_err(|error| malformed(&error.to_string()))?.0);
                    }
                }
                return Ok(embedded);
            }
            Item::Texts => json!(texts(wire.bytes()?, 1)?),
            Item::SchemaOrBool => {
                let (mut allows, mut schema) = (false, None);
                for read in Reader(wire.bytes()?) {
                    match read? {
                        (1, wire) => allows = wire.number()? != 0,
                        (2, wire) => schema = Some(self.message(SCHEMA, wire.bytes()?)?),
                        _ => {}
                    }
                }
                schema.map_or(json!(allows), Value::Object)
            }
            Item::SchemaOrList => {
                let (mut schema, mut schemas) = (None, Vec::new());
                for read in Reader(wire.bytes()?) {
                    match read? {
                        (1, wire) => schema = Some(self.message(SCHEMA, wire.bytes()?)?),
                        (2, wire) => schemas.push(Value::Object(self.message(SCHEMA, wire.bytes()?)?)),
                        _ => {}
                    }
                }
                schema.map_or(Value::Array(schemas), Value::Object)
            }
            Item::SchemaOrTexts => {
                let bytes = wire.bytes()?;
                let mut schema = None;
                for read in Reader(bytes) {
                    if let (1, wire) = read? {
                        schema = Some(self.message(SCHEMA, wire.bytes()?)?);
                    }
                }
                match schema {
                    Some(schema) => Value::Object(schema),
                    None => json!(texts(bytes, 2)?),
                }
            }
            Item::Message(message) => Value::Object(self.message(message, wire.bytes()?)?),
        }))
    }
}

fn texts(bytes: &[u8], field: u64) -> StatusResult<Vec<String>> {
    let mut texts = Vec::new();
    for read in Reader(bytes) {
        let (number, wire) = read?;
        if number == field {
            texts.push(text(wire.bytes()?)?);
        }
    }
    Ok(texts)
}

/// JSON knows no infinity.
fn number(bytes: &[u8]) -> StatusResult<Value> {
    let bytes = bytes.try_into().map_err(|_| malformed("a number has not eight bytes"))?;
    let number = f64::from_le_bytes(bytes);
    // Whole numbers are written as such, as Go's JSON does.
    if number.fract() == 0.0 && number.abs() < 2_f64.powi(53) {
        return Ok(json!(number as i64));
    }
    serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| malformed("a number is not finite"))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn instant(bytes: &[u8], is_fine: bool) -> StatusResult<Option<Value>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanoseconds) = (0_i64, 0_i32);
    for read in Reader(bytes) {
        match read? {
            (1, wire) => seconds = wire.number()? as i64,
            (2, wire) => nanoseconds = wire.number()? as i32,
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, nanoseconds).map_err(|error| malformed(&error.to_string()))?;
    Ok(Some(json!(if is_fine { time::rfc3339_micro(at) } else { time::rfc3339(at) })))
}
