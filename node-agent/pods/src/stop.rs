//! How containers and pods end: in order.
//!
//! A pod that is asked to leave is first taken out of every node's data path. Only when the control plane says so
//! (`released`) do its preStop hooks run and its containers get their signal, so no request is sent to a process that is
//! already going. A pod that the control plane no longer knows was taken out long ago and does not wait.

use copepod_api::time::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    Action, Actions, Observed,
    backoff::later,
    next::{Desired, fails, seen},
    observed::{Hook, Sandbox, Seen},
    probe::ProbeKind,
    spec,
};

/// How long a leaving pod waits to be released. The control plane does not wait for silent nodes, so this bound is for a
/// node that is cut off while a pod of it leaves, or whose neighbours live and cannot change their data paths: it may then
/// stop without anybody's consent.
pub const RELEASE_WAIT: SignedDuration = SignedDuration::from_secs(10);

/// What a container still gets when its preStop hook has used up all of the grace, as in Kubernetes.
const LAST_GRACE_SECONDS: i64 = 2;

/// The pod shall leave this machine.
pub(crate) fn leave(desired: Desired, observed: &Observed, now: Timestamp, actions: &mut Actions) {
    let Some(since) = observed.leaving_since else {
        // The agent notes the time before it asks; without it, treat the wait as begun now.
        return actions.at(now);
    };
    if must_wait(desired, observed) && now < later(since, RELEASE_WAIT) {
        return actions.at(later(since, RELEASE_WAIT));
    }
    if stop_all(desired.pod, observed, now, actions) && !starting(observed) {
        actions.push(Action::TearDown);
    }
}

/// The pod has ended by itself, or was condemned: its processes go, what can be read stays.
pub(crate) fn finish(pod: &Pod, observed: &Observed, now: Timestamp, actions: &mut Actions) {
    if stop_all(pod, observed, now, actions) && !starting(observed) {
        match observed.sandbox {
            Sandbox::Stopped { .. } | Sandbox::Absent => (),
            _ => actions.push(Action::StopSandbox),
        }
    }
}

/// Only a pod that may be receiving traffic has something to wait for.
fn must_wait(desired: Desired, observed: &Observed) -> bool {
    let forced = desired.pod.metadata.deletion_grace_period_seconds == Some(0);
    let serving = spec::containers(desired.pod)
        .iter()
        .any(|container| seen(observed, container).is_some_and(|seen| seen.running().is_some() && seen.stop.is_none()));
    desired.wanted && !observed.released && !forced && serving
}

/// Something is being made at this moment; it has to be there before it can be cleared away.
fn starting(observed: &Observed) -> bool {
    use crate::Job;
    observed.busy.iter().any(|job| matches!(job, Job::Start(_) | Job::Sandbox | Job::Volumes | Job::Image(_)))
}

/// Stops the containers, then the sidecars, the last one first. True when nothing runs any more.
fn stop_all(pod: &Pod, observed: &Observed, now: Timestamp, actions: &mut Actions) -> bool {
    let grace = spec::grace_seconds(pod);
    let began = observed.containers.values().filter_map(|seen| seen.stop.as_ref()).map(|stop| stop.since).min();
    // The whole pod has one grace: sidecars get what the others left of it.
    let left = began.map_or(grace, |began| (grace - now.duration_since(began).as_secs()).max(0));

    let mut running = false;
    let sidecars: Vec<&Container> = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).collect();
    for container in spec::all_containers(pod).filter(|container| !sidecars.iter().any(|s| s.name == container.name)) {
        if let Some(seen) = seen(observed, container).filter(|seen| seen.running().is_some()) {
            running = true;
            stop_container(container, seen, grace, now, actions);
        }
    }
    for container in sidecars.iter().rev() {
        if running {
            return false;
        }
        if let Some(seen) = seen(observed, container).filter(|seen| seen.running().is_some()) {
            running = true;
            stop_container(container, seen, left.min(grace), now, actions);
        }
    }
    // Those that joined the pod, and those that the spec no longer (or, for a pod we only found, never) names.
    for (name, seen) in &observed.containers {
        if seen.running().is_some() && spec::all_containers(pod).all(|container| container.name != *name) {
            running = true;
            let nameless = Container { name: name.clone(), ..Container::default() };
            stop_container(&nameless, seen, grace, now, actions);
        }
    }
    !running
}

/// Stops one container so that it can be run anew.
pub(crate) fn restart(pod: &Pod, container: &Container, seen: &Seen, now: Timestamp, actions: &mut Actions) {
    let probe = [ProbeKind::Liveness, ProbeKind::Startup]
        .into_iter()
        .filter(|kind| seen.probes.get(kind).and_then(|record| record.verdict) == Some(false))
        .find_map(|kind| kind.of(container).and_then(|probe| probe.termination_grace_period_seconds));
    let grace = if fails(container, seen) { probe } else { None };
    stop_container(container, seen, grace.unwrap_or_else(|| spec::grace_seconds(pod)), now, actions);
}

fn stop_container(container: &Container, seen: &Seen, grace: i64, now: Timestamp, actions: &mut Actions) {
    let name = &container.name;
    let end = |since: Timestamp| later(since, SignedDuration::from_secs(grace));
    let Some(stop) = &seen.stop else {
        // The agent notes `since` when it takes the first of these two.
        match spec::pre_stop(container) {
            Some(_) if grace > 0 => actions.push(Action::PreStop { container: name.clone(), seconds: grace }),
            _ => actions.push(Action::Stop { container: name.clone(), grace_seconds: grace }),
        }
        return;
    };
    if let Some(deadline) = stop.deadline {
        // Asked again with less patience: the pod is deleted with a shorter grace than before.
        let wanted = end(stop.since);
        if later(wanted, SignedDuration::from_secs(LAST_GRACE_SECONDS)) < deadline && now < deadline {
            let seconds = wanted.duration_since(now).as_secs().max(0);
            actions.push(Action::Stop { container: name.clone(), grace_seconds: seconds });
        }
        return;
    }
    let waiting = spec::pre_stop(container).is_some() && stop.pre_stop == Hook::Pending;
    if waiting && now < end(stop.since) {
        return actions.at(end(stop.since));
    }
    let left = end(stop.since).duration_since(now).as_secs();
    let least = if grace == 0 { 0 } else { LAST_GRACE_SECONDS.min(grace) };
    actions.push(Action::Stop { container: name.clone(), grace_seconds: left.max(least) });
}
