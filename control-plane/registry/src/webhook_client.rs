//! Where a webhook is asked, and which versions of the question it understands: the same for admission and conversion.

use copepod_api::{field::Errors, names};
use serde_json::Value;

use crate::{
    json as fields,
    rules::{Part, at, list_at, text_at},
};

/// The port of a service that is named without one.
const PORT: i64 = 443;

pub fn default(webhook: &mut Value) {
    if let Some(service) = webhook.pointer_mut("/clientConfig/service") {
        fields::default(service, "port", PORT);
    }
}

/// At least one version must be one that we speak.
pub fn review_versions(webhook: &Part<'_>, field: &str, errors: &mut Errors) {
    let versions = list_at(webhook.value, field);
    let path = webhook.path_of(field);
    if versions.is_empty() {
        errors.required(path, "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.invalid(path, versions, "must include at least one of v1, v1beta1");
    }
}

/// Reads `clientConfig` of `webhook`.
pub fn validate(webhook: &Part<'_>, errors: &mut Errors) {
    let path = webhook.path_of("clientConfig");
    let client = Part { value: at(webhook.value, "clientConfig"), path: &path };
    match (client.is_set("url"), client.is_set("service")) {
        (true, true) | (false, false) => errors.required(&path, "exactly one of url or service is required"),
        (true, false) => {
            let url = text_at(client.value, "url");
            if !url.starts_with("https://") || url.len() <= "https://".len() {
                errors.invalid(
                    client.path_of("url"),
                    url,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                );
            } else if url.contains('?') || url.contains('#') || url.contains('@') {
                errors.invalid(
                    client.path_of("url"),
                    url,
                    "user info, query parameters and fragments are not permitted in the URL",
                );
            }
        }
        (false, true) => {
            client.required("service.name", errors);
            client.required("service.namespace", errors);
            let port = at(client.value, "service.port").as_i64().unwrap_or(PORT);
            if let Err(why) = names::port_number(port) {
                errors.invalid(client.path_of("service.port"), port, &format!("port is not valid: {why}"));
            }
            let path = text_at(client.value, "service.path");
            if !path.is_empty() && !path.starts_with('/') {
                errors.invalid(client.path_of("service.path"), path, "must start with a '/'");
            }
        }
    }
}
