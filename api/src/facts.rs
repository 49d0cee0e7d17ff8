//! What many ask about a pod, read when the object is stored.
//!
//! A typed pod is ten times as large as its bytes, and a cluster may have a hundred thousand. The loops that look at all
//! pods of a set with each change need a handful of facts; with these at hand nobody has to decode a pod to be told that
//! it is ready.

mod node;

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;

pub(crate) use self::node::Head as NodeHead;
pub use self::node::{Health, NodeFacts};
use crate::{Meta, Timestamp};

/// What was read of an object of a kind that many ask about.
#[derive(Clone, Debug)]
pub(crate) enum Facts {
    Pod(PodFacts),
    Node(NodeFacts),
}

/// The reason of a pod's condition `Ready` while nobody knows whether it is: its node is silent.
pub const NODE_LOST: &str = "NodeLost";

/// The phase of a pod, as its status says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub phase: Phase,
    pub is_ready: bool,
    /// Since when it is.
    pub ready_since: Option<Timestamp>,
    /// How often the container was restarted that was restarted most.
    pub restarts: i32,
    /// At most one of each family.
    pub addresses: Vec<Box<str>>,
    pub hostname: Option<Box<str>>,
    pub subdomain: Option<Box<str>>,
}

impl PodFacts {
    pub(crate) const NONE: &'static PodFacts = &PodFacts {
        phase: Phase::Pending,
        is_ready: false,
        ready_since: None,
        restarts: 0,
        addresses: Vec::new(),
        hostname: None,
        subdomain: None,
    };

    /// Its containers have ended and will not be started again.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

/// A pod as far as its facts go.
#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(crate) struct Head<'a> {
    pub metadata: Meta,
    spec: Spec<'a>,
    status: Status<'a>,
}

type Text<'a> = Option<Cow<'a, str>>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    node_name: Option<Arc<str>>,
    #[serde(borrow)]
    hostname: Text<'a>,
    #[serde(borrow)]
    subdomain: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
    #[serde(borrow, rename = "podIP")]
    pod_ip: Text<'a>,
    #[serde(borrow, rename = "podIPs")]
    pod_ips: Option<Vec<Address<'a>>>,
    #[serde(borrow)]
    conditions: Option<Vec<Condition<'a>>>,
    container_statuses: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address<'a> {
    #[serde(borrow)]
    ip: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    type_: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    last_transition_time: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    restart_count: i32,
}

impl Head<'_> {
    pub fn node(&mut self) -> Option<Arc<str>> {
        self.spec.node_name.take().filter(|node| !node.is_empty())
    }

    pub fn facts(&self) -> PodFacts {
        let owned = |text: &Text<'_>| text.as_deref().filter(|text| !text.is_empty()).map(Box::from);
        let status = &self.status;
        let ready = ready(&status.conditions).filter(|ready| ready.status.as_deref() == Some("True"));
        let mut addresses: Vec<Box<str>> =
            status.pod_ips.iter().flatten().filter_map(|address| owned(&address.ip)).collect();
        if addresses.is_empty() {
            addresses.extend(owned(&status.pod_ip));
        }
        PodFacts {
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            is_ready: ready.is_some(),
            ready_since: ready.and_then(|ready| ready.last_transition_time),
            restarts: status
                .container_statuses
                .iter()
                .flatten()
                .map(|container| container.restart_count)
                .max()
                .unwrap_or(0),
            addresses,
            hostname: owned(&self.spec.hostname),
            subdomain: owned(&self.spec.subdomain),
        }
    }
}

/// The condition `Ready`.
fn ready<'c, 'a>(conditions: &'c Option<Vec<Condition<'a>>>) -> Option<&'c Condition<'a>> {
    conditions.iter().flatten().find(|condition| condition.type_.as_deref() == Some("Ready"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(pod: Value) -> PodFacts {
        let text = pod.to_string();
        serde_json::from_str::<Head<'_>>(&text).unwrap().facts()
    }

    #[test]
    fn a_pod_is_ready_as_its_condition_says() {
        let at = "2026-11-23T10:00:00Z";
        let ready = |status: &str| {
            facts(json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [
                {"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": status, "lastTransitionTime": at},
            ]}}))
        };
        let found = ready("True");
        assert!(found.is_ready && !found.has_ended());
        assert_eq!((found.ready_since, found.addresses), (Some(at.parse().unwrap()), vec!["10.0.0.1".into()]));
        assert_eq!((ready("False").is_ready, ready("False").ready_since), (false, None));
    }

    #[test]
    fn what_is_missing_or_null_says_nothing() {
        assert_eq!(facts(json!({})), *PodFacts::NONE);
        let nothing = json!({"spec": {"hostname": ""}, "status": {"conditions": null, "podIPs": [{}], "phase": null}});
        assert_eq!(facts(nothing), *PodFacts::NONE);
        let told = facts(json!({
            "spec": {"hostname": "a\u{301}\"b", "subdomain": "s"},
            "status": {"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "containerStatuses": [{"restartCount": 2}, {"restartCount": 7}]},
        }));
        assert!(told.has_ended());
        assert_eq!((told.restarts, told.addresses.len()), (7, 2));
        assert_eq!(told.hostname.as_deref(), Some("a\u{301}\"b"));
    }
}
