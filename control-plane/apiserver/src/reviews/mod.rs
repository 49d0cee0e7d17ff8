//! Questions: may I, may they, who am I, whose token is this.
//!
//! They are posted like objects and answered at once; nothing is stored.

mod access;
mod people;

use axum::{extract::Request, response::Response};
use copepod_access::{Attributes, Wish};
use copepod_api::{Status, StatusResult, User};
use copepod_store::View;
use http::Method;
use serde_json::{Value, json};

use crate::{
    accept::{Offer, Wanted},
    access::Judge,
    answer, body,
    front::Front,
    tokens::Keys,
};

pub struct Review {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub is_namespaced: bool,
    answer: fn(&Asker<'_>, &Value) -> StatusResult<Value>,
}

/// Who asks, and where.
pub struct Asker<'a> {
    pub user: &'a User,
    pub judge: &'a Judge,
    pub keys: &'a Keys,
    pub view: &'a View,
    /// Of a namespaced question; else empty.
    pub namespace: &'a str,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

pub const ALL: &[Review] = &[
    Review {
        group: AUTHENTICATION,
        version: "v1",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        kind: "SelfSubjectReview",
        is_namespaced: false,
        answer: people::who_am_i,
    },
    Review {
        group: AUTHENTICATION,
        version: "v1",
        plural: "tokenreviews",
        singular: "tokenreview",
        kind: people::TOKEN_REVIEW,
        is_namespaced: false,
        answer: people::whose_token,
    },
    Review {
        group: AUTHORIZATION,
        version: "v1",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        kind: "LocalSubjectAccessReview",
        is_namespaced: true,
        answer: access::may_they_here,
    },
    Review {
        group: AUTHORIZATION,
        version: "v1",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
        is_namespaced: false,
        answer: access::may_i,
    },
    Review {
        group: AUTHORIZATION,
        version: "v1",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        kind: "SelfSubjectRulesReview",
        is_namespaced: false,
        answer: access::what_may_i,
    },
    Review {
        group: AUTHORIZATION,
        version: "v1",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        kind: "SubjectAccessReview",
        is_namespaced: false,
        answer: access::may_they,
    },
];

impl Review {
    /// What somebody wishes who asks it.
    pub fn wish<'a>(&self, namespace: &'a str) -> Attributes<'a> {
        Attributes { verb: "create", group: self.group, resource: self.plural, namespace, ..Attributes::default() }
    }
}

/// A question that is asked in the right place.
pub fn find(group: &str, version: &str, plural: &str, namespace: &str) -> Option<&'static Review> {
    ALL.iter()
        .find(|review| review.group == group && review.version == version && review.plural == plural)
        .filter(|review| review.is_namespaced != namespace.is_empty())
}

pub async fn answer(
    front: &Front,
    request: Request,
    user: &User,
    judge: &Judge,
    (review, namespace): (&'static Review, &str),
) -> StatusResult<Response> {
    if request.method() != Method::POST {
        return Err(Status::method_not_allowed(format!("{} can only be created", review.plural)));
    }
    judge.check(user, &Wish::Object(review.wish(namespace)))?;
    let wanted = Wanted::of(request.headers(), request.uri(), Offer { has_message: true, has_shapes: false })?;
    let (parts, body) = request.into_parts();
    let body = front.bodies.read(&parts.headers, body).await?;
    let mut sent = body::object(&parts.headers, &body.bytes)?.value;
    if !sent.is_object() {
        return Err(Status::bad_request(format!("the body must be a JSON object of the kind {}", review.kind)));
    }
    // What a token rests on may be newer than the view of this server.
    let view = if review.kind == people::TOKEN_REVIEW { front.door.fresh().await? } else { front.door.view() };
    let asker = Asker { user, judge, keys: &front.keys, view: &view, namespace };
    sent["status"] = (review.answer)(&asker, &sent)?;
    sent["apiVersion"] = json!(format!("{}/{}", review.group, review.version));
    sent["kind"] = json!(review.kind);
    if !sent["metadata"].is_object() {
        sent["metadata"] = json!({});
    }
    Ok(answer::value(201, &sent, wanted.encoding))
}

/// The question as its type; what does not fit is the client's fault.
fn read<T: serde::de::DeserializeOwned>(sent: &Value, kind: &str) -> StatusResult<T> {
    let spec = sent.get("spec").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(spec).map_err(|error| {
        Status::bad_request(format!("{kind} in version \"v1\" cannot be handled as a {kind}: spec: {error}"))
    })
}
