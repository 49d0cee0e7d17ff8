//! What a node need not be told of its pods, because it is its own word.
//!
//! An agent writes down what it says itself, and says it again in each session. Told of it, it would read and write the
//! whole pod again with each step of a start, on the way to a revision number that nobody asks for.

use std::{borrow::Cow, collections::BTreeMap};

use copepod_api::NODE_LOST;
use copepod_store::{Event, EventKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::status::CONDITIONS_OF_AGENT;

type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Of the metadata, what changes with each write.
const OF_A_WRITE: [&str; 2] = ["resourceVersion", "managedFields"];

/// Of the status, what only the agent writes, but for the conditions of others.
const OF_AGENT: [&str; 14] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
    "conditions",
];

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Fields<'a>,
    #[serde(borrow)]
    spec: &'a RawValue,
    #[serde(borrow, default)]
    status: Fields<'a>,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

/// What of a pod is not the agent's own word.
#[derive(PartialEq)]
struct News<'a> {
    metadata: BTreeMap<Cow<'a, str>, &'a str>,
    spec: &'a str,
    status: BTreeMap<Cow<'a, str>, &'a str>,
    /// Others may end a pod, and it must end then.
    ends: bool,
    conditions: BTreeMap<Cow<'a, str>, &'a str>,
}

/// Whether an event of a pod tells its node nothing but what the node has said.
pub fn is_echo(event: &Event) -> bool {
    let Some(before) = event.previous.as_deref().filter(|_| event.kind == EventKind::Modified) else { return false };
    let (before, now) = (before.bytes(), event.object.bytes());
    let (before, now) = (news(&before), news(&now));
    now.is_some() && now == before
}

fn news(pod: &[u8]) -> Option<News<'_>> {
    let pod: Pod = serde_json::from_slice(pod).ok()?;
    let conditions = match pod.status.get("conditions") {
        Some(conditions) => serde_json::from_str::<Vec<&RawValue>>(conditions.get()).ok()?,
        None => Vec::new(),
    };
    let mut of_others = BTreeMap::new();
    for text in conditions.into_iter().map(RawValue::get) {
        let condition: Condition = serde_json::from_str(text).ok()?;
        // That a node is taken for lost is said in a condition of its agent.
        if !CONDITIONS_OF_AGENT.contains(&&*condition.kind) || condition.reason.as_deref() == Some(NODE_LOST) {
            of_others.insert(condition.kind, text);
        }
    }
    let phase = pod.status.get("phase").map(|phase| phase.get());
    Some(News {
        ends: matches!(phase, Some("\"Succeeded\"" | "\"Failed\"")),
        metadata: without(pod.metadata, &OF_A_WRITE),
        spec: pod.spec.get(),
        status: without(pod.status, &OF_AGENT),
        conditions: of_others,
    })
}

fn without<'a>(fields: Fields<'a>, left_out: &[&str]) -> BTreeMap<Cow<'a, str>, &'a str> {
    let told = fields.into_iter().filter(|(field, _)| !left_out.contains(&&**field));
    told.map(|(field, value)| (field, value.get())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copepod_api::{Body, Expect, Key, Op, Timestamp, Txn, resource::PODS};
    use copepod_store::View;
    use serde_json::{Value, json};

    use super::*;

    fn put(view: &View, pod: &Value) -> (View, Arc<[Event]>) {
        let op = Op::Put { key: Key::new(PODS, "d", "p"), body: Body::encode(pod), expect: Expect::Any };
        let (view, events) = view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap();
        (view, events.into())
    }

    /// What an event is that turns one pod into another.
    fn turns(before: &Value, now: &Value) -> bool {
        let (view, created) = put(&View::default(), before);
        assert!(!is_echo(&created[0]), "a new pod is news");
        is_echo(&put(&view, now).1[0])
    }

    #[test]
    fn only_what_the_agent_has_said_itself_is_an_echo() {
        let scheduled = json!({"type": "PodScheduled", "status": "True"});
        let ready = |status: &str, reason: &str| json!({"type": "Ready", "status": status, "reason": reason});
        let pod = json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "b"}, "managedFields": [1]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "conditions": [scheduled.clone(), ready("False", "")]},
        });
        let with = |path: &str, value: Value| {
            let mut pod = pod.clone();
            let (parent, field) = path.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value;
            pod
        };
        let own = [
            ("/status/phase", json!("Running")),
            ("/status/podIP", json!("10.244.1.2")),
            ("/status/containerStatuses", json!([{"name": "c"}])),
            ("/status/conditions", json!([scheduled.clone(), ready("True", "")])),
            ("/metadata/managedFields", json!([1, 2])),
        ];
        for (path, value) in own {
            assert!(turns(&pod, &with(path, value)), "{path}");
        }
        let of_others = [
            ("/metadata/labels", json!({"a": "c"})),
            ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
            ("/spec/containers", json!([{"name": "c", "image": "another"}])),
            ("/status/phase", json!("Failed")),
            ("/status/nominatedNodeName", json!("n2")),
            ("/status/conditions", json!([scheduled.clone(), ready("False", NODE_LOST)])),
            ("/status/conditions", json!([scheduled, ready("False", ""), {"type": "gate", "status": "True"}])),
            ("/status/conditions", json!([ready("False", "")])),
        ];
        for (path, value) in of_others {
            assert!(!turns(&pod, &with(path, value)), "{path}");
        }
    }
}
