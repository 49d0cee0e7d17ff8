//! Values.

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use copepod_api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};

use crate::functions::{net::Cidr, time, url::Url, versions::Version};
use crate::{Fault, List};

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<List>),
    Map(Arc<BTreeMap<Key, Value>>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    Type(Arc<str>),
    Optional(Option<Box<Value>>),
    /// An object that an expression makes: `Object.spec{…}`, `JSONPatch{…}`.
    Structure(Arc<Structure>),
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Version(Arc<Version>),
    /// A named format of texts: `format.dns1123Label()`.
    Format(&'static str),
    /// Something that answers through whoever evaluates: the authorizer.
    Host(Arc<dyn Host>),
}

/// A value that somebody outside knows the functions of. They are declared like all others.
pub trait Host: fmt::Debug + Send + Sync {
    /// `kubernetes.authorization.Authorizer`, as declarations name it.
    fn type_name(&self) -> &'static str;

    /// What a call costs beyond being one.
    fn cost(&self, name: &str) -> u64;

    /// `None`: it has no such function.
    fn call(&self, name: &str, args: &[Value]) -> Option<Result<Value, Fault>>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    pub name: String,
    pub fields: BTreeMap<String, Value>,
}

/// What a map is indexed by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    /// Only where it is no `Int`: `1u` and `1` are the same key.
    Uint(u64),
    String(Arc<str>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::List(Arc::new(items.into()))
    }
}

impl From<Key> for Value {
    fn from(key: Key) -> Value {
        match key {
            Key::Bool(value) => Value::Bool(value),
            Key::Int(value) => Value::Int(value),
            Key::Uint(value) => Value::Uint(value),
            Key::String(text) => Value::String(text),
        }
    }
}

impl Key {
    pub fn of(value: &Value) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => i64::try_from(*value).map_or(Key::Uint(*value), Key::Int),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => Key::Int(*value as i64),
            Value::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }

    pub fn text(text: &str) -> Key {
        Key::String(text.into())
    }
}

impl Value {
    /// An object with these fields.
    pub fn map<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
        Value::Map(Arc::new(fields.into_iter().map(|(name, value)| (Key::text(name), value)).collect()))
    }

    /// Bytes, from their base64.
    pub fn bytes(text: &str) -> Option<Value> {
        STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into()))
    }

    /// A duration, from `1h30m`.
    pub fn duration(text: &str) -> Option<Value> {
        time::duration(text).ok().map(Value::Duration)
    }

    /// A point in time, from RFC 3339; a date is its first moment.
    pub fn timestamp(text: &str) -> Option<Value> {
        let at = time::timestamp(text).or_else(|_| time::timestamp(&format!("{text}T00:00:00Z")));
        at.ok().map(Value::Timestamp)
    }

    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Structure(structure) => &structure.name,
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(_) => "net.CIDR",
            Value::Version(_) => "kubernetes.Semver",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Host(host) => host.type_name(),
        }
    }

    /// Numbers of different types are equal where they are the same number.
    pub fn is_equal(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(one), Value::Bool(other)) => one == other,
            (Value::String(one), Value::String(other)) => one == other,
            (Value::Bytes(one), Value::Bytes(other)) => one == other,
            (Value::Type(one), Value::Type(other)) => one == other,
            (Value::List(one), Value::List(other)) => one.is_equal(other),
            (Value::Map(one), Value::Map(other)) => {
                one.len() == other.len()
                    && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| value.is_equal(other)))
            }
            (Value::Optional(one), Value::Optional(other)) => match (one, other) {
                (Some(one), Some(other)) => one.is_equal(other),
                (None, None) => true,
                _ => false,
            },
            (Value::Structure(one), Value::Structure(other)) => {
                let is_same = |(name, value): (&String, &Value)| {
                    other.fields.get(name).is_some_and(|other| value.is_equal(other))
                };
                one.name == other.name && one.fields.len() == other.fields.len() && one.fields.iter().all(is_same)
            }
            (Value::Url(one), Value::Url(other)) => one == other,
            (Value::Version(one), Value::Version(other)) => one == other,
            (Value::Ip(one), Value::Ip(other)) => one == other,
            (Value::Cidr(one), Value::Cidr(other)) => one == other,
            (Value::Format(one), Value::Format(other)) => one == other,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values that have one.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
            (Value::Uint(one), Value::Uint(other)) => Some(one.cmp(other)),
            (Value::Double(one), Value::Double(other)) => one.partial_cmp(other),
            (Value::Int(one), Value::Uint(other)) => Some(i128::from(*one).cmp(&i128::from(*other))),
            (Value::Uint(one), Value::Int(other)) => Some(i128::from(*one).cmp(&i128::from(*other))),
            (Value::Int(one), Value::Double(other)) => (*one as f64).partial_cmp(other),
            (Value::Double(one), Value::Int(other)) => one.partial_cmp(&(*other as f64)),
            (Value::Uint(one), Value::Double(other)) => (*one as f64).partial_cmp(other),
            (Value::Double(one), Value::Uint(other)) => one.partial_cmp(&(*other as f64)),
            (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
            (Value::Bytes(one), Value::Bytes(other)) => Some(one.cmp(other)),
            (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            (Value::Duration(one), Value::Duration(other)) => Some(one.cmp(other)),
            (Value::Timestamp(one), Value::Timestamp(other)) => Some(one.cmp(other)),
            (Value::Quantity(one), Value::Quantity(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }

    /// How much of it there is to walk over, roughly: letters and elements.
    pub fn size(&self) -> usize {
        match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(items) => items.len(),
            Value::Map(fields) => fields.len(),
            _ => 1,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.is_equal(other)
    }
}
