//! The priority levels and flow schemas that every cluster has: made at its birth and whenever a server begins to lead.

use copepod_api::{
    Action, Key, Request, Typed, User,
    k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration},
};
use copepod_store::View;
use serde_json::Value;

/// The requests that make what `view` lacks. What stands there is an administrator's business.
pub fn missing(view: &View, user: &User) -> Vec<Request> {
    let wanted = copepod_apiserver::flow_defaults().into_iter();
    wanted
        .filter_map(|object| {
            create::<PriorityLevelConfiguration>(view, user, &object)
                .or_else(|| create::<FlowSchema>(view, user, &object))
        })
        .collect()
}

fn create<T: Typed>(view: &View, user: &User, object: &Value) -> Option<Request> {
    let name = object["metadata"]["name"].as_str().filter(|_| object["kind"] == T::KIND)?;
    let is_missing = view.object(&Key::new(T::resource(), "", name)).is_none();
    is_missing.then(|| Request::of::<T>(user, "", name, "", Action::Create { object: object.clone() }))
}
