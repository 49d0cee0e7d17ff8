//! What agents report, as requests through the one door.
//!
//! The agent owns the status of its pods: what it reports replaces what stands there, except for conditions that others
//! wrote. A report about a pod that has been replaced meanwhile (another uid under the same name) is dropped.

use std::collections::BTreeSet;

use copepod_api::{
    Action, DeleteOptions, Key, Object, Patch, Request, User,
    k8s_openapi::api::core::v1::{Event, Node, Pod},
    resource::{NODES, PODS},
};
use copepod_proto::nodes::PodStatus;
use copepod_store::View;
use serde_json::{Map, Value, json};

/// Conditions whose only writer is the agent; all others in a pod's status are left as they are.
pub const CONDITIONS_OF_AGENT: [&str; 6] =
    ["Ready", "ContainersReady", "Initialized", "PodReadyToStartContainers", "PodResizeInProgress", "PodResizePending"];

/// Conditions of a node whose only writer is the leader, which hears the heartbeats.
const CONDITION_READY: &str = "Ready";

/// The request that a pod's report amounts to; `None` when it says nothing new.
pub fn of_pod(view: &View, user: &User, node: &str, report: &PodStatus) -> Option<Request> {
    let pod = view.object(&Key::new(PODS, report.namespace.as_str(), report.name.as_str()))?;
    if pod.meta.uid != report.uid || pod.node.as_deref() != Some(node) {
        return None;
    }
    if report.gone {
        let options =
            DeleteOptions { grace_period_seconds: Some(0), uid: Some(report.uid.clone()), ..DeleteOptions::default() };
        return Some(Request::delete::<Pod>(user, &report.namespace, &report.name, options));
    }
    let Ok(Value::Object(mut status)) = serde_json::from_slice::<Value>(&report.status) else {
        tracing::warn!(node, pod = %pod.key, "dropped a status that is no JSON object");
        return None;
    };
    let current = self::status(pod);
    keep_conditions(&current, &mut status, |kind| !CONDITIONS_OF_AGENT.contains(&kind));
    if !status.contains_key("qosClass") {
        status.extend(current.get("qosClass").map(|class| ("qosClass".to_owned(), class.clone())));
    }
    let patch = replacing(&current, status)?;
    let patch = json!({"metadata": {"uid": report.uid}, "status": patch});
    let action = Action::Patch { patch: Patch::Merge(patch) };
    Some(Request::of::<Pod>(user, &report.namespace, &report.name, "status", action))
}

/// The requests that make the Node object say what the agent says of itself: one to create it where it is absent, one
/// for its labels, one for its status.
pub fn of_node(view: &View, user: &User, name: &str, told: &Value) -> Vec<Request> {
    requests(view, user, name, told, None)
}

/// The same, and that the node lives: what a session begins with, to be asked for in one transaction.
pub fn introduction(view: &View, user: &User, name: &str, told: &Value, now: &str) -> Vec<Request> {
    let stored = view.object(&Key::new(NODES, "", name)).map(|node| conditions(node)).unwrap_or_default();
    let lives = (!says(&stored, "True")).then(|| condition(Readiness::Alive, now));
    requests(view, user, name, told, lives)
}

fn requests(view: &View, user: &User, name: &str, told: &Value, ready: Option<Value>) -> Vec<Request> {
    let mut requests = Vec::new();
    let labels = told.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let annotations = told.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({}));
    let current = view.object(&Key::new(NODES, "", name));
    match current {
        None => {
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": labels, "annotations": annotations},
                "spec": {},
            });
            requests.push(Request::of::<Node>(user, "", name, "", Action::Create { object: node }));
        }
        Some(node) => {
            let stored = serde_json::from_slice::<Value>(&node.bytes()).unwrap_or_default();
            let stands = |field: &str, of: &Value| {
                let has = stored.pointer(&format!("/metadata/{field}"));
                of.as_object().into_iter().flatten().all(|(key, value)| has.and_then(|has| has.get(key)) == Some(value))
            };
            if !stands("labels", &labels) || !stands("annotations", &annotations) {
                let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
                requests.push(Request::merge::<Node>(user, "", name, patch));
            }
        }
    }
    let before = &current.map(|node| self::status(node)).unwrap_or_default();
    let told = told.get("status").and_then(Value::as_object);
    if told.is_some() || ready.is_some() {
        // Who says nothing of it has nothing against it.
        let mut status = told.unwrap_or(before).clone();
        keep_conditions(before, &mut status, |kind| kind == CONDITION_READY);
        if let Some(ready) = ready {
            put_ready(&mut status, ready);
        }
        status.retain(|field, value| before.get(field) != Some(value));
        if !status.is_empty() {
            requests.push(status_patch(user, name, Value::Object(status)));
        }
    }
    requests
}

/// A change of the leader's mind about whether a node lives.
pub fn ready(view: &View, user: &User, name: &str, ready: Readiness, now: &str) -> Option<Request> {
    let node = view.object(&Key::new(NODES, "", name))?;
    let conditions = conditions(node);
    let ready = condition(ready, now);
    if says(&conditions, ready["status"].as_str()?) {
        return None;
    }
    let mut status = Map::from_iter([("conditions".to_owned(), Value::Array(conditions))]);
    put_ready(&mut status, ready);
    Some(status_patch(user, name, Value::Object(status)))
}

