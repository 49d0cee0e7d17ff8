//! What objects of a kind may look like, and how their parts merge.
//!
//! A schema is compiled once from what describes the kind: a Rust type, or the structural schema of a
//! CustomResourceDefinition. Both come as JSON schemas with Kubernetes' extensions (`definition`), are compiled into an
//! arena of nodes (`build`), and from then on built-in and custom kinds are the same thing. Checking (`check`), bringing
//! values into their canonical form (`normalize`), patches and server-side apply walk objects and nodes side by side.

mod build;
mod check;
pub mod definition;
mod format;
#[cfg(test)]
mod hostile;
mod normalize;
mod rules;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::Kind;

pub use check::Findings;
use rules::Rules;
pub use rules::pattern_fault;

/// The compiled schema of one kind. Callers keep it: it takes milliseconds to make.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    root: Slot,
    /// What stands for everything the schema says nothing about.
    any: Slot,
}

type NodeId = u32;

/// A sort of value.
#[derive(Debug, PartialEq)]
enum Node {
    Any,
    Object(Box<ObjectNode>),
    List(Box<Slot>),
    Text(Text),
    /// The least and greatest value.
    Integer(i64, i64),
    Number,
    Boolean,
    IntOrString,
    Quantity,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Text {
    Plain,
    /// Base64.
    Bytes,
    /// A time with a precision of seconds.
    Time,
    /// A time of any precision.
    DateTime,
}

#[derive(Debug, Default, PartialEq)]
struct ObjectNode {
    fields: BTreeMap<Box<str>, Slot>,
    /// What keys that are no field hold: the values of a map.
    values: Option<Slot>,
    /// Unknown fields are kept.
    is_open: bool,
    /// Checked for custom kinds only: the required fields of built-in kinds are the registry's subject.
    required: Vec<Box<str>>,
}

/// A place in an object: a sort of value, and what holds for it there. There are thousands a schema, and few are
/// special, so what is special stands apart.
#[derive(Clone, Debug, Default, PartialEq)]
struct Slot {
    node: NodeId,
    is_nullable: bool,
    /// A map or structure that has one owner as a whole.
    is_atomic: bool,
    merging: Option<Box<Merging>>,
    default: Option<Arc<Value>>,
    rules: Option<Box<Rules>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Merging {
    list: ListType,
    patch: PatchRule,
}

impl Merging {
    /// How everything merges that says nothing else.
    const PLAIN: Merging = Merging {
        list: ListType::Atomic,
        patch: PatchRule { is_merged: false, is_replaced: false, retains_keys: false, key: None },
    };
}

/// How a list is put together when two parties write it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ListType {
    /// As a whole.
    #[default]
    Atomic,
    /// By value.
    Set,
    /// By these keys of its entries; a key that is missing counts as its default.
    Map(Vec<(Box<str>, Option<Value>)>),
}

/// What a strategic merge patch does here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatchRule {
    /// Lists are merged, by `key` if there is one and by value if not.
    pub is_merged: bool,
    /// Maps are replaced.
    pub is_replaced: bool,
    /// Maps keep only the keys that the patch names.
    pub retains_keys: bool,
    pub key: Option<Box<str>>,
}

impl Schema {
    /// Compiles the schema of a kind. Callers keep it.
    pub fn of(kind: &Kind) -> Arc<Schema> {
        Arc::new(build::compile(&definition::Definitions::of(kind)))
    }

    /// The place of whole objects, to walk down from.
    pub fn root(&self) -> Place<'_> {
        Place { schema: self, slot: &self.root }
    }

    fn node(&self, slot: &Slot) -> &Node {
        &self.nodes[slot.node as usize]
    }
}

/// A place in objects of a kind, reached by walking down from [`Schema::root`]. There is always one: below what the
/// schema knows, everything is allowed and lists are atomic.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    schema: &'a Schema,
    slot: &'a Slot,
}

impl<'a> Place<'a> {
    /// The place of a field, or of a map's value.
    pub fn field(self, name: &str) -> Place<'a> {
        let slot = match self.schema.node(self.slot) {
            Node::Object(object) => object.fields.get(name).or(object.values.as_ref()),
            _ => None,
        };
        Place { schema: self.schema, slot: slot.unwrap_or(&self.schema.any) }
    }

    /// The place of a list's entries.
    pub fn items(self) -> Place<'a> {
        let slot = if let Node::List(items) = self.schema.node(self.slot) { items } else { &self.schema.any };
        Place { schema: self.schema, slot }
    }

    pub fn list(self) -> &'a ListType {
        self.slot.merging.as_ref().map_or(&Merging::PLAIN.list, |merging| &merging.list)
    }

    /// Whether a map or structure here has one owner as a whole.
    pub fn is_atomic(self) -> bool {
        self.slot.is_atomic
    }

    pub fn patch(self) -> &'a PatchRule {
        self.slot.merging.as_ref().map_or(&Merging::PLAIN.patch, |merging| &merging.patch)
    }

    /// Whether a structure here has a field of this name, as opposed to a map that has a key.
    pub fn has_field(self, name: &str) -> bool {
        matches!(self.schema.node(self.slot), Node::Object(object) if object.fields.contains_key(name))
    }

    /// Whether a field of this name may stand here.
    pub fn allows(self, name: &str) -> bool {
        match self.schema.node(self.slot) {
            Node::Any => true,
            Node::Object(object) => object.is_open || object.values.is_some() || object.fields.contains_key(name),
            _ => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Kinds for the tests of this crate.

    use super::*;
    use crate::kind::{SchemaSource, Scope};

    pub fn kind(group: &'static str, name: &'static str, plural: &'static str, schema: SchemaSource) -> Kind {
        Kind {
            group: group.into(),
            version: "v1".into(),
            name: name.into(),
            plural: plural.into(),
            singular: name.to_lowercase().into(),
            short: (&[]).into(),
            categories: (&[]).into(),
            scope: Scope::Namespaced,
            subresources: (&[]).into(),
            schema,
        }
    }

    pub fn typed<T: schemars::JsonSchema>(group: &'static str, name: &'static str, plural: &'static str) -> Kind {
        kind(group, name, plural, SchemaSource::Type(T::json_schema))
    }

    pub fn deployment() -> Kind {
        typed::<k8s_openapi::api::apps::v1::Deployment>("apps", "Deployment", "deployments")
    }

    pub fn pod() -> Kind {
        typed::<k8s_openapi::api::core::v1::Pod>("", "Pod", "pods")
    }

    /// A custom kind with one of everything.
    pub fn custom() -> Kind {
        let schema = serde_json::json!({"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 5},
                "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "port": {"x-kubernetes-int-or-string": true},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id", "zone"],
                    "items": {"type": "object", "required": ["id"], "properties": {
                        "id": {"type": "string"}, "zone": {"type": "string", "default": "a"},
                        "weight": {"type": "integer"}}}},
                "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
                "nil": {"type": "string", "nullable": true},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "x-kubernetes-preserve-unknown-fields": true}}},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}});
        kind("example.com", "Widget", "widgets", SchemaSource::Document(Arc::new(schema)))
    }
}
