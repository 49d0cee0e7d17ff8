//! The next steps of a pod's life.

use copepod_api::time::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    Action, Actions, Observed, Verdict,
    backoff::{self, later},
    observed::{Hook, Image, Sandbox, Seen, Step},
    probe::ProbeKind,
    resize,
    spec::{self, RestartPolicy},
    stop,
};

/// A pod of this machine, and whether it shall be here.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    /// As it was last heard of.
    pub pod: &'a Pod,
    /// False once the control plane no longer knows the pod, or gave it to another node.
    pub wanted: bool,
}

impl Desired<'_> {
    pub fn is_leaving(&self) -> bool {
        !self.wanted || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// What to do now for one pod, and when to ask again.
pub fn next(desired: Desired, observed: &Observed, now: Timestamp) -> Actions {
    let mut actions = Actions::default();
    if observed.gone {
        return actions;
    }
    if desired.is_leaving() {
        stop::leave(desired, observed, now, &mut actions);
    } else if observed.verdict.is_some() || spec::final_phase(desired.pod).is_some() {
        stop::finish(desired.pod, observed, now, &mut actions);
    } else if let Some(verdict) = overdue(desired.pod, observed, now, &mut actions) {
        actions.push(Action::Condemn(verdict));
    } else if has_ended(desired.pod, observed) {
        stop::finish(desired.pod, observed, now, &mut actions);
    } else {
        run(desired.pod, observed, now, &mut actions);
    }
    actions.now.retain(|action| !observed.busy.contains(&action.job()));
    actions
}

/// Every container has run for the last time.
pub fn has_ended(pod: &Pod, observed: &Observed) -> bool {
    let failed_init = spec::init_containers(pod).iter().any(|container| {
        let policy = spec::restart_policy_of(pod, container, true);
        policy == RestartPolicy::Never && ended_code(observed, container).is_some_and(|code| code != 0)
    });
    // A failed init container ends the pod only before its containers have begun.
    if failed_init && !has_begun(pod, observed) {
        return true;
    }
    let containers = spec::containers(pod);
    !containers.is_empty()
        && containers.iter().all(|container| match ended_code(observed, container) {
            None => false,
            Some(code) => !runs_again(pod, container, false, code),
        })
}

/// Some container that is no init container has run in this sandbox.
pub fn has_begun(pod: &Pod, observed: &Observed) -> bool {
    let has_run = |seen: &Seen| seen.run.is_some() && !seen.is_of_former_sandbox;
    spec::containers(pod).iter().any(|container| seen(observed, container).is_some_and(has_run))
}

/// An init container that has done its work in a sandbox that is no more: another sandbox needs it again.
fn is_undone(init: bool, seen: &Seen) -> bool {
    init && seen.is_of_former_sandbox && seen.ended().is_some_and(|ended| ended.exit_code == 0)
}

/// Whether a container that ended with `code` is to be started again.
pub fn runs_again(pod: &Pod, container: &Container, init: bool, code: i32) -> bool {
    match spec::restart_policy_of(pod, container, init) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// `activeDeadlineSeconds` has passed.
fn overdue(pod: &Pod, observed: &Observed, now: Timestamp, actions: &mut Actions) -> Option<Verdict> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    if has_ended(pod, observed) {
        return None;
    }
    let deadline = later(observed.accepted_at?, SignedDuration::from_secs(seconds));
    if now < deadline {
        actions.at(deadline);
        return None;
    }
    Some(Verdict {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
    })
}

/// Brings the pod up, and keeps it up.
fn run(pod: &Pod, observed: &Observed, now: Timestamp, actions: &mut Actions) {
    // Everything a container needs is fetched at once, not one after the other.
    let volumes = prepare_volumes(observed, now, actions);
    let sandbox = create_sandbox(observed, now, actions);
    for container in spec::all_containers(pod) {
        ensure_image(container, pod, observed, now, actions);
    }
    let held = resize::pending(pod, observed).is_some();
    if held {
        actions.at(resize::again(now));
    }

    let ready = volumes && sandbox;
    let around = Around { observed, now, ready, held };
    for container in spec::ephemeral_containers(pod) {
        join(pod, &container, &around, actions);
    }
    let initialized = run_init_containers(pod, &around, actions);
    if initialized {
        for container in spec::containers(pod) {
            run_container(pod, container, false, &around, actions);
        }
    }
}

/// What decides about all containers of a pod alike.
struct Around<'a> {
    observed: &'a Observed,
    now: Timestamp,
    /// There is a place for them to run in.
    ready: bool,
    /// Their amounts stay as they are for now.
    held: bool,
}

