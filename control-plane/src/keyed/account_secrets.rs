//! Secrets of the type `kubernetes.io/service-account-token` hold a token of their service account, for as long as both
//! are there.

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::{
    Action, DeleteOptions, Key, Object, Patch, Plan, Request, Timestamp, User,
    k8s_openapi::api::core::v1::Secret,
    resource::{SECRETS, SERVICE_ACCOUNTS},
};
use copepod_identity::{AccountKeys, Authority, legacy_claims};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use super::Controller;

pub const CONTROLLER: Controller = Controller { name: "tokens-controller", wakes, all, reconcile };

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The Secrets that name a service account; found without decoding those that do not.
fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let object = &event.object;
    if is_keys(&object.key) {
        return all(view);
    }
    if object.key.resource == SECRETS {
        return (event.kind != EventKind::Deleted && names_account(object))
            .then(|| object.key.clone())
            .into_iter()
            .collect();
    }
    if object.key.resource != SERVICE_ACCOUNTS || event.kind == EventKind::Modified {
        return Vec::new();
    }
    let secrets = view.objects(&SECRETS, Some(object.key.namespace()));
    let own = |secret: &&std::sync::Arc<Object>| {
        secret.meta.annotations.get(ACCOUNT_NAME).is_some_and(|name| name == object.key.name())
    };
    secrets.filter(own).map(|secret| secret.key.clone()).collect()
}

fn all(view: &View) -> Vec<Key> {
    view.objects(&SECRETS, None).filter(|secret| names_account(secret)).map(|secret| secret.key.clone()).collect()
}

fn is_keys(key: &Key) -> bool {
    key.resource == SECRETS && key.namespace() == AccountKeys::NAMESPACE && key.name() == AccountKeys::SECRET
}

fn names_account(secret: &Object) -> bool {
    secret.meta.annotations.contains_key(ACCOUNT_NAME)
}

fn reconcile(authority: &Authority, view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(object) = view.object(key).filter(|object| !object.meta.is_leaving()) else { return plan };
    let secret: Value = serde_json::from_slice(&object.bytes()).unwrap_or_default();
    let Some(name) = object.meta.annotations.get(ACCOUNT_NAME).filter(|_| secret["type"] == TYPE) else { return plan };
    let user = User::system("system:serviceaccount:kube-system:tokens-controller");
    let account = Key::new(SERVICE_ACCOUNTS, key.namespace(), name);
    let known_uid = object.meta.annotations.get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let stands = view.object(&account).filter(|stands| known_uid.is_none_or(|uid| *uid == stands.meta.uid));
    let Some(stands) = stands else {
        // Without the account, or with another of its name, the token would be nobody's.
        let options = DeleteOptions {
            uid: Some(object.meta.uid.clone()),
            revision: Some(object.revision),
            ..DeleteOptions::default()
        };
        plan.push(Request::delete::<Secret>(&user, key.namespace(), key.name(), options));
        return plan;
    };
    let mut data = json!({});
    let Some(keys) = keys(view) else {
        plan.because("the cluster has no keys for tokens yet");
        return plan;
    };
    // A token whose key is gone is as none.
    let is_good = |token: &str| {
        let token = BASE64_STANDARD.decode(token).ok().and_then(|token| String::from_utf8(token).ok());
        token.is_some_and(|token| keys.verify(&token).is_some())
    };
    if !secret["data"]["token"].as_str().is_some_and(is_good) {
        let claims = legacy_claims(account.namespace(), account.name(), &stands.meta.uid, key.name());
        match keys.sign(&claims) {
            Ok(token) => data["token"] = json!(BASE64_STANDARD.encode(token)),
            Err(error) => {
                tracing::warn!(%error, %account, "no token can be made");
                return plan;
            }
        }
    }
    for (field, wanted) in [("ca.crt", authority.certificate_pem()), ("namespace", key.namespace())] {
        let wanted = BASE64_STANDARD.encode(wanted);
        if secret["data"][field] != wanted {
            data[field] = json!(wanted);
        }
    }
    if data != json!({}) || known_uid.is_none() {
        let patch = json!({
            "metadata": {
                "resourceVersion": object.revision.to_string(), "annotations": {ACCOUNT_UID: stands.meta.uid},
            },
            "data": data,
        });
        let action = Action::Patch { patch: Patch::Merge(patch) };
        plan.push(Request::of::<Secret>(&user, key.namespace(), key.name(), "", action));
    }
    plan
}

fn keys(view: &View) -> Option<AccountKeys> {
    let keys = view.object(&Key::new(SECRETS, AccountKeys::NAMESPACE, AccountKeys::SECRET))?;
    AccountKeys::read(&serde_json::from_slice(&keys.bytes()).ok()?).ok()
}
