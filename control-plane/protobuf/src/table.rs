//! Which number is which field.
//!
//! `fields.tsv` has a line with a message's name, then a line a field with its number, its JSON name (`-` where its fields
//! stand in the message itself) and its type; `*` may be absent, `[]` is a list and `{}` a map. A message is named by the
//! first label of its group and its kind; the version stands between them unless it is `v1`. These are the facts of the
//! struct tags in k8s.io/api, apimachinery, apiextensions-apiserver and kube-aggregator 0.36.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

const FIELDS: &str = include_str!("fields.tsv");

#[derive(Debug)]
pub struct Message {
    pub fields: BTreeMap<u64, Field>,
}

#[derive(Debug)]
pub struct Field {
    /// `None`: its fields stand in the message itself.
    pub name: Option<&'static str>,
    pub kind: Kind,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    One(Item),
    /// Absent is another thing than empty.
    Optional(Item),
    List(Item),
    Map(Item),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Text,
    Bool,
    Integer,
    Double,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// JSON inside: `FieldsV1`, `RawExtension`, and `JSON` in schemas of custom kinds.
    Embedded,
    /// A message around a list of texts, because protobuf has no maps of lists.
    Texts,
    /// A schema, or a boolean, or lists of them, as JSON schema has it in some places.
    SchemaOrBool,
    SchemaOrList,
    SchemaOrTexts,
    Message(&'static str),
}

pub const SCHEMA: &str = "apiextensions.JSONSchemaProps";

impl Item {
    fn of(text: &'static str) -> Item {
        match text {
            "string" => Item::Text,
            "bool" => Item::Bool,
            "int" => Item::Integer,
            "double" => Item::Double,
            "bytes" => Item::Bytes,
            "quantity" => Item::Quantity,
            "intorstring" => Item::IntOrString,
            "time" => Item::Time,
            "microtime" => Item::MicroTime,
            "fields" | "raw" => Item::Embedded,
            "items:string" => Item::Texts,
            "schemaorbool" => Item::SchemaOrBool,
            "schemaorarray" => Item::SchemaOrList,
            "schemaorstrings" => Item::SchemaOrTexts,
            message => Item::Message(message),
        }
    }
}

impl Kind {
    fn of(text: &'static str) -> Kind {
        let prefixed = |prefix| text.strip_prefix(prefix).map(Item::of);
        if let Some(item) = prefixed("[]") {
            Kind::List(item)
        } else if let Some(item) = prefixed("{}") {
            Kind::Map(item)
        } else if let Some(item) = prefixed("*") {
            Kind::Optional(item)
        } else {
            Kind::One(Item::of(text))
        }
    }

    #[cfg(test)]
    pub fn item(&self) -> &Item {
        let (Kind::One(item) | Kind::Optional(item) | Kind::List(item) | Kind::Map(item)) = self;
        item
    }
}

pub type Messages = BTreeMap<&'static str, Message>;

pub fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut messages = Messages::new();
        let mut current = "";
        for line in FIELDS.lines() {
            let mut columns = line.split('\t');
            match (columns.next(), columns.next(), columns.next(), columns.next()) {
                (Some(""), Some(number), Some(name), Some(kind)) => {
                    let field = Field { name: Some(name).filter(|name| *name != "-"), kind: Kind::of(kind) };
                    if let (Some(message), Ok(number)) = (messages.get_mut(current), number.parse()) {
                        message.fields.insert(number, field);
                    }
                }
                (Some(name), ..) => {
                    current = name;
                    messages.insert(name, Message { fields: BTreeMap::new() });
                }
                _ => {}
            }
        }
        messages
    })
}

/// A kind that has a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub(super) message: &'static str,
}

/// `None` for what has no message: objects of custom kinds.
pub fn known(api_version: &str, kind: &str) -> Option<Known> {
    let package = match (kind, api_version) {
        ("DeleteOptions" | "Status", _) | (_, "meta.k8s.io/v1") => "meta".to_owned(),
        ("APIGroup" | "APIGroupList" | "APIResourceList" | "APIVersions", "v1" | "") => "meta".to_owned(),
        (_, "v1") => "core".to_owned(),
        (_, other) => {
            let (group, version) = other.split_once('/')?;
            // Groups of others never have messages, whatever their first label.
            let is_ours = !group.contains('.') || group.ends_with(".k8s.io");
            let label = group.split('.').next().filter(|_| is_ours)?;
            if version == "v1" { label.to_owned() } else { format!("{label}/{version}") }
        }
    };
    let (message, _) = messages().get_key_value(format!("{package}.{kind}").as_str())?;
    Some(Known { api_version: api_version.into(), kind: kind.into(), message })
}