/// Runs an ephemeral container, once what it looks into runs.
fn join(pod: &Pod, container: &Container, around: &Around, actions: &mut Actions) {
    let is_running = |name: &str| around.observed.containers.get(name).is_some_and(|seen| seen.running().is_some());
    let has_run = seen(around.observed, container).is_some_and(|seen| seen.run.is_some());
    if has_run || spec::target(pod, &container.name).is_none_or(is_running) {
        ensure_image(container, pod, around.observed, around.now, actions);
        run_container(pod, container, false, around, actions);
    }
}

fn prepare_volumes(observed: &Observed, now: Timestamp, actions: &mut Actions) -> bool {
    match &observed.volumes {
        Step::Done => return true,
        Step::Pending => actions.push(Action::PrepareVolumes),
        Step::Failed(trouble) => {
            if wait_until(backoff::retry_at(trouble), now, actions) {
                actions.push(Action::PrepareVolumes);
            }
        }
    }
    false
}

fn create_sandbox(observed: &Observed, now: Timestamp, actions: &mut Actions) -> bool {
    match &observed.sandbox {
        Sandbox::Ready { .. } => return true,
        Sandbox::Absent => actions.push(Action::CreateSandbox { attempt: 0 }),
        Sandbox::Broken { .. } => actions.push(Action::RemoveSandbox),
        Sandbox::Failed { attempt, trouble } => {
            if wait_until(backoff::retry_at(trouble), now, actions) {
                actions.push(Action::CreateSandbox { attempt: attempt + 1 });
            }
        }
        // Stopped while ended, and yet wanted again: only a changed spec can do that; begin anew.
        Sandbox::Stopped { .. } => actions.push(Action::RemoveSandbox),
    }
    false
}

/// True when the image is there for the container's next run.
fn image_ready(container: &Container, seen: Option<&Seen>) -> bool {
    let Some(Seen { image: Image::Ready { attempt, .. }, .. }) = seen else { return false };
    let next = seen.map_or(0, Seen::next_attempt);
    spec::pull_policy(container) != "Always" || *attempt == next
}

fn ensure_image(container: &Container, pod: &Pod, observed: &Observed, now: Timestamp, actions: &mut Actions) {
    let seen = seen(observed, container);
    if !needs_start(pod, container, seen) || image_ready(container, seen) {
        return;
    }
    let attempt = seen.map_or(0, Seen::next_attempt);
    if let Some(Seen { image: Image::Failed(trouble), .. }) = seen
        && (trouble.hopeless || !wait_until(backoff::pull_at(trouble), now, actions))
    {
        return;
    }
    actions.push(Action::EnsureImage { container: container.name.clone(), attempt });
}

fn needs_start(pod: &Pod, container: &Container, seen: Option<&Seen>) -> bool {
    let Some(seen) = seen else { return true };
    let init = spec::init_containers(pod).iter().any(|other| other.name == container.name);
    match &seen.run {
        None => true,
        Some(_) if seen.running().is_some() => false,
        Some(_) if is_undone(init, seen) => true,
        Some(_) => seen.ended().is_some_and(|ended| runs_again(pod, container, init, ended.exit_code)),
    }
}

/// Runs the init containers in their order; true once the others may run.
fn run_init_containers(pod: &Pod, around: &Around, actions: &mut Actions) -> bool {
    let observed = around.observed;
    let begun = has_begun(pod, observed);
    for container in spec::init_containers(pod) {
        let seen = seen(observed, container);
        if spec::is_sidecar(container) {
            run_container(pod, container, true, around, actions);
            if !begun && !seen.is_some_and(|seen| seen.started(container)) {
                return false;
            }
            continue;
        }
        // Their records may be gone when the containers have long begun: they are not repeated.
        let is_done = |seen: &Seen| seen.ended().is_some_and(|ended| ended.exit_code == 0) && !is_undone(true, seen);
        if begun || seen.is_some_and(is_done) {
            continue;
        }
        run_container(pod, container, true, around, actions);
        return false;
    }
    true
}