fn condition(ready: Readiness, now: &str) -> Value {
    let (status, reason, message) = match ready {
        Readiness::Alive => ("True", "AgentReady", "the node agent reports"),
        Readiness::Silent => ("Unknown", "NodeStatusUnknown", "the node agent has stopped reporting"),
    };
    json!({
        "type": CONDITION_READY, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    })
}

fn says(conditions: &[Value], ready: &str) -> bool {
    conditions.iter().any(|condition| condition["type"] == CONDITION_READY && condition["status"] == ready)
}

/// Instead of the one that stands there.
fn put_ready(status: &mut Map<String, Value>, ready: Value) {
    if let Some(conditions) = status.entry("conditions").or_insert_with(|| json!([])).as_array_mut() {
        conditions.retain(|condition| condition["type"] != CONDITION_READY);
        conditions.push(ready);
    }
}

/// Those of a node, read without keeping what is read: there are many nodes.
fn conditions(node: &Object) -> Vec<Value> {
    let status = status(node);
    status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn status(object: &Object) -> Map<String, Value> {
    #[derive(serde::Deserialize)]
    struct Stored {
        #[serde(default)]
        status: Map<String, Value>,
    }
    serde_json::from_slice::<Stored>(&object.bytes()).map(|stored| stored.status).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Alive,
    Silent,
}

/// Records an event of an agent; one that stands already is counted up by the agent, under the same name.
pub fn of_event(view: &View, user: &User, bytes: &[u8]) -> Option<Request> {
    let event: Value = serde_json::from_slice(bytes).ok()?;
    let namespace = event.pointer("/metadata/namespace")?.as_str()?.to_owned();
    let name = event.pointer("/metadata/name")?.as_str()?.to_owned();
    let stands = view.object(&Key::new(copepod_api::resource::EVENTS, namespace.as_str(), name.as_str())).is_some();
    if !stands {
        return Some(Request::of::<Event>(user, &namespace, &name, "", Action::Create { object: event }));
    }
    let mut patch = event;
    patch.as_object_mut()?.remove("metadata");
    Some(Request::merge::<Event>(user, &namespace, &name, patch))
}

fn status_patch(user: &User, name: &str, status: Value) -> Request {
    let action = Action::Patch { patch: Patch::Merge(json!({"status": status})) };
    Request::of::<Node>(user, "", name, "status", action)
}

/// Puts those of the current conditions that `theirs` names into the new status.
fn keep_conditions(current: &Map<String, Value>, status: &mut Map<String, Value>, theirs: impl Fn(&str) -> bool) {
    let Some(held) = current.get("conditions").and_then(Value::as_array) else { return };
    let Some(told) = status.entry("conditions").or_insert_with(|| json!([])).as_array_mut() else { return };
    let kept: Vec<Value> =
        held.iter().filter(|condition| condition["type"].as_str().is_some_and(&theirs)).cloned().collect();
    let kinds: BTreeSet<&str> = kept.iter().filter_map(|condition| condition["type"].as_str()).collect();
    told.retain(|condition| condition["type"].as_str().is_none_or(|kind| !kinds.contains(kind)));
    told.splice(0..0, kept);
}

/// A merge patch that turns `current` into `wanted`, field by field; `None` when they are the same.
fn replacing(current: &Map<String, Value>, wanted: Map<String, Value>) -> Option<Value> {
    if *current == wanted {
        return None;
    }
    let gone = current.keys().filter(|field| !wanted.contains_key(*field)).map(|field| (field.clone(), Value::Null));
    let mut patch: Map<String, Value> = gone.collect();
    patch.extend(wanted.into_iter().filter(|(field, value)| current.get(field) != Some(value)));
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use copepod_api::{Body, Expect, Op, Timestamp, Txn};

    use super::*;

    fn view(pod: Value) -> View {
        let key = Key::new(PODS, "d", "p");
        let op = Op::Put { key, body: Body::encode(&pod), expect: Expect::Any };
        View::default().apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap().0
    }

    fn pod(status: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "d", "name": "p", "uid": "u"},
               "spec": {"nodeName": "n1", "containers": []}, "status": status})
    }

    fn patch(view: &View, uid: &str, status: Value) -> Option<Value> {
        let report = PodStatus {
            namespace: "d".into(),
            name: "p".into(),
            uid: uid.into(),
            status: status.to_string().into(),
            gone: false,
        };
        match of_pod(view, &User::system("node"), "n1", &report)?.action {
            Action::Patch { patch: Patch::Merge(patch) } => Some(patch["status"].clone()),
            _ => None,
        }
    }

    #[test]
    fn a_report_replaces_the_agents_part_and_leaves_the_rest() {
        let scheduled = json!({"type": "PodScheduled", "status": "True"});
        let ready = json!({"type": "Ready", "status": "False"});
        let view = view(pod(json!({"phase": "Pending", "reason": "Old", "qosClass": "Burstable",
                                   "conditions": [scheduled, ready]})));
        let told = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let expected = json!({"phase": "Running", "reason": null,
                              "conditions": [scheduled, {"type": "Ready", "status": "True"}]});
        assert_eq!(patch(&view, "u", told), Some(expected));
    }

    #[test]
    fn a_report_about_another_pod_of_that_name_is_dropped() {
        assert_eq!(patch(&view(pod(json!({}))), "older", json!({"phase": "Running"})), None);
    }

    #[test]
    fn a_report_that_says_nothing_new_is_no_request() {
        assert_eq!(patch(&view(pod(json!({"phase": "Running"}))), "u", json!({"phase": "Running"})), None);
    }
}
