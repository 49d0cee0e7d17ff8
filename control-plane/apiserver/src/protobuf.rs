//! Request bodies in Kubernetes' protobuf encoding.
//!
//! Clients written in Go, kubectl's `create` and `drain` among them, send what they write in protobuf and do not fall
//! back to JSON. (They do take JSON as an answer, so nothing is ever written this way.) `fields.tsv` says which
//! number is which field: a line with a message's name, then a line a field with its number, its JSON name (`-` where
//! its fields stand in the message itself) and its type; `*` may be absent, `[]` is a list and `{}` a map. These are
//! the facts of the struct tags in k8s.io/api and apimachinery 0.36.
//!
//! Go writes empty texts, zeros and `false` of fields that cannot be absent; those count as absent here, as in its
//! JSON.

use std::{collections::BTreeMap, sync::OnceLock};

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::{Status, StatusResult, Timestamp, decode, time};
use serde_json::{Map, Value, json};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const FIELDS: &str = include_str!("protobuf/fields.tsv");

/// Every body begins with it.
const MAGIC: &[u8] = b"k8s\0";

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
    let message = message_of(&api_version, &kind).ok_or_else(|| {
        Status::unsupported_media_type(format!(
            "{kind} of {api_version} is not known in {MEDIA_TYPE}: send application/json"
        ))
    })?;
    let mut object = Decoder { n_values: 0 }.message(message, raw)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

type Messages = BTreeMap<&'static str, BTreeMap<u64, Field>>;

#[derive(Clone, Copy)]
struct Field {
    /// `None`: its fields stand in the message itself.
    name: Option<&'static str>,
    kind: &'static str,
}

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut messages = Messages::new();
        let mut current = "";
        for line in FIELDS.lines() {
            let mut columns = line.split('\t');
            match (columns.next(), columns.next(), columns.next(), columns.next()) {
                (Some(""), Some(number), Some(name), Some(kind)) => {
                    let name = Some(name).filter(|name| *name != "-");
                    let number = number.parse().unwrap_or_default();
                    messages.entry(current).or_default().insert(number, Field { name, kind });
                }
                (Some(name), ..) => {
                    current = name;
                    messages.entry(current).or_default();
                }
                _ => {}
            }
        }
        messages
    })
}

/// `core.Pod`.
fn message_of(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = match (kind, api_version) {
        ("DeleteOptions", _) => "meta",
        (_, "v1") => "core",
        (_, "autoscaling/v2") => "autoscaling2",
        (_, other) => other.strip_suffix("/v1")?.split('.').next()?,
    };
    messages().get_key_value(format!("{group}.{kind}").as_str()).map(|(name, _)| *name)
}

struct Decoder {
    n_values: usize,
}

impl Decoder {
    fn message(&mut self, message: &str, bytes: &[u8]) -> StatusResult<Map<String, Value>> {
        let fields = messages().get(message).ok_or_else(|| malformed(&format!("there is no message {message}")))?;
        let mut object = Map::new();
        for read in Reader(bytes) {
            let (number, wire) = read?;
            // A newer client may know more fields; as in JSON, what is not known is left out.
            let Some(field) = fields.get(&number) else { continue };
            self.n_values += 1;
            if self.n_values > VALUES_MAX {
                return Err(Status::too_large(format!(
                    "the body holds more than {VALUES_MAX} values: split the request"
                )));
            }
            match field.name {
                Some(name) => self.field(&mut object, name, field.kind, wire)?,
                None => object.extend(self.message(field.kind.trim_start_matches('*'), wire.bytes()?)?),
            }
        }
        Ok(object)
    }

