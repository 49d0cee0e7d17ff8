//! What several controllers ask about a pod.

use copepod_api::{
    Meta, Timestamp,
    k8s_openapi::api::core::v1::{Pod, PodCondition},
};

use crate::time;

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Its containers have ended and will not be started again.
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Failed" | "Succeeded")
}

pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    time::of(&ready.last_transition_time)
}

/// When a ready pod counts as available: it has to stay ready for a while first.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Timestamp::UNIX_EPOCH);
    }
    ready_since(pod).map(|since| time::after(since, min_ready_seconds.into()))
}

pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
}

/// Where a pod stands in the eyes of the set that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Asked to go; not counted, so its replacement comes at once.
    Leaving,
    /// Never revived: a replacement is a new pod.
    Ended,
    Available,
    /// Ready, but not for long enough.
    Ready,
    Starting,
}

type Rule = fn(&Pod, &Meta, i32, Timestamp) -> bool;

/// In this order; the first rule that holds decides.
const FATES: &[(Fate, Rule)] = &[
    (Fate::Ended, |pod, _, _, _| has_ended(pod)),
    (Fate::Leaving, |_, meta, _, _| meta.is_leaving()),
    (Fate::Available, |pod, _, min_ready, now| available_at(pod, min_ready).is_some_and(|at| at <= now)),
    (Fate::Ready, |pod, _, _, _| is_ready(pod)),
    (Fate::Starting, |_, _, _, _| true),
];

pub fn fate(pod: &Pod, meta: &Meta, min_ready_seconds: i32, now: Timestamp) -> Fate {
    let rule = FATES.iter().find(|(_, holds)| holds(pod, meta, min_ready_seconds, now));
    rule.map_or(Fate::Starting, |(fate, _)| *fate)
}
