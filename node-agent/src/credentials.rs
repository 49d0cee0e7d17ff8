//! How to log in to registries: the pod's `imagePullSecrets`.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::Value;

use crate::{machine::Machine, surface::Credential};

pub fn of(machine: &Machine, pod: &Pod) -> Vec<Credential> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    names.filter_map(|reference| machine.secret(namespace, &reference.name)).flat_map(|secret| parse(&secret)).collect()
}

/// `.dockerconfigjson`, or the older `.dockercfg`, which is its `auths` alone.
fn parse(secret: &Secret) -> Vec<Credential> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref()?.get(name)?;
        serde_json::from_slice::<Value>(&bytes.0).ok()
    };
    let auths = match field(".dockerconfigjson") {
        Some(config) => config.get("auths").cloned(),
        None => field(".dockercfg"),
    };
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    auths.iter().filter_map(|(registry, auth)| credential(registry, auth)).collect()
}

fn credential(registry: &str, auth: &Value) -> Option<Credential> {
    let text = |name: &str| auth.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (username, password) = match (text("username"), text("password")) {
        (Some(username), Some(password)) => (username.to_owned(), password.to_owned()),
        _ => {
            let decoded = String::from_utf8(STANDARD.decode(text("auth")?).ok()?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
    };
    Some(Credential { registry: registry.into(), username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_formats_and_both_spellings_are_read() {
        let auths =
            json!({"r.io": {"auth": STANDARD.encode("u:p:q")}, "s.io": {"username": "a", "password": "b"}, "t.io": {}});
        for (name, content) in [(".dockerconfigjson", json!({"auths": auths})), (".dockercfg", auths.clone())] {
            let data = json!({ name: STANDARD.encode(content.to_string()) });
            let secret: Secret = serde_json::from_value(json!({"metadata": {}, "data": data})).unwrap();
            let told: Vec<String> =
                parse(&secret).iter().map(|c| format!("{}={}:{}", c.registry, c.username, c.password)).collect();
            assert_eq!(told, ["r.io=u:p:q", "s.io=a:b"]);
        }
    }
}
