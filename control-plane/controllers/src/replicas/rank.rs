//! Which pods of a set go first when there are too many.
//!
//! The order is Kubernetes': what is not running before what is, cheap before dear (the pod-deletion-cost annotation),
//! crowded before lonely, young before old. Ages are compared by their order of magnitude, so that among pods of about
//! the same age chance (the uid) decides and not always the newest node loses its pods.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
    sync::Arc,
};

use copepod_api::{Object, Of, Phase, Timestamp, Typed, resource::PODS};
use copepod_store::View;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    company: Reverse<usize>,
    ready_magnitude: u32,
    restarts: Reverse<i32>,
    age_magnitude: u32,
    uid: &'a str,
}

pub fn first_to_go<'a, S: Typed>(
    view: &View,
    set: &Of<S>,
    pods: &[&'a Arc<Object>],
    now: Timestamp,
) -> Vec<&'a Arc<Object>> {
    let company = company(view, set);
    let mut ranked: Vec<(Rank<'a>, &'a Arc<Object>)> =
        pods.iter().map(|pod| (rank(pod, &company, now), *pod)).collect();
    ranked.sort_by(|(left, _), (right, _)| left.cmp(right).then(Ordering::Equal));
    ranked.into_iter().map(|(_, pod)| pod).collect()
}

fn rank<'a>(pod: &'a Object, company: &BTreeMap<String, usize>, now: Timestamp) -> Rank<'a> {
    let (node, facts) = (pod.node.as_deref(), pod.facts());
    let cost = pod.meta.annotations.get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    Rank {
        assigned: node.is_some(),
        phase: match facts.phase {
            Phase::Pending => 0,
            Phase::Unknown => 1,
            _ => 2,
        },
        ready: facts.is_ready,
        cost,
        company: Reverse(node.and_then(|node| company.get(node).copied()).unwrap_or(0)),
        ready_magnitude: magnitude(facts.ready_since, now),
        restarts: Reverse(facts.restarts),
        age_magnitude: magnitude(pod.meta.creation_timestamp, now),
        uid: &pod.meta.uid,
    }
}

/// The pods on each node that belong to this set or to a sibling of it (the other revisions of a deployment).
fn company<S: Typed>(view: &View, set: &Of<S>) -> BTreeMap<String, usize> {
    let mut uids = vec![set.uid().to_owned()];
    if let Some(owner) = set.meta().controller() {
        uids = view.dependents_of::<S>(&owner.uid).map(|sibling| sibling.uid().to_owned()).collect();
    }
    let mut company = BTreeMap::new();
    let pods = uids.iter().flat_map(|uid| view.dependents(uid)).filter(|object| object.key.resource == PODS);
    for pod in pods {
        if let (Some(node), false, false) = (pod.node.as_deref(), pod.meta.is_leaving(), pod.facts().has_ended()) {
            *company.entry(node.to_owned()).or_insert(0) += 1;
        }
    }
    company
}

/// The binary order of magnitude of an age in seconds.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let age = since.map_or(0, |since| now.duration_since(since).as_secs().max(0));
    64 - u64::try_from(age).unwrap_or(0).leading_zeros()
}
