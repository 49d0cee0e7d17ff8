//! The pods of a set by their ordinals: those that should be, and the surplus.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use copepod_api::{Object, Timestamp};

use super::{Work, identity};
use crate::pods::{self, Fate};

pub struct Members<'a> {
    /// The ordinals that should have a pod.
    pub range: Range<i64>,
    pods: BTreeMap<i64, &'a Arc<Object>>,
    min_ready: i32,
    now: Timestamp,
}

impl<'a> Members<'a> {
    pub fn of(work: &Work<'_>, own: &'a [Arc<Object>]) -> Members<'a> {
        let set = work.set.key().name();
        let start = i64::from(work.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0).max(0));
        let pods = own.iter().filter_map(|pod| Some((identity::ordinal(set, pod.key.name())?, pod))).collect();
        Members {
            range: start..start + i64::from(work.replicas()),
            pods,
            min_ready: work.spec.min_ready_seconds.unwrap_or(0),
            now: work.now,
        }
    }

    pub fn pod(&self, ordinal: i64) -> Option<&'a Arc<Object>> {
        self.pods.get(&ordinal).copied()
    }

    pub fn all(&self) -> impl Iterator<Item = &'a Arc<Object>> + '_ {
        self.pods.values().copied()
    }

    /// Those whose ordinals should have a pod, in order.
    pub fn wanted(&self) -> impl DoubleEndedIterator<Item = (i64, &'a Arc<Object>)> + '_ {
        self.pods.range(self.range.clone()).map(|(ordinal, pod)| (*ordinal, *pod))
    }

    /// The others, in order.
    pub fn surplus(&self) -> impl DoubleEndedIterator<Item = (i64, &'a Arc<Object>)> + '_ {
        self.pods.iter().filter(|(ordinal, _)| !self.range.contains(ordinal)).map(|(ordinal, pod)| (*ordinal, *pod))
    }

    pub fn fate(&self, pod: &Object) -> Fate {
        pods::fate(pod, self.min_ready, self.now)
    }

    pub fn is_available(&self, pod: &Object) -> bool {
        self.fate(pod) == Fate::Available
    }

    /// How many of the wanted ones are not there or cannot be relied on.
    pub fn n_unavailable(&self) -> i64 {
        let available = self.wanted().filter(|(_, pod)| self.is_available(pod)).count();
        self.range.end - self.range.start - available as i64
    }

    /// How many of the wanted ones are not there.
    pub fn n_missing(&self) -> i64 {
        self.range.end - self.range.start - self.wanted().count() as i64
    }

    /// The lowest one of the surplus that is not available, if nothing before it is missing or not available either.
    pub fn is_first_unavailable(&self, pod: &Object) -> bool {
        let first = self.surplus().find(|(_, pod)| !self.is_available(pod));
        self.n_unavailable() == 0 && first.is_some_and(|(_, first)| first.meta.uid == pod.meta.uid)
    }

    /// Whether it has been ready for long enough; one that is leaving may be.
    pub fn is_relied_on(&self, pod: &Object) -> bool {
        !pods::has_ended(pod) && pods::available_at(pod, self.min_ready).is_some_and(|at| at <= self.now)
    }

    /// When the next ready pod will count as available.
    pub fn next_change(&self) -> Option<Timestamp> {
        let ready = self.all().filter(|pod| self.fate(pod) == Fate::Ready);
        ready.filter_map(|pod| pods::available_at(pod, self.min_ready)).min()
    }
}
