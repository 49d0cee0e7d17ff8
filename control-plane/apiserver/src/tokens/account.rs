//! What tokens of service accounts say, and when it is still true.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use copepod_access::{SERVICE_ACCOUNT_PREFIX, service_account_user};
use copepod_api::{
    Key, Resource, Timestamp, User,
    resource::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS},
};
use copepod_identity::LEGACY_ISSUER;
use copepod_store::View;
use serde_json::{Value, json};

use super::{Identity, Refusal};
use crate::{impersonation::account_groups, who::AUTHENTICATED};

/// Who issues tokens, and whom they are for when nobody says.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The part of the claims that is Kubernetes' own.
const OWN: &str = "kubernetes.io";

/// The object that a token lives as long as.
pub struct Bound {
    /// `pod`, `secret` or `node`.
    pub word: &'static str,
    pub name: String,
    pub uid: String,
    /// Of a pod: the node that runs it, with its uid.
    pub node: Option<(String, Option<String>)>,
}

/// What a new token says.
pub fn claims(
    account: &Key,
    uid: &str,
    bound: Option<&Bound>,
    audiences: &[String],
    (now, until): (i64, i64),
) -> Value {
    let mut own = json!({
        "namespace": account.namespace(),
        "serviceaccount": {"name": account.name(), "uid": uid},
    });
    if let Some(bound) = bound {
        own[bound.word] = json!({"name": bound.name, "uid": bound.uid});
        if let Some((node, uid)) = &bound.node {
            own["node"] = json!({ "name": node });
            if let Some(uid) = uid {
                own["node"]["uid"] = json!(uid);
            }
        }
    }
    json!({
        "iss": ISSUER, "sub": service_account_user(account.namespace(), account.name()), "aud": audiences,
        "iat": now, "nbf": now, "exp": until, "jti": copepod_identity::random_uuid(), OWN: own,
    })
}

/// Whether a token says that this cluster issued it; nothing is proved by that.
pub fn claims_to_be_ours(token: &str) -> bool {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    claims.is_some_and(|claims| claims["iss"] == ISSUER || claims["iss"] == LEGACY_ISSUER)
}

/// Whether what a token with a good signature says is true at this moment.
pub fn judge(
    view: &View,
    claims: &Value,
    token: &str,
    audiences: &[String],
    now: Timestamp,
) -> Result<Identity, Refusal> {
    let bad = |why: &str| Refusal::Bad(why.to_owned());
    let issuer = claims["iss"].as_str().unwrap_or_default();
    let legacy = |name: &str| claims[format!("kubernetes.io/serviceaccount/{name}")].as_str().unwrap_or_default();
    let own = |pointer: &str| claims[OWN].pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name, uid) = match issuer {
        ISSUER => (own("/namespace"), own("/serviceaccount/name"), own("/serviceaccount/uid")),
        LEGACY_ISSUER => (legacy("namespace"), legacy("service-account.name"), legacy("service-account.uid")),
        _ => return Err(bad("the token is of another issuer")),
    };
    let user_name = service_account_user(namespace, name);
    if claims["sub"].as_str() != Some(&user_name) || !user_name.starts_with(SERVICE_ACCOUNT_PREFIX) {
        return Err(bad("the token's subject is not its service account"));
    }
    let meant_for = meant_for(claims, issuer, audiences);
    if meant_for.is_empty() {
        return Err(bad("the token is not meant for any of the audiences"));
    }
    let seconds = now.as_second();
    if issuer == ISSUER && claims["exp"].as_i64().is_none_or(|end| end <= seconds) {
        return Err(bad("token has expired"));
    }
    // Clocks of servers differ a little.
    if claims["nbf"].as_i64().is_some_and(|begin| begin > seconds + CLOCK_SKEW_SECONDS) {
        return Err(bad("the token is not valid yet"));
    }

    let stands = |resource: Resource, namespace: &str, name: &str, uid: &str| {
        view.object(&Key::new(resource, namespace, name)).is_some_and(|object| object.meta.uid == uid)
    };
    let gone = |what: &str| Err(Refusal::Unknown(format!("the {what} that the token is bound to is gone")));
    if !stands(SERVICE_ACCOUNTS, namespace, name, uid) {
        return gone("service account");
    }
    if issuer == LEGACY_ISSUER {
        let key = Key::new(SECRETS, namespace, legacy("secret.name"));
        if !view.object(&key).is_some_and(|secret| holds(&secret.bytes(), token)) {
            return gone("secret");
        }
    }
    let mut extra = BTreeMap::new();
    for (word, resource) in [("pod", PODS), ("secret", SECRETS), ("node", NODES)] {
        let (name, uid) = (own(&format!("/{word}/name")), own(&format!("/{word}/uid")));
        if name.is_empty() {
            continue;
        }
        // A pod's node is told for the record: the token lives as long as the pod.
        let is_record = word == "node" && !own("/pod/name").is_empty();
        let place = if word == "node" { "" } else { namespace };
        if !is_record && !stands(resource, place, name, uid) {
            return gone(word);
        }
        if word != "secret" {
            extra.insert(format!("authentication.kubernetes.io/{word}-name").into(), vec![name.into()]);
            if !uid.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{word}-uid").into(), vec![uid.into()]);
            }
        }
    }
    if let Some(id) = claims["jti"].as_str() {
        extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}").into()]);
    }
    let mut groups = account_groups(namespace);
    groups.push(AUTHENTICATED.into());
    let user = User { name: user_name.into(), uid: Some(uid.into()), groups, extra };
    Ok(Identity { user, audiences: meant_for })
}

/// How far the clock of the server that issued a token may be ahead.
const CLOCK_SKEW_SECONDS: i64 = 60;

/// Those of the audiences asked for that the token names. What never named any is for this API.
fn meant_for(claims: &Value, issuer: &str, asked: &[String]) -> Vec<String> {
    let of_api = [ISSUER.to_owned()];
    let asked = if asked.is_empty() { &of_api } else { asked };
    let named: Vec<&str> = match &claims["aud"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one],
        _ if issuer == LEGACY_ISSUER => vec![ISSUER],
        _ => Vec::new(),
    };
    asked.iter().filter(|audience| named.contains(&audience.as_str())).cloned().collect()
}

/// Whether a Secret still holds this token: who takes it out withdraws it.
fn holds(secret: &[u8], token: &str) -> bool {
    let secret: Option<k8s_openapi::api::core::v1::Secret> = serde_json::from_slice(secret).ok();
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    data.get("token").is_some_and(|own| own.0 == token.as_bytes())
}