fn run_container(pod: &Pod, container: &Container, init: bool, around: &Around, actions: &mut Actions) {
    let Around { observed, now, ready, held } = *around;
    let nothing = Seen::default();
    let seen = seen(observed, container).unwrap_or(&nothing);
    match &seen.run {
        Some(run) if seen.running().is_some() => {
            let resized = !held && resize::restarts(container, run);
            if seen.stop.is_some() || run.image != spec::image(container) || resized || fails(container, seen) {
                stop::restart(pod, container, seen, now, actions);
            } else {
                if !held && resize::differs(container, run) {
                    give(container, seen, now, actions);
                }
                attend(container, seen, now, actions);
            }
        }
        None => start(container, seen, now, ready, actions),
        Some(run) => {
            let Some(ended) = seen.ended() else { return };
            let changed = run.image != spec::image(container) || (!held && resize::restarts(container, run));
            let changed = changed || is_undone(init, seen);
            if !changed && !runs_again(pod, container, init, ended.exit_code) {
                return;
            }
            if changed || wait_until(backoff::restart_at(seen.failures, ended), now, actions) {
                start(container, seen, now, ready, actions);
            }
        }
    }
}

/// Has the amounts of a running container changed.
fn give(container: &Container, seen: &Seen, now: Timestamp, actions: &mut Actions) {
    if seen.resize_trouble.as_ref().is_none_or(|trouble| wait_until(backoff::retry_at(trouble), now, actions)) {
        actions.push(Action::Resize { container: container.name.clone() });
    }
}

fn start(container: &Container, seen: &Seen, now: Timestamp, ready: bool, actions: &mut Actions) {
    if let Some(trouble) = &seen.start_trouble
        && !wait_until(backoff::retry_at(trouble), now, actions)
    {
        return;
    }
    if ready && image_ready(container, Some(seen)) {
        actions.push(Action::Start { container: container.name.clone(), attempt: seen.next_attempt() });
    }
}

/// The container must be stopped and run anew: it says so itself, or its hook failed.
pub(crate) fn fails(container: &Container, seen: &Seen) -> bool {
    let failed = |kind: ProbeKind| {
        kind.of(container).is_some() && seen.probes.get(&kind).and_then(|record| record.verdict) == Some(false)
    };
    let hook_failed = seen.running().is_some_and(|(run, _)| run.post_start == Hook::Failed);
    hook_failed || failed(ProbeKind::Liveness) || failed(ProbeKind::Startup)
}

/// Hooks and probes of a running container.
fn attend(container: &Container, seen: &Seen, now: Timestamp, actions: &mut Actions) {
    let Some((run, since)) = seen.running() else { return };
    if spec::post_start(container).is_some() && run.post_start == Hook::Pending {
        actions.push(Action::PostStart { container: container.name.clone() });
        return;
    }
    let started = seen.started(container);
    for kind in ProbeKind::ALL {
        let Some(probe) = kind.of(container) else { continue };
        // The startup probe holds the others back, and is over once it passed.
        if (kind == ProbeKind::Startup) == started {
            continue;
        }
        let due = seen.probes.get(&kind).cloned().unwrap_or_default().due(kind, probe, since);
        if wait_until(due, now, actions) {
            actions.push(Action::Probe { container: container.name.clone(), kind });
        }
    }
}

pub(crate) fn seen<'a>(observed: &'a Observed, container: &Container) -> Option<&'a Seen> {
    observed.containers.get(&container.name).map(|seen| &**seen)
}

fn ended_code(observed: &Observed, container: &Container) -> Option<i32> {
    seen(observed, container).and_then(Seen::ended).map(|ended| ended.exit_code)
}

/// True when `at` has come; otherwise it is the time to look again.
fn wait_until(at: Timestamp, now: Timestamp, actions: &mut Actions) -> bool {
    if now < at {
        actions.at(at);
    }
    now >= at
}
