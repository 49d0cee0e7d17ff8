//! What a kind is, as data.
//!
//! Routes, discovery, schemas, tables, watches, permission checks and the command line's `get` come out of one row. A
//! CustomResourceDefinition becomes a row of the same table; a built-in kind only adds functions (see the registry).

use std::{borrow::Cow, sync::Arc};

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::Resource;

/// Written in the program, or read from a definition.
pub type Text = Cow<'static, str>;

#[derive(Clone, Debug)]
pub struct Kind {
    pub group: Text,
    pub version: Text,
    /// `Deployment`.
    pub name: Text,
    /// `deployments`.
    pub plural: Text,
    /// `deployment`.
    pub singular: Text,
    pub short: Vec<Text>,
    pub categories: Vec<Text>,
    pub scope: Scope,
    pub subresources: Vec<Subresource>,
    pub schema: SchemaSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// A part of an object with a path and rules of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `binding`, `eviction`, `log`.
    pub name: &'static str,
    /// The kind that travels on this path where it is not the object's own: `autoscaling/v1 Scale`.
    pub kind: Option<(&'static str, &'static str, &'static str)>,
    pub verbs: &'static [&'static str],
}

/// Where the schema of a kind comes from.
#[derive(Clone)]
pub enum SchemaSource {
    /// A Rust type that describes itself.
    Type(fn(&mut SchemaGenerator) -> schemars::Schema),
    /// A structural schema, as a CustomResourceDefinition carries it.
    Document(Arc<Value>),
}

impl std::fmt::Debug for SchemaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SchemaSource::Type(_) => "Type",
            SchemaSource::Document(_) => "Document",
        })
    }
}

impl Kind {
    pub fn resource(&self) -> Resource {
        Resource { group: self.group.clone(), plural: self.plural.clone() }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}
