//! APIServices: one for each group and version that this cluster serves itself, and what is known of the programs that
//! serve others.

mod local;
mod programs;

pub use local::Local;
pub use programs::run;

use copepod_api::Timestamp;
use copepod_api::{
    Action, Patch, Request, User, k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService, time,
};
use serde_json::{Value, json};

/// A status that says whether the service is available; the time stays where nothing else changed.
fn status(user: &User, name: &str, before: &Value, finding: (bool, &str, &str), now: Timestamp) -> Option<Request> {
    let (is_available, reason, message) = finding;
    let conditions = before["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = conditions.iter().find(|condition| condition["type"] == "Available");
    let value = if is_available { "True" } else { "False" };
    let said = |field: &str| known.and_then(|known| known[field].as_str()).unwrap_or_default();
    if (said("status"), said("reason"), said("message")) == (value, reason, message) {
        return None;
    }
    let since = match said("status") == value {
        true => said("lastTransitionTime").to_owned(),
        false => time::rfc3339(now),
    };
    let mut all: Vec<Value> = conditions.iter().filter(|condition| condition["type"] != "Available").cloned().collect();
    all.push(json!({
        "type": "Available", "status": value, "reason": reason, "message": message, "lastTransitionTime": since,
    }));
    let patch = Patch::Merge(json!({"status": {"conditions": all}}));
    Some(Request::of::<APIService>(user, "", name, "status", Action::Patch { patch }))
}
