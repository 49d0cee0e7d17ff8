//! The part of an object that every part of the system reads: its metadata, without the managed fields.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Timestamp;

/// The annotation, with the value `true`, of a pod that another is to replace before it goes.
pub const REPLACE: &str = "copepod.io/replace";

/// Decoded once when an object enters the store; the rest of the object is decoded when somebody asks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: Option<bool>,
    pub block_owner_deletion: Option<bool>,
}

impl Meta {
    /// The one owner that manages this object.
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }

    pub fn is_leaving(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
