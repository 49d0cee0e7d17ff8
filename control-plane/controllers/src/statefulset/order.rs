//! In which order pods come, are replaced and go.
//!
//! Three steps, each only when the one before has nothing left to do: fill what is missing, from the lowest ordinal; take
//! away the surplus, from the highest; replace pods of other revisions, from the highest. `OrderedReady` does one thing at
//! a time and waits until it is done and everything below is available; `Parallel` waits for nothing in the first two
//! steps. In both, a pod is made only where none of its name is left, and that one fails or that its node is silent
//! changes nothing about it: the object stands for what may still run.
//!
//! The rules are those of https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/. A set whose newest
//! template is broken stays where it is, with `OrderedReady` even when the template is mended: people have to delete the
//! broken pod, as the section "Forced rollback" tells them. With `Parallel` old pods that do not work are replaced
//! first, and take nothing from what may be unavailable (kubernetes/kubernetes#137409).

use std::sync::Arc;

use copepod_api::{Key, Object, k8s_openapi::api::apps::v1::RollingUpdateStatefulSetStrategy, resource::PODS};

use super::{Work, claims, identity, members::Members};
use crate::{
    percent::{self, Round},
    pods::Fate,
};

/// How many pods one plan creates or deletes. A larger set grows in several transactions, so that no single one holds up
/// everybody else's for long.
const BURST: usize = 500;

/// What is to be done about pods now.
#[derive(Default)]
pub struct Draft<'a> {
    /// The ordinals to make pods for.
    pub create: Vec<i64>,
    pub delete: Vec<&'a Arc<Object>>,
    pub waits: Vec<String>,
}

impl Draft<'_> {
    fn wait(&mut self, why: impl Into<String>) {
        self.waits.push(why.into());
    }
}

/// `is_refused`: pods were refused before, so as many as still fit are made one by one.
pub fn draft<'a>(work: &Work<'_>, members: &Members<'a>, newest: &str, is_refused: bool) -> Draft<'a> {
    let mut draft = Draft::default();
    let burst = if is_refused { 1 } else { BURST };
    if fill(&mut draft, work, members, burst) && shrink(&mut draft, work, members) {
        roll(&mut draft, work, members, newest);
    }
    draft
}

/// Whether the next step may be taken.
fn fill<'a>(draft: &mut Draft<'a>, work: &Work<'_>, members: &Members<'a>, burst: usize) -> bool {
    let is_ordered = work.is_ordered();
    for ordinal in members.range.clone() {
        if draft.create.len() >= burst {
            return false;
        }
        let Some(pod) = members.pod(ordinal) else {
            match obstacle(work, ordinal) {
                Some(why) => draft.wait(why),
                None => draft.create.push(ordinal),
            }
            if is_ordered || draft.waits.len() >= BURST {
                return false;
            }
            continue;
        };
        let why = match members.fate(pod) {
            Fate::Available => continue,
            // Never revived, and never two at a time: the next one comes when this one is gone.
            Fate::Ended if !pod.meta.is_leaving() => {
                draft.delete.push(pod);
                "has ended"
            }
            Fate::Ended | Fate::Leaving => "is still leaving",
            Fate::Ready => "is not ready for long enough",
            Fate::Starting => "is not ready",
        };
        if is_ordered {
            draft.wait(format!("pod {} {why}", pod.key.name()));
            return false;
        }
    }
    true
}

/// Why there can be no pod of this ordinal yet.
fn obstacle(work: &Work<'_>, ordinal: i64) -> Option<String> {
    let name = identity::name(work.set.key().name(), ordinal);
    let key = Key::new(PODS, work.set.key().name.namespace.clone(), name.as_str());
    let is_taken = work.view.object(&key).is_some();
    is_taken
        .then(|| format!("there is a pod {name} that is not of the set"))
        .or_else(|| claims::obstacle(work, ordinal))
}

fn shrink<'a>(draft: &mut Draft<'a>, work: &Work<'_>, members: &Members<'a>) -> bool {
    let is_ordered = work.is_ordered();
    for (_, pod) in members.surplus().rev() {
        let fate = members.fate(pod);
        let goes = match fate {
            _ if pod.meta.is_leaving() => false,
            Fate::Available | Fate::Ended => true,
            _ => !is_ordered || members.is_first_unavailable(pod),
        };
        if goes && draft.delete.len() < BURST {
            draft.delete.push(pod);
        } else if is_ordered {
            let what = if pod.meta.is_leaving() { "is still leaving" } else { "is not ready, and neither is another" };
            draft.wait(format!("pod {} {what}", pod.key.name()));
        }
        if is_ordered {
            return false;
        }
    }
    true
}

fn roll<'a>(draft: &mut Draft<'a>, work: &Work<'_>, members: &Members<'a>, newest: &str) {
    let strategy = work.spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let first = members.range.start.saturating_add(partition(rolling));
    let is_old = |pod: &Object| identity::revision(pod) != Some(newest) && !pod.meta.is_leaving();
    let old: Vec<&Arc<Object>> = members
        .wanted()
        .rev()
        .take_while(|(ordinal, _)| *ordinal >= first)
        .map(|(_, pod)| pod)
        .filter(|pod| is_old(pod) && members.fate(pod) != Fate::Ended)
        .collect();
    let mut left = max_unavailable(rolling, work.replicas()) - members.n_unavailable();
    let (broken, working): (Vec<_>, Vec<_>) = old.into_iter().partition(|pod| members.fate(pod) == Fate::Starting);
    let room = BURST.saturating_sub(draft.delete.len());
    let mut doomed = broken;
    for pod in working {
        // One that is ready but not yet available is missing already.
        let is_available = members.is_available(pod);
        if left - i64::from(is_available) < 0 {
            break;
        }
        left -= i64::from(is_available);
        doomed.push(pod);
    }
    doomed.truncate(room);
    draft.delete.extend(doomed);
}

/// The number of ordinals, from the first, that keep the revision they have.
pub fn partition(rolling: Option<&RollingUpdateStatefulSetStrategy>) -> i64 {
    rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0).into()
}

/// A share is rounded down, but one pod may always be missing, or nothing would ever move.
fn max_unavailable(rolling: Option<&RollingUpdateStatefulSetStrategy>, replicas: i32) -> i64 {
    let stated = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    stated.map_or(1, |value| percent::of(value, replicas, Round::Down)).max(1).into()
}
