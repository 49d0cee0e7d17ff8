//! What several controllers ask about a pod. They ask its facts, so that nobody has to decode it.

use copepod_api::{
    Object, Phase, Timestamp,
    k8s_openapi::api::core::v1::{Pod, PodCondition},
};

use crate::time;

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Its containers have ended and will not be started again.
pub fn has_ended(pod: &Object) -> bool {
    pod.facts().has_ended()
}

/// Its containers have not started yet.
pub fn is_waiting(pod: &Object) -> bool {
    pod.facts().phase == Phase::Pending
}

pub fn is_ready(pod: &Object) -> bool {
    pod.facts().is_ready
}

/// When a ready pod counts as available: it has to stay ready for a while first.
pub fn available_at(pod: &Object, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Timestamp::UNIX_EPOCH);
    }
    pod.facts().ready_since.map(|since| time::after(since, min_ready_seconds.into()))
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

type Rule = fn(&Object, i32, Timestamp) -> bool;

/// In this order; the first rule that holds decides.
const FATES: &[(Fate, Rule)] = &[
    (Fate::Ended, |pod, _, _| has_ended(pod)),
    (Fate::Leaving, |pod, _, _| pod.meta.is_leaving()),
    (Fate::Available, |pod, min_ready, now| available_at(pod, min_ready).is_some_and(|at| at <= now)),
    (Fate::Ready, |pod, _, _| is_ready(pod)),
    (Fate::Starting, |_, _, _| true),
];

pub fn fate(pod: &Object, min_ready_seconds: i32, now: Timestamp) -> Fate {
    let rule = FATES.iter().find(|(_, holds)| holds(pod, min_ready_seconds, now));
    rule.map_or(Fate::Starting, |(fate, _)| *fate)
}
