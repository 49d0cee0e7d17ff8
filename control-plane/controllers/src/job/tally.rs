//! The pods of a job, counted.
//!
//! A pod is counted once and for all when it ends. Until then a finalizer holds it, so that nobody's cleaning up loses the
//! news; counting and letting go happen in one transaction, so that no pod is counted twice either (KEP-2307).

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::{
    Of, Phase, Timestamp,
    k8s_openapi::api::{
        batch::v1::{Job, JobSpec},
        core::v1::Pod,
    },
};

use super::{
    COMPLETION_INDEX, TRACKING, indexes,
    policy::{self, Meaning},
};
use crate::{pods, time};

#[derive(Default)]
pub struct Tally<'a> {
    /// Neither ended nor leaving.
    pub active: Vec<&'a Of<Pod>>,
    pub ready: usize,
    /// On their way out.
    pub leaving: usize,
    /// Counted by this look, and to be let go.
    pub counted: Vec<&'a Of<Pod>>,
    pub succeeded: i32,
    pub failed: i32,
    pub completed_indexes: BTreeSet<u32>,
    pub failed_indexes: BTreeSet<u32>,
    /// Failures of each index so far.
    pub index_failures: BTreeMap<u32, i32>,
    /// Why the job is to fail, where a policy says so.
    pub verdict: Option<String>,
    /// Indexes that have a pod, as far as that forbids another one.
    pub taken: BTreeSet<u32>,
    /// Ends in failure since the last success, and the last one's time.
    pub streak: i32,
    pub last_failure: Option<Timestamp>,
    /// The most restarts of a pod's containers, together.
    pub restarts: i32,
}

impl<'a> Tally<'a> {
    pub fn of(job: &Of<Job>, spec: &JobSpec, own: &'a [Of<Pod>]) -> Tally<'a> {
        let status = job.status.clone().unwrap_or_default();
        let below = completions(spec);
        let set = |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or_default(), below);
        let mut tally = Tally {
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            completed_indexes: set(&status.completed_indexes),
            failed_indexes: set(&status.failed_indexes),
            ..Tally::default()
        };
        let waits = spec.pod_replacement_policy.as_deref() == Some("Failed");
        let mut ends: Vec<(Timestamp, bool)> = Vec::new();
        for pod in own {
            let index = index(pod).filter(|index| *index < below);
            let is_leaving = pod.meta().is_leaving();
            let phase = pod.object().facts().phase;
            let has_failed = phase == Phase::Failed || (is_leaving && phase != Phase::Succeeded && !waits);
            let is_new = pod.meta().finalizers().iter().any(|finalizer| finalizer == TRACKING);
            match phase {
                Phase::Succeeded => {
                    ends.push((ended_at(pod), true));
                    if is_new {
                        tally.success(index, pod);
                    }
                }
                // Sent away by the controller itself: no failure.
                _ if is_leaving && !is_new && phase != Phase::Failed => {
                    tally.leaving += 1;
                    tally.taken.extend(index.filter(|_| waits));
                }
                _ if has_failed => {
                    ends.push((ended_at(pod), false));
                    if let Some(index) = index {
                        *tally.index_failures.entry(index).or_insert(0) += 1;
                    }
                    if is_new {
                        tally.failure(spec, index, pod);
                    }
                    if is_leaving && phase != Phase::Failed {
                        tally.leaving += 1;
                    }
                }
                _ if is_leaving => {
                    tally.leaving += 1;
                    tally.taken.extend(index);
                }
                _ => {
                    tally.ready += usize::from(pods::is_ready(pod.object()));
                    tally.restarts += total_restarts(pod);
                    tally.taken.extend(index);
                    tally.active.push(pod);
                }
            }
        }
        if is_indexed(spec) {
            tally.succeeded = i32::try_from(tally.completed_indexes.len()).unwrap_or(i32::MAX);
        }
        ends.sort();
        let since = ends.iter().rposition(|(_, well)| *well).map_or(0, |place| place + 1);
        tally.streak = i32::try_from(ends.len() - since).unwrap_or(i32::MAX);
        tally.last_failure = ends[since..].last().map(|(at, _)| *at);
        tally.give_up_indexes(spec);
        tally
    }

    fn success(&mut self, index: Option<u32>, pod: &'a Of<Pod>) {
        self.counted.push(pod);
        match index {
            Some(index) => drop(self.completed_indexes.insert(index)),
            None => self.succeeded += 1,
        }
    }

    fn failure(&mut self, spec: &JobSpec, index: Option<u32>, pod: &'a Of<Pod>) {
        self.counted.push(pod);
        match policy::of_failure(spec, pod.key().namespace(), pod.key().name(), pod) {
            Meaning::Ignored => {
                if let Some(failures) = index.and_then(|index| self.index_failures.get_mut(&index)) {
                    *failures -= 1;
                }
                return;
            }
            Meaning::FailsIndex => self.failed_indexes.extend(index),
            Meaning::FailsJob(why) => self.verdict = self.verdict.take().or(Some(why)),
            Meaning::Counts => {}
        }
        self.failed += 1;
    }

    fn give_up_indexes(&mut self, spec: &JobSpec) {
        if let Some(limit) = spec.backoff_limit_per_index {
            let done = self.index_failures.iter().filter(|(_, failures)| **failures > limit).map(|(index, _)| *index);
            self.failed_indexes.extend(done);
        }
        self.failed_indexes = self.failed_indexes.difference(&self.completed_indexes).copied().collect();
    }
}

pub fn completions(spec: &JobSpec) -> u32 {
    u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0)
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn index(pod: &Of<Pod>) -> Option<u32> {
    pod.meta().annotations.get(COMPLETION_INDEX)?.parse().ok()
}

fn total_restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let lists = [
        status.and_then(|status| status.container_statuses.as_ref()),
        status.and_then(|status| status.init_container_statuses.as_ref()),
    ];
    lists.into_iter().flatten().flatten().map(|container| container.restart_count).sum()
}

/// When the last container ended; where nobody says, when the pod was asked to go or was made.
fn ended_at(pod: &Of<Pod>) -> Timestamp {
    let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    let ends = statuses.filter_map(|container| time::of(&container.state.as_ref()?.terminated.as_ref()?.finished_at));
    let known = ends.max().or(pod.meta().deletion_timestamp()).or(pod.meta().creation_timestamp);
    known.unwrap_or(Timestamp::UNIX_EPOCH)
}
