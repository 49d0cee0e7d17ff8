//! The file that clients find a cluster with.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::SERVER_NAME;

/// A kubeconfig with one cluster, one user and one context, all called `name`. JSON, which is YAML.
pub fn kubeconfig(name: &str, server_url: &str, authority_pem: &str, certificate_pem: &str, key_pem: &str) -> String {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": server_url,
            "tls-server-name": SERVER_NAME,
            "certificate-authority-data": encode(authority_pem),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encode(certificate_pem),
            "client-key-data": encode(key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    });
    copepod_api::decode::to_yaml(&config)
}
