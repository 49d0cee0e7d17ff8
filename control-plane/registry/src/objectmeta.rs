//! The rules of `metadata`, the same for every kind.

use std::collections::BTreeSet;

use copepod_api::{
    field::{Errors, Path},
    names,
};
use serde_json::{Map, Value};

use crate::{
    Row,
    json::{items, text},
};

/// All annotations of an object together. What must be larger is data and belongs into a ConfigMap.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Finalizers that stand for a way of deletion and need no prefix.
const OWN_FINALIZERS: &[&str] = &["foregroundDeletion", "orphan", "kubernetes"];

pub fn validate(row: &Row, object: &Value, errors: &mut Errors) {
    let path = Path::root("metadata");
    match text(object, "/metadata/name") {
        None => errors.required(path.at("name"), "name or generateName is required"),
        Some(name) => {
            if let Err(why) = (row.hooks.name_rule)(name) {
                errors.invalid(path.at("name"), name, &why);
            }
        }
    }
    let map = |field: &str| object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_object);
    if let Some(map) = map("labels") {
        labels(map, &path.at("labels"), errors);
    }
    if let Some(map) = map("annotations") {
        annotations(map, &path.at("annotations"), errors);
    }
    finalizers(row, object, errors);
    owners(object, errors);
}

/// Rules for labels, of objects and of templates.
pub fn labels(map: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in map {
        if let Err(why) = names::label_key(key) {
            errors.invalid(path, key, &why);
        }
        match value.as_str() {
            Some(value) => {
                if let Err(why) = names::label_value(value) {
                    errors.invalid(path, value, &why);
                }
            }
            None => errors.type_invalid(path.key(key), value, "must be a string"),
        }
    }
}

pub fn annotations(map: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in map {
        if let Err(why) = names::qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key, &why);
        }
        match value.as_str() {
            Some(value) => bytes += key.len() + value.len(),
            None => errors.type_invalid(path.key(key), value, "must be a string"),
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.too_long(path, ANNOTATIONS_BYTES_MAX);
    }
}

/// Kinds that users define, and the definitions, may be held by a plain domain as well.
fn finalizers(row: &Row, object: &Value, errors: &mut Errors) {
    let takes_domains = row.is_custom() || row.kind.group == crate::apiextensions::DEFINITIONS.group;
    let path = Path::root("metadata");
    let path = path.at("finalizers");
    for (index, name) in items(object, "/metadata/finalizers").iter().filter_map(Value::as_str).enumerate() {
        if let Err(why) = names::qualified_name(name) {
            errors.invalid(path.index(index), name, &why);
        } else if !takes_domains && !name.contains('/') && !OWN_FINALIZERS.contains(&name) {
            errors.invalid(
                path.index(index),
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

fn owners(object: &Value, errors: &mut Errors) {
    let path = Path::root("metadata");
    let path = path.at("ownerReferences");
    let mut controllers = 0;
    for (index, owner) in items(object, "/metadata/ownerReferences").iter().enumerate() {
        let path = path.index(index);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_none() {
                errors.invalid(path.at(field), "", &format!("{} must not be empty", field_word(field)));
            }
        }
        controllers += usize::from(owner.get("controller").and_then(Value::as_bool) == Some(true));
    }
    if controllers > 1 {
        errors.invalid(path, controllers, "Only one reference can have Controller set to true");
    }
}

fn field_word(field: &str) -> &str {
    if field == "apiVersion" { "version" } else { field }
}

pub fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::root("metadata");
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let pointer = format!("/metadata/{field}");
        if new.pointer(&pointer) != old.pointer(&pointer) {
            errors.invalid(path.at(field), new.pointer(&pointer), "field is immutable");
        }
    }
    if text(old, "/metadata/deletionTimestamp").is_some() {
        let before: BTreeSet<&str> = items(old, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
        let added: Vec<&str> = items(new, "/metadata/finalizers")
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !before.contains(name))
            .collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.forbidden(path.at("finalizers"), &why);
        }
    }
}
