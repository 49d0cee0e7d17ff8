//! May I, may they, and what may I at all.

use copepod_access::{Attributes, Rule, Wish};
use copepod_api::{Status, StatusResult, User, field::Errors};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReviewSpec, SelfSubjectRulesReviewSpec,
    SubjectAccessReviewSpec,
};
use serde_json::{Value, json};

use super::{Asker, read};

pub fn may_i(asker: &Asker<'_>, sent: &Value) -> StatusResult<Value> {
    let kind = "SelfSubjectAccessReview";
    let spec: SelfSubjectAccessReviewSpec = read(sent, kind)?;
    let wish = exactly_one(kind, &spec.resource_attributes, &spec.non_resource_attributes, Errors::default())?;
    Ok(decided(asker, asker.user, &wish))
}

pub fn may_they(asker: &Asker<'_>, sent: &Value) -> StatusResult<Value> {
    about(asker, sent, "SubjectAccessReview")
}

/// The same about one namespace, so that the right to ask can be given for it alone.
pub fn may_they_here(asker: &Asker<'_>, sent: &Value) -> StatusResult<Value> {
    let kind = "LocalSubjectAccessReview";
    let of = |pointer: &str| sent.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut errors = Errors::default();
    if sent.pointer("/spec/nonResourceAttributes").is_some_and(|value| !value.is_null()) {
        errors.invalid("spec.nonResourceAttributes", "", "disallowed on this kind of request");
    }
    let namespace = of("/spec/resourceAttributes/namespace");
    if namespace != asker.namespace {
        let why = "must match metadata.namespace";
        errors.invalid("spec.resourceAttributes.namespace", namespace, why);
    }
    match errors.is_empty() {
        true => about(asker, sent, kind),
        false => Err(invalid(kind, errors)),
    }
}

fn about(asker: &Asker<'_>, sent: &Value, kind: &str) -> StatusResult<Value> {
    let spec: SubjectAccessReviewSpec = read(sent, kind)?;
    let mut errors = Errors::default();
    let groups: Vec<_> = spec.groups.iter().flatten().map(|group| group.as_str().into()).collect();
    if spec.user.as_deref().is_none_or(str::is_empty) && groups.is_empty() {
        errors.invalid("spec.user", "", "at least one of user or group must be specified");
    }
    let wish = exactly_one(kind, &spec.resource_attributes, &spec.non_resource_attributes, errors)?;
    let extra = spec.extra.iter().flatten();
    let user = User {
        name: spec.user.as_deref().unwrap_or_default().into(),
        uid: spec.uid.as_deref().map(Into::into),
        groups,
        extra: extra.map(|(k, v)| (k.as_str().into(), v.iter().map(|v| v.as_str().into()).collect())).collect(),
    };
    Ok(decided(asker, &user, &wish))
}

/// What is asked about: objects or a path.
fn exactly_one<'a>(
    kind: &str,
    resource: &'a Option<ResourceAttributes>,
    path: &'a Option<NonResourceAttributes>,
    mut errors: Errors,
) -> StatusResult<Wish<'a>> {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let wish = match (resource, path) {
        (Some(wish), None) => Some(Wish::Object(Attributes {
            verb: text(&wish.verb),
            group: text(&wish.group),
            resource: text(&wish.resource),
            subresource: text(&wish.subresource),
            namespace: text(&wish.namespace),
            name: text(&wish.name),
            ..Attributes::default()
        })),
        (None, Some(wish)) => Some(Wish::Path { verb: text(&wish.verb), path: text(&wish.path) }),
        (Some(_), Some(_)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid("spec.nonResourceAttributes", path, why);
            None
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", resource, why);
            None
        }
    };
    match wish.filter(|_| errors.is_empty()) {
        Some(wish) => Ok(wish),
        None => Err(invalid(kind, errors)),
    }
}

fn decided(asker: &Asker<'_>, user: &User, wish: &Wish<'_>) -> Value {
    let decision = asker.judge.decide(user, wish);
    let mut status = json!({"allowed": decision.is_allowed});
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    status
}

pub fn what_may_i(asker: &Asker<'_>, sent: &Value) -> StatusResult<Value> {
    let spec: SelfSubjectRulesReviewSpec = read(sent, "SelfSubjectRulesReview")?;
    let namespace = spec.namespace.unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (paths, resources): (Vec<Rule>, Vec<Rule>) =
        asker.judge.rules(asker.user, &namespace).into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

fn invalid(kind: &str, errors: Errors) -> Status {
    Status::invalid_as("authorization.k8s.io", kind, "", errors)
}
