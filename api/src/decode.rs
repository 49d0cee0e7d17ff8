//! Bytes from outside, and what they say.
//!
//! JSON and YAML become the same `Value`. Both readers find fields written twice (the last one counts, as in
//! Kubernetes, and the caller decides whether that is an error), say where a mistake stands, and are bounded in size and
//! depth, because what they read comes from anybody.

mod json;
mod write;
mod yaml;

use std::fmt;

use serde_json::Value;

pub use json::json;
pub use write::to_yaml;
pub use yaml::{yaml, yaml_documents, yaml_place};

/// The largest body that is read, as in Kubernetes: more would not fit into a transaction with its neighbours.
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// How deep values may nest. The deepest objects in use are schemas of schemas at about 60; readers, schema checks and
/// merges recurse, and a thread's stack has to hold that.
pub const DEPTH_MAX: usize = 120;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: usize,
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: BODY_BYTES_MAX, depth: DEPTH_MAX }
    }
}

/// A field of a YAML document that was written before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    pub path: String,
    pub key: String,
    /// From 1.
    pub line: usize,
}

/// One document of a YAML stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub value: Value,
    pub duplicates: Vec<Duplicate>,
    /// The line that it starts at, from 1.
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct DecodeError {
    pub fault: Fault,
    pub message: String,
    /// Line and column, both from 1, where the fault stands at one place.
    pub at: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// More bytes than the limit: answered with 413.
    TooLarge,
    TooDeep,
    Syntax,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl DecodeError {
    fn too_large(limits: &Limits, n_bytes: usize) -> Self {
        let message =
            format!("{n_bytes} bytes are more than the {} that are accepted: split the request", limits.bytes);
        DecodeError { fault: Fault::TooLarge, message, at: None }
    }

    fn syntax(message: impl Into<String>, at: (usize, usize)) -> Self {
        DecodeError { fault: Fault::Syntax, message: message.into(), at: Some(at) }
    }

    fn too_deep(limits: &Limits, at: (usize, usize)) -> Self {
        let message = format!("values nest deeper than the {} levels that are accepted", limits.depth);
        DecodeError { fault: Fault::TooDeep, message, at: Some(at) }
    }
}

/// Canonical JSON: keys sorted, no white space.
pub fn to_json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Value always encodes: its maps have string keys")
}
