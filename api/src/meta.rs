//! The part of an object that every part of the system reads: its metadata, without the managed fields.
//!
//! It stays in memory with each object, so it is small: what most objects lack takes a word, and names are left to the key.

use serde::{Deserialize, Deserializer};

use crate::{Timestamp, texts::Texts};

/// The annotation, with the value `true`, of a pod that another is to replace before it goes.
pub const REPLACE: &str = "copepod.io/replace";

/// What kubectl remembers an object by: a second copy of it. Only clients read it, and they read the object itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Decoded once when an object enters the store; the rest of the object is decoded when somebody asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    pub uid: String,
    pub generation: i64,
    pub creation_timestamp: Option<Timestamp>,
    pub labels: Texts,
    /// Without the one that kubectl keeps a copy of the object in.
    pub annotations: Texts,
    rare: Option<Box<Rare>>,
}

/// What most objects do not have.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rare {
    deletion_timestamp: Option<Timestamp>,
    deletion_grace_period_seconds: Option<i64>,
    finalizers: Box<[String]>,
    owner_references: Box<[Owner]>,
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
    pub fn deletion_timestamp(&self) -> Option<Timestamp> {
        self.rare.as_ref().and_then(|rare| rare.deletion_timestamp)
    }

    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.rare.as_ref().and_then(|rare| rare.deletion_grace_period_seconds)
    }

    pub fn finalizers(&self) -> &[String] {
        self.rare.as_ref().map_or(&[], |rare| &rare.finalizers)
    }

    pub fn owner_references(&self) -> &[Owner] {
        self.rare.as_ref().map_or(&[], |rare| &rare.owner_references)
    }

    /// The one owner that manages this object.
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references().iter().find(|owner| owner.controller == Some(true))
    }

    pub fn is_leaving(&self) -> bool {
        self.deletion_timestamp().is_some()
    }
}

/// Metadata as it stands in JSON.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    uid: String,
    generation: i64,
    creation_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "nullable")]
    labels: Texts,
    #[serde(deserialize_with = "annotations")]
    annotations: Texts,
    deletion_timestamp: Option<Timestamp>,
    deletion_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    finalizers: Box<[String]>,
    #[serde(deserialize_with = "nullable")]
    owner_references: Box<[Owner]>,
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let rare = Rare {
            deletion_timestamp: written.deletion_timestamp,
            deletion_grace_period_seconds: written.deletion_grace_period_seconds,
            finalizers: written.finalizers,
            owner_references: written.owner_references,
        };
        Ok(Meta {
            uid: written.uid,
            generation: written.generation,
            creation_timestamp: written.creation_timestamp,
            labels: written.labels,
            annotations: written.annotations,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        })
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn annotations<'de, D: Deserializer<'de>>(d: D) -> Result<Texts, D::Error> {
    Texts::deserialize_some(d, |name| name != LAST_APPLIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Meta {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_null_is_missing() {
        let nulls = read(r#"{"labels":null,"annotations":null,"finalizers":null,"ownerReferences":null,"uid":"u"}"#);
        assert_eq!(nulls, read(r#"{"uid":"u"}"#));
        assert!(nulls.finalizers().is_empty() && nulls.controller().is_none() && !nulls.is_leaving());
    }

    #[test]
    fn what_is_rare_is_there_when_it_is_there() {
        let meta = read(
            r#"{"deletionTimestamp":"2026-11-23T10:00:00Z","deletionGracePeriodSeconds":0,"finalizers":["f"],
                "ownerReferences":[{"uid":"a"},{"uid":"b","controller":true}]}"#,
        );
        assert!(meta.is_leaving());
        assert_eq!((meta.deletion_grace_period_seconds(), meta.finalizers()), (Some(0), &["f".to_owned()][..]));
        assert_eq!(meta.controller().map(|owner| owner.uid.as_str()), Some("b"));
    }

    #[test]
    fn kubectls_copy_of_the_object_is_not_kept_twice() {
        let meta = read(r#"{"annotations":{"a":"1","kubectl.kubernetes.io/last-applied-configuration":"{\"x\":1}"}}"#);
        assert_eq!(meta.annotations.iter().collect::<Vec<_>>(), [("a", "1")]);
    }
}
