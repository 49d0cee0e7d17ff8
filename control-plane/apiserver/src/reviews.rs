//! Questions about oneself: may I, and who am I.
//!
//! They are posted like objects and answered at once; nothing is stored.

use axum::{extract::Request, response::Response};
use copepod_api::{Resource, Status, StatusResult, User, k8s_openapi::api::authorization::v1::SelfSubjectAccessReview};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    accept::Wanted,
    access::{self, Attributes},
    answer, body,
    front::Front,
};

pub struct Review {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    answer: fn(&User, &Value) -> StatusResult<Value>,
}

pub const ALL: &[Review] = &[
    Review {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        kind: "SelfSubjectReview",
        answer: who_am_i,
    },
    Review {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
        answer: may_i,
    },
];

pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Review> {
    ALL.iter().find(|review| review.group == group && review.version == version && review.plural == plural)
}

pub async fn answer(front: &Front, request: Request, user: &User, review: &'static Review) -> StatusResult<Response> {
    access::check_path(user)?;
    if request.method() != Method::POST {
        return Err(Status::method_not_allowed(format!("{} can only be created", review.plural)));
    }
    let wanted = Wanted::of(request.headers(), request.uri(), true)?;
    let (parts, body) = request.into_parts();
    let body = front.bodies.read(&parts.headers, body).await?;
    let mut sent = body::object(&parts.headers, &body.bytes)?.value;
    if !sent.is_object() {
        return Err(Status::bad_request(format!("the body must be a JSON object of the kind {}", review.kind)));
    }
    sent["status"] = (review.answer)(user, &sent)?;
    sent["apiVersion"] = json!(format!("{}/{}", review.group, review.version));
    sent["kind"] = json!(review.kind);
    if !sent["metadata"].is_object() {
        sent["metadata"] = json!({});
    }
    Ok(answer::value(201, &sent, wanted.encoding))
}

fn who_am_i(user: &User, _: &Value) -> StatusResult<Value> {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = json!(uid);
    }
    Ok(json!({"userInfo": info}))
}

fn may_i(user: &User, sent: &Value) -> StatusResult<Value> {
    let review = SelfSubjectAccessReview::deserialize(sent).map_err(|error| {
        Status::bad_request(format!("SelfSubjectAccessReview in version \"v1\" cannot be handled: {error}"))
    })?;
    let allowed = match (review.spec.resource_attributes, review.spec.non_resource_attributes) {
        (Some(wish), None) => {
            let text = |text: Option<String>| text.unwrap_or_default();
            let (verb, subresource) = (text(wish.verb), text(wish.subresource));
            let (namespace, name) = (text(wish.namespace), text(wish.name));
            let resource = Resource::new(text(wish.group), text(wish.resource));
            access::is_allowed(
                user,
                &Attributes { verb: &verb, resource, subresource: &subresource, namespace: &namespace, name: &name },
            )
        }
        (None, Some(_)) => access::check_path(user).is_ok(),
        _ => {
            return Err(Status::bad_request(
                "spec: exactly one of resourceAttributes and nonResourceAttributes must be given",
            ));
        }
    };
    Ok(json!({"allowed": allowed}))
}
