//! The requests that controllers make, each with the preconditions that have a stale plan refused.

use std::borrow::Cow;

use copepod_api::{
    Action, DeleteOptions, Object, Of, Patch, Plan, Request, Target, Timestamp, Typed, User, WriteOptions,
    k8s_openapi::api::core::v1::{Event, Namespace},
    request, resource, time,
};
use copepod_store::View;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::hash;

/// Replaces the status of an object, refused where the object has changed since it was read.
pub fn status<T: Typed>(user: &User, object: &Of<T>, status: &impl Serialize) -> Request {
    let mut value: Value = serde_json::from_slice(&object.object().bytes()).unwrap_or_default();
    value["status"] = serde_json::to_value(status).unwrap_or_default();
    let mut request = about(user, object.object(), Action::Update { object: value });
    request.target.subresource = "status".into();
    request
}

/// A merge patch on the object itself, refused where the object has changed since it was read.
pub fn patch(user: &User, object: &Object, mut patch: Value) -> Request {
    patch["metadata"]["resourceVersion"] = json!(object.revision.to_string());
    patch["metadata"]["uid"] = json!(object.meta.uid);
    about(user, object, Action::Patch { patch: Patch::Merge(patch) })
}

/// Deletes exactly this object, not one that took its name.
pub fn delete(user: &User, object: &Object, options: DeleteOptions) -> Request {
    let options = DeleteOptions { uid: Some(object.meta.uid.clone()), ..options };
    about(user, object, Action::Delete { options })
}

/// Deletes exactly this object as it was read: for decisions that rest on its content.
pub fn delete_unchanged(user: &User, object: &Object) -> Request {
    delete(user, object, DeleteOptions { revision: Some(object.revision), ..DeleteOptions::default() })
}

/// A request about a stored object of any kind. The version stays empty: the preferred one.
pub fn about(user: &User, object: &Object, action: Action) -> Request {
    let text = object.bytes();
    let named: Named = serde_json::from_slice(&text).unwrap_or_default();
    let version = named.api_version.rsplit('/').next().unwrap_or_default();
    Request {
        user: user.clone(),
        target: Target {
            resource: object.key.resource.clone(),
            version: version.into(),
            namespace: object.key.name.namespace.clone(),
            name: object.key.name.name.clone(),
            subresource: "".into(),
        },
        action,
        options: WriteOptions {
            field_manager: user.name.to_string(),
            field_validation: request::FieldValidation::Ignore,
            ..WriteOptions::default()
        },
    }
}

/// What an object calls itself, read without keeping the rest: of a large cluster's objects each is written about once.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Named<'a> {
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// A namespace that is on its way out takes nothing new, and a plan that tried would be refused again and again.
pub fn is_open(view: &View, namespace: &str) -> bool {
    view.get::<Namespace>("", namespace).is_some_and(|namespace| !namespace.meta().is_leaving())
}

/// What an event is about.
pub struct News<'a> {
    /// `Normal` or `Warning`.
    pub kind: &'a str,
    pub reason: &'a str,
    pub message: String,
}

/// Lets people know. The name follows from the content, and news that are known already are not repeated, so an event
/// never has a plan refused.
pub fn announce(plan: &mut Plan, view: &View, user: &User, object: &Object, news: News<'_>, now: Timestamp) {
    let namespace = if object.key.namespace().is_empty() { "default" } else { object.key.namespace() };
    let revision = object.revision.to_string();
    let parts = [&object.meta.uid, &revision, news.reason, &news.message].map(str::as_bytes);
    let name = format!("{}.{:016x}", object.key.name(), hash::fnv1a(&parts));
    let key = copepod_api::Key::new(resource::EVENTS, namespace, name.clone());
    if !is_open(view, namespace) || view.object(&key).is_some() {
        return;
    }
    let text = object.bytes();
    let named: Named = serde_json::from_slice(&text).unwrap_or_default();
    let at = time::rfc3339(now);
    let component = user.name.rsplit(':').next().unwrap_or_default();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": named.api_version, "kind": named.kind, "name": object.key.name(),
            "namespace": object.key.namespace(), "uid": object.meta.uid, "resourceVersion": revision,
        },
        "type": news.kind, "reason": news.reason, "message": news.message, "count": 1,
        "firstTimestamp": at, "lastTimestamp": at,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
    });
    plan.push(Request::of::<Event>(user, namespace, key.name(), "", Action::Create { object: event }));
}