    fn field(&mut self, object: &mut Map<String, Value>, name: &str, kind: &str, wire: Wire<'_>) -> StatusResult<()> {
        if let Some(item) = kind.strip_prefix("[]") {
            let items = object.entry(name).or_insert_with(|| json!([]));
            let items = items.as_array_mut().ok_or_else(|| malformed(name))?;
            match (item, wire) {
                // Numbers of a list may be packed together.
                ("int", Wire::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        items.push(json!(varint(&mut packed)? as i64));
                    }
                }
                _ => items.push(self.value(item, wire)?.unwrap_or_else(|| json!({}))),
            }
        } else if let Some(item) = kind.strip_prefix("{}") {
            let (mut key, mut value) = (String::new(), None);
            for read in Reader(wire.bytes()?) {
                match read? {
                    (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                    (2, wire) => value = self.value(item, wire)?,
                    _ => {}
                }
            }
            let map = object.entry(name).or_insert_with(|| json!({}));
            map.as_object_mut().ok_or_else(|| malformed(name))?.insert(key, value.unwrap_or_else(|| json!("")));
        } else if let Some(kind) = kind.strip_prefix('*') {
            if let Some(value) = self.value(kind, wire)? {
                object.insert(name.to_owned(), value);
            }
        } else if let Some(value) = self.value(kind, wire)?.filter(|value| !is_empty(value)) {
            object.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// `None` for a time that is none.
    fn value(&mut self, kind: &str, wire: Wire<'_>) -> StatusResult<Option<Value>> {
        Ok(Some(match kind {
            "string" => json!(text(wire.bytes()?)?),
            "bool" => json!(wire.number()? != 0),
            "int" => json!(wire.number()? as i64),
            "bytes" => json!(BASE64_STANDARD.encode(wire.bytes()?)),
            "quantity" => {
                let mut quantity = String::new();
                for read in Reader(wire.bytes()?) {
                    if let (1, wire) = read? {
                        quantity = text(wire.bytes()?)?;
                    }
                }
                json!(quantity)
            }
            "intorstring" => {
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
            "time" | "microtime" => return instant(wire.bytes()?, kind == "microtime"),
            "fields" | "raw" => {
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
            list if list.starts_with("items:") => {
                let mut items = Vec::new();
                for read in Reader(wire.bytes()?) {
                    if let (1, wire) = read? {
                        items.push(json!(text(wire.bytes()?)?));
                    }
                }
                json!(items)
            }
            message => Value::Object(self.message(message, wire.bytes()?)?),
        }))
    }
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

/// What stands in a field, as far as the wire format tells.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> StatusResult<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Number(_) => Err(malformed("a number stands where a text or a message should")),
        }
    }

    fn number(self) -> StatusResult<u64> {
        match self {
            Wire::Number(number) => Ok(number),
            Wire::Bytes(_) => Err(malformed("bytes stand where a number should")),
        }
    }
}

/// The fields of a message in the order in which they were written.
struct Reader<'a>(&'a [u8]);

impl<'a> Iterator for Reader<'a> {
    type Item = StatusResult<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> StatusResult<(u64, Wire<'a>)> {
        let tag = varint(&mut self.0)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut self.0)?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = varint(&mut self.0)?;
                Wire::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Wire::Bytes(self.take(4)?),
            other => return Err(malformed(&format!("there is no wire type {other}"))),
        };
        Ok((tag >> 3, wire))
    }

    fn take(&mut self, length: usize) -> StatusResult<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }
}

fn varint(bytes: &mut &[u8]) -> StatusResult<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(|| malformed("it ends too early"))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a number has more than 64 bits"))
}

fn text(bytes: &[u8]) -> StatusResult<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("a text is not UTF-8"))
}

fn malformed(why: &str) -> Status {
    Status::bad_request(format!("the body cannot be read as {MEDIA_TYPE}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &types), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    #[test]
    fn every_type_of_the_table_is_known() {
        const KNOWN: &[&str] =
            &["string", "bool", "int", "bytes", "quantity", "intorstring", "time", "microtime", "fields", "raw"];
        for (message, fields) in messages() {
            for field in fields.values() {
                let kind = field.kind.trim_start_matches(['*', '[', ']', '{', '}']);
                assert!(
                    KNOWN.contains(&kind) || kind == "items:string" || messages().contains_key(kind),
                    "{message}: {}",
                    field.kind
                );
            }
        }
    }

    #[test]
    fn an_eviction_is_read() {
        let metadata = [bytes(1, b"web"), bytes(2, b""), bytes(3, b"default"), bytes(8, b"")].concat();
        let options = [vec![1 << 3, 30], bytes(4, b"Background")].concat();
        let raw = [bytes(1, &metadata), bytes(2, &options)].concat();
        assert_eq!(
            decode(&body("policy/v1", "Eviction", &raw)).unwrap(),
            json!({
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": "web", "namespace": "default"},
                "deleteOptions": {"gracePeriodSeconds": 30, "propagationPolicy": "Background"},
            })
        );
    }

    #[test]
    fn what_can_be_absent_may_be_zero_and_the_rest_is_absent_where_it_is() {
        let selector = bytes(1, &[bytes(1, b"app"), bytes(2, b"")].concat());
        let spec = [vec![1 << 3, 0], bytes(2, &selector), vec![5 << 3, 0], vec![7 << 3, 0]].concat();
        let raw = [bytes(1, &bytes(1, b"web")), bytes(2, &spec)].concat();
        assert_eq!(
            decode(&body("apps/v1", "Deployment", &raw)).unwrap()["spec"],
            json!({"replicas": 0, "selector": {"matchLabels": {"app": ""}}})
        );
    }

    #[test]
    fn spoiled_bodies_are_refused() {
        let whole = body("v1", "ConfigMap", &bytes(1, &bytes(1, b"a")));
        for end in 0..whole.len() {
            let _ = decode(&whole[..end]);
        }
        assert!(decode(b"{}").is_err());
        assert!(decode(&body("v1", "ConfigMap", &[0xff; 12])).is_err());
        assert_eq!(decode(&body("example.com/v1", "Cheese", b"")).unwrap_err().code(), 415);
    }
}
