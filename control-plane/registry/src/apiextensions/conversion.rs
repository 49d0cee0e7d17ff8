//! Versions of a kind that differ in more than their names: a webhook makes of an object in one an object in another.
//!
//! Here stands what is asked, and what of an answer counts. Who carries the question is the server's affair.
//!
//! Source: `ConversionReview` of `apiextensions.k8s.io/v1`. A webhook may change labels and annotations besides what is
//! not metadata; what it says of the rest of the metadata does not count, and name, namespace and uid it must leave alone.

use std::sync::Arc;

use copepod_api::{Object, Status, StatusResult};
use serde_json::Value;

use crate::{
    json as fields,
    rules::{at, list_at, text_at},
};

/// How the versions of a kind become each other.
#[derive(Debug)]
pub struct Converter {
    /// The definition at its revision: what was converted by another may be no longer true.
    pub identity: String,
    client: Value,
    review_version: String,
}

impl Converter {
    /// What a definition says, where it wants a webhook to be asked.
    pub fn of(definition: &Object, value: &Value) -> Option<Arc<Converter>> {
        let conversion = at(value, "spec.conversion");
        if text_at(conversion, "strategy") != "Webhook" {
            return None;
        }
        let is_known = |version: &&Value| *version == "v1" || *version == "v1beta1";
        let version = list_at(conversion, "webhook.conversionReviewVersions").iter().find(is_known);
        Some(Arc::new(Converter {
            identity: format!("{} {}", definition.key.name(), definition.revision),
            client: at(conversion, "webhook.clientConfig").clone(),
            review_version: version.and_then(Value::as_str).unwrap_or("v1").to_owned(),
        }))
    }

    /// It stands behind a service, and is reached through the node of one of its pods.
    pub fn is_in_cluster(&self) -> bool {
        at(&self.client, "service").is_object()
    }

    /// The question for these objects in another version.
    pub fn question(&self, objects: Vec<Value>, version: &str) -> Conversion {
        let objects = objects.into_iter().map(without_revision).collect();
        let (client, review_version) = (self.client.clone(), self.review_version.clone());
        Conversion { client, review_version, version: version.to_owned(), objects }
    }
}

/// An object is the same in each version whatever its number; and while somebody is asked, the number may change.
fn without_revision(mut object: Value) -> Value {
    if let Some(metadata) = fields::object(&mut object, "metadata") {
        fields::remove(metadata, "resourceVersion");
    }
    object
}

/// Objects that a webhook must be asked to show in another version of their kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// `clientConfig`: where it is asked.
    pub client: Value,
    /// The version of `ConversionReview` that it understands.
    pub review_version: String,
    /// `desiredAPIVersion`.
    pub version: String,
    pub objects: Vec<Value>,
}

impl Conversion {
    /// By which words the question is known.
    pub(crate) fn key(&self) -> String {
        format!("{} {} {}", self.client, self.version, Value::from(self.objects.clone()))
    }

    /// What the objects are in that version, by an answer or the reason why there is none.
    pub fn concluded(&self, answer: Result<Vec<Value>, String>) -> StatusResult<Vec<Value>> {
        let failed = |why: String| {
            let first = self.objects.first().unwrap_or(&Value::Null);
            let kind = format!("{}, Kind={}", text_at(first, "apiVersion"), text_at(first, "kind"));
            Status::internal(format!("conversion webhook for {kind} {why}"))
        };
        let converted = answer.map_err(|why| failed(format!("failed: {why}")))?;
        let (own, expected) = (converted.len(), self.objects.len());
        if own != expected {
            return Err(failed(format!("returned {own} objects, expected {expected}")));
        }
        let pairs = self.objects.iter().zip(converted).enumerate();
        let restored = pairs.map(|(index, (before, after))| {
            self.restored(before, after)
                .map_err(|why| failed(format!("returned invalid converted object at index {index}: {why}")))
        });
        restored.collect()
    }

    /// The object with that part of its metadata that no webhook may touch.
    fn restored(&self, before: &Value, mut after: Value) -> Result<Value, String> {
        let version = text_at(&after, "apiVersion");
        if version != self.version {
            return Err(format!("invalid apiVersion: expected {}, got {version}", self.version));
        }
        for field in ["kind", "metadata.name", "metadata.namespace", "metadata.uid"] {
            let (old, new) = (text_at(before, field), text_at(&after, field));
            if old != new {
                return Err(format!("must have the same {field}: {old:?} != {new:?}"));
            }
        }
        let mut metadata = at(before, "metadata").clone();
        for field in ["labels", "annotations"] {
            match at(&after, &format!("metadata.{field}")) {
                Value::Null => fields::remove(&mut metadata, field),
                Value::Object(own) if own.values().all(Value::is_string) => {
                    fields::set(&mut metadata, field, own.clone())
                }
                _ => return Err(format!("metadata.{field}: a map of texts to texts is expected")),
            }
        }
        fields::set(&mut after, "metadata", metadata);
        Ok(after)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question() -> Conversion {
        let object = json!({"apiVersion": "e.com/v1", "kind": "Widget", "size": 1, "metadata": {
            "name": "a", "uid": "u", "resourceVersion": "7", "labels": {"a": "1"}, "finalizers": ["e.com/held"]}});
        let converter = Converter { identity: "w 1".to_owned(), client: json!({}), review_version: "v1".to_owned() };
        converter.question(vec![object], "e.com/v2")
    }

    fn concluded(answer: Value) -> Result<Value, String> {
        let said = question().concluded(Ok(vec![answer]));
        said.map(|mut objects| objects.remove(0)).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn labels_and_annotations_are_all_of_the_metadata_that_a_webhook_changes() {
        let made = concluded(json!({"apiVersion": "e.com/v2", "kind": "Widget", "sizes": [1], "metadata": {
            "name": "a", "uid": "u", "labels": {"b": "2"}, "annotations": {"c": "3"}, "finalizers": []}}));
        assert_eq!(
            made.unwrap(),
            json!({"apiVersion": "e.com/v2", "kind": "Widget", "sizes": [1], "metadata": {
                "name": "a", "uid": "u", "labels": {"b": "2"}, "annotations": {"c": "3"}, "finalizers": ["e.com/held"]}})
        );
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        let object =
            |version: &str, metadata: Value| json!({"apiVersion": version, "kind": "Widget", "metadata": metadata});
        for (answer, why) in [
            (
                object("e.com/v1", json!({"name": "a", "uid": "u"})),
                "invalid apiVersion: expected e.com/v2, got e.com/v1",
            ),
            (object("e.com/v2", json!({"name": "b", "uid": "u"})), r#"must have the same metadata.name: "a" != "b""#),
            (object("e.com/v2", json!({"name": "a"})), r#"must have the same metadata.uid: "u" != """#),
            (
                object("e.com/v2", json!({"name": "a", "uid": "u", "labels": {"a": 1}})),
                "metadata.labels: a map of texts",
            ),
            (json!(7), "invalid apiVersion"),
        ] {
            let said = concluded(answer).unwrap_err();
            let place = "Internal error occurred: conversion webhook for e.com/v1, Kind=Widget returned invalid converted object at index 0: ";
            assert!(said.starts_with(&format!("{place}{why}")), "{said}");
        }
        let said = question().concluded(Ok(Vec::new())).unwrap_err();
        assert!(said.message().ends_with("returned 0 objects, expected 1"), "{}", said.message());
        let said = question().concluded(Err("no route".to_owned())).unwrap_err();
        assert!(said.message().ends_with("conversion webhook for e.com/v1, Kind=Widget failed: no route"));
        assert_eq!(said.code(), 500);
    }
}
