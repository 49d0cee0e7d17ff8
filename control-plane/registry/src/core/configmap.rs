//! ConfigMaps: data that is no secret.

use std::collections::BTreeMap;

use copepod_api::{
    Object, Scope,
    field::{Errors, Path},
    names,
};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
};

/// All data of one ConfigMap or Secret together: what upstream takes.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;

const COLUMNS: &[Column] = &[NAME, column("Data", "integer", "The number of entries."), AGE];

pub fn row() -> Row {
    Row::new(
        kind::<ConfigMap>("configmaps", "configmap", &["cm"], Scope::Namespaced, &[]),
        Hooks {
            validate: |object, errors| {
                validate(&ConfigMap::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable_data(new, old, &["data", "binaryData"], errors),
            columns: COLUMNS,
            cells: |object, now| vec![row::name(object), json!(entries(object)), row::age(object, now)],
            ..Hooks::NONE
        },
    )
}

fn entries(object: &Object) -> usize {
    let count = |field: &str| object.value().get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    count("data") + count("binaryData")
}

fn validate(map: &ConfigMap, errors: &mut Errors) {
    let empty = BTreeMap::new();
    let texts = map.data.as_ref().unwrap_or(&empty);
    let blobs = map.binary_data.iter().flatten();
    let mut bytes = 0;
    for (key, text) in texts {
        check_key(key, &Path::root("data"), errors);
        bytes += text.len();
    }
    for (key, blob) in blobs {
        check_key(key, &Path::root("binaryData"), errors);
        if texts.contains_key(key) {
            errors.invalid(Path::root("binaryData").key(key), key, "duplicate of key present in data");
        }
        bytes += blob.0.len();
    }
    if bytes > DATA_BYTES_MAX {
        errors.too_long("", DATA_BYTES_MAX);
    }
}

pub fn check_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Err(why) = names::config_key(key) {
        errors.invalid(path.key(key), key, &why);
    }
}

/// `immutable: true` cannot be taken back and seals the data.
pub fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    let sealed = |object: &Value| object.get("immutable").and_then(Value::as_bool) == Some(true);
    if !sealed(old) {
        return;
    }
    if !sealed(new) {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}
