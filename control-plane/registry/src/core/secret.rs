//! Secrets.

use copepod_api::{
    Scope,
    field::{Errors, Path},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde::Deserialize;
use serde_json::{Value, json};

use super::configmap::{DATA_BYTES_MAX, check_key, immutable_data};
use crate::{
    Row, json as fields,
    json::text,
    row::{self, AGE, Column, Hooks, NAME, column, field_text, kind},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "What the data is for."),
    column("Data", "integer", "The number of entries."),
    AGE,
];

pub fn row() -> Row {
    Row::new(
        kind::<Secret>("secrets", "secret", &[], Scope::Namespaced, &[]),
        Hooks {
            default,
            validate: |object, errors| {
                validate(&Secret::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                if new.get("type") != old.get("type") {
                    errors.invalid("type", text(new, "/type").unwrap_or_default(), "field is immutable");
                }
                immutable_data(new, old, &["data"], errors);
            },
            fields: &[("type", |object| field_text(object, "/type"))],
            columns: COLUMNS,
            cells: |object, now| {
                let entries = object.value().get("data").and_then(Value::as_object).map_or(0, serde_json::Map::len);
                vec![
                    row::name(object),
                    json!(text(object.value(), "/type").unwrap_or_default()),
                    json!(entries),
                    row::age(object, now),
                ]
            },
            ..Hooks::NONE
        },
    )
}

/// `stringData` is for writing only: it moves into `data`.
fn default(object: &mut Value) {
    fields::default(object, "type", "Opaque");
    let Some(texts) = object.get("stringData").and_then(Value::as_object).cloned() else { return };
    if !texts.values().all(Value::is_string) {
        return; // Validation says so.
    }
    if let Some(data) = fields::object(object, "data") {
        for (key, text) in texts {
            let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
            fields::set(data, &key, serde_json::to_value(bytes).unwrap_or_default());
        }
        fields::remove(object, "stringData");
    }
}

fn validate(secret: &Secret, errors: &mut Errors) {
    let path = Path::root("data");
    let mut bytes = 0;
    for (key, value) in secret.data.iter().flatten() {
        check_key(key, &path, errors);
        bytes += value.0.len();
    }
    if bytes > DATA_BYTES_MAX {
        errors.too_long(path, DATA_BYTES_MAX);
    }
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut needs = |key: &str| {
        if value(key).is_none() {
            errors.required(path.key(key), "");
        }
    };
    let json_in = |key: &str| value(key).map(|bytes| serde_json::from_slice::<Value>(&bytes.0).is_ok());
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().for_each(needs),
        "kubernetes.io/ssh-auth" => needs("ssh-privatekey"),
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            ["username", "password"].into_iter().for_each(needs);
        }
        "kubernetes.io/dockercfg" => {
            needs(".dockercfg");
            if json_in(".dockercfg") == Some(false) {
                errors.invalid(path.key(".dockercfg"), "<secret contents redacted>", "must be valid JSON");
            }
        }
        "kubernetes.io/dockerconfigjson" => {
            needs(".dockerconfigjson");
            if json_in(".dockerconfigjson") == Some(false) {
                errors.invalid(path.key(".dockerconfigjson"), "<secret contents redacted>", "must be valid JSON");
            }
        }
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if secret.metadata.annotations.as_ref().is_none_or(|map| !map.contains_key(annotation)) {
                let path = Path::root("metadata");
                errors.required(path.at("annotations").key(annotation), "");
            }
        }
        _ => {}
    }
}
