//! `serviceaccounts/token`: a new token for a service account.

use axum::{extract::Request, response::Response};
use copepod_access::node;
use copepod_api::{
    Key, Object, Status, StatusResult, Timestamp, User,
    field::Errors,
    resource::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS},
    time::rfc3339,
};
use copepod_store::View;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Bound, ISSUER, Keys, claims};
use crate::{
    accept::{Offer, Wanted},
    answer, body,
    front::Front,
    path::Asked,
};

/// How long a token is good when nobody says.
const SECONDS_DEFAULT: i64 = 3600;

/// A shorter life would be over before it is renewed.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;

pub async fn answer(front: &Front, request: Request, user: &User, asked: &Asked) -> StatusResult<Response> {
    let wanted = Wanted::of(request.headers(), request.uri(), Offer { has_message: true, has_shapes: false })?;
    let (parts, body) = request.into_parts();
    let body = front.bodies.read(&parts.headers, body).await?;
    let mut sent = body::object(&parts.headers, &body.bytes)?.value;
    let view = front.door.fresh().await?;
    if let Some(node) = node::name(user) {
        of_own_pod(&view, node, asked, &sent).map_err(|why| Status::forbidden(&SERVICE_ACCOUNTS, &asked.name, why))?;
    }
    let token = token(front, &view, asked, &sent)?;
    sent["apiVersion"] = json!("authentication.k8s.io/v1");
    sent["kind"] = json!("TokenRequest");
    sent["metadata"] = json!({
        "name": asked.name, "namespace": asked.namespace, "creationTimestamp": rfc3339(Timestamp::now()),
    });
    sent["spec"]["audiences"] = json!(token.audiences);
    sent["spec"]["expirationSeconds"] = json!(token.seconds);
    sent["status"] = json!({"token": token.text, "expirationTimestamp": rfc3339(token.until)});
    Ok(answer::value(201, &sent, wanted.encoding))
}

/// A node gets tokens for the pods that it runs, and no others.
fn of_own_pod(view: &View, node: &str, asked: &Asked, sent: &Value) -> Result<(), &'static str> {
    let bound = &sent["spec"]["boundObjectRef"];
    let Some(name) = bound["name"].as_str().filter(|_| bound["kind"] == "Pod") else {
        return Err("node requested token not bound to a pod");
    };
    match view.object(&Key::new(PODS, asked.namespace.as_str(), name)) {
        Some(pod) if pod.node.as_deref() == Some(node) => Ok(()),
        Some(_) => Err("node requested token bound to a pod scheduled on a different node"),
        None => Err("node requested token bound to a pod that is not there"),
    }
}

struct Token {
    text: String,
    audiences: Vec<String>,
    seconds: i64,
    until: Timestamp,
}

/// Reads a request and answers it.
fn token(front: &Front, view: &View, asked: &Asked, sent: &Value) -> StatusResult<Token> {
    let request = TokenRequest::deserialize(sent).map_err(|error| {
        Status::bad_request(format!("TokenRequest in version \"v1\" cannot be handled as a TokenRequest: {error}"))
    })?;
    for (field, given, meant) in [
        ("name", request.metadata.name.as_deref(), &asked.name),
        ("namespace", request.metadata.namespace.as_deref(), &asked.namespace),
    ] {
        if given.is_some_and(|given| !given.is_empty() && given != meant) {
            return Err(Status::bad_request(format!(
                "the {field} of the service account in the data does not match the {field} on the URL ({meant})"
            )));
        }
    }
    let account = Key::new(SERVICE_ACCOUNTS, asked.namespace.as_str(), asked.name.as_str());
    mint(&front.keys, view, &account, request.spec.unwrap_or_default())
}

/// A token for a volume of a pod, and when it runs out (Unix seconds).
pub fn pod_token(
    keys: &Keys,
    view: &View,
    pod: &Object,
    audiences: Vec<String>,
    seconds: i64,
) -> StatusResult<(String, i64)> {
    let value: Value = serde_json::from_slice(&pod.bytes()).map_err(Status::internal)?;
    let name = value["spec"]["serviceAccountName"].as_str().unwrap_or("default");
    let spec = TokenRequestSpec {
        audiences: Some(audiences),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.key.name().to_owned()),
            uid: Some(pod.meta.uid.clone()),
        }),
        expiration_seconds: Some(seconds),
    };
    let token = mint(keys, view, &Key::new(SERVICE_ACCOUNTS, pod.key.namespace(), name), spec)?;
    Ok((token.text, token.until.as_second()))
}

fn mint(keys: &Keys, view: &View, key: &Key, spec: TokenRequestSpec) -> StatusResult<Token> {
    let seconds = spec.expiration_seconds.unwrap_or(SECONDS_DEFAULT);
    let mut errors = Errors::default();
    if seconds < SECONDS_MIN {
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > SECONDS_MAX {
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if !errors.is_empty() {
        return Err(Status::invalid_as("authentication.k8s.io", "TokenRequest", "", errors));
    }
    let account = view.object(key).ok_or_else(|| Status::not_found(&SERVICE_ACCOUNTS, key.name()))?;
    let bound = spec.bound_object_ref.as_ref().map(|object| bound(view, key, object)).transpose()?;
    let audiences = match spec.audiences {
        Some(audiences) if !audiences.is_empty() => audiences,
        _ => vec![ISSUER.to_owned()],
    };
    let now = Timestamp::now().as_second();
    let until = Timestamp::from_second(now + seconds).map_err(Status::internal)?;
    let claims = claims(key, &account.meta.uid, bound.as_ref(), &audiences, (now, now + seconds));
    let text = keys.at(view)?.sign(&claims).map_err(Status::internal)?;
    Ok(Token { text, audiences, seconds, until })
}

/// The object that the token is to live as long as.
fn bound(view: &View, account: &Key, named: &BoundObjectReference) -> StatusResult<Bound> {
    let (version, kind) = (named.api_version.as_deref().unwrap_or_default(), named.kind.as_deref().unwrap_or_default());
    let (word, resource) = match (version, kind) {
        ("v1", "Pod") => ("pod", PODS),
        ("v1", "Secret") => ("secret", SECRETS),
        ("v1", "Node") => ("node", NODES),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let name = named.name.as_deref().unwrap_or_default();
    let namespace = if resource == NODES { "" } else { account.namespace() };
    let object =
        view.object(&Key::new(resource.clone(), namespace, name)).ok_or_else(|| Status::not_found(&resource, name))?;
    let mut node = None;
    if resource == PODS {
        let pod: Value = serde_json::from_slice(&object.bytes()).map_err(Status::internal)?;
        if pod["spec"]["serviceAccountName"].as_str().unwrap_or("default") != account.name() {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                account.name()
            )));
        }
        node = object.node.as_deref().map(|node| {
            let uid = view.object(&Key::new(NODES, "", node)).map(|node| node.meta.uid.clone());
            (node.to_owned(), uid)
        });
    }
    if let Some(uid) = named.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != object.meta.uid) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Status::conflict(&resource, name, why));
    }
    Ok(Bound { word, name: name.to_owned(), uid: object.meta.uid.clone(), node })
}
