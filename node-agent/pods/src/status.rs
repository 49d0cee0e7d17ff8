//! What is said about a pod, exactly as Kubernetes says it.

use copepod_api::{NODE_LOST, Timestamp};
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    Observed, QosClass, backoff,
    next::{has_begun, has_ended, runs_again, seen},
    observed::{Ended, Image, RunState, Sandbox, Seen, Step, Trouble},
    resize, spec,
};

/// The scheme of our container ids, where others have `containerd://`.
pub const ID_SCHEME: &str = "copepod://";

/// Conditions this agent decides; all others belong to somebody else and are carried along.
const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"];

/// Conditions that are there only while the amounts of containers change.
const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Whether the control plane has given up hearing of the pod. Where it has while the agent spoke, the agent must speak again:
/// its word was taken for older than the silence.
pub fn is_taken_for_lost(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut ready = conditions.into_iter().flatten().filter(|condition| condition.type_ == "Ready");
    ready.any(|ready| ready.reason.as_deref() == Some(NODE_LOST))
}

/// Whether all that is said of a pod is that it begins: nothing has run, and nothing is in its way.
pub fn is_beginning(status: &PodStatus) -> bool {
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let mut containers = all.into_iter().flatten().flatten();
    status.phase.as_deref() == Some("Pending")
        && containers.all(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| {
                waiting.message.is_none()
                    && matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing"))
            }) && container.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
        })
}

/// The status of a pod, from what was seen of it.
pub fn status(pod: &Pod, observed: &Observed, now: Timestamp) -> PodStatus {
    let before = pod.status.as_ref();
    // Whatever this agent said in a life before it said to the API server: it was final.
    if let Some(known) = before.filter(|_| spec::final_phase(pod).is_some() && observed.reported.is_none())
        && observed.containers.values().all(|seen| seen.run.is_none())
    {
        return PodStatus { observed_generation: pod.metadata.generation, ..known.clone() };
    }
    let statuses = |init: bool| -> Vec<ContainerStatus> {
        let containers = if init { spec::init_containers(pod) } else { spec::containers(pod) };
        containers.iter().map(|container| container_status(pod, container, init, observed, now)).collect()
    };
    let init_statuses = statuses(true);
    let container_statuses = statuses(false);
    let ephemeral_statuses: Vec<ContainerStatus> = spec::ephemeral_containers(pod)
        // Nobody waits for them, so they are never ready.
        .map(|container| ContainerStatus { ready: false, ..container_status(pod, &container, false, observed, now) })
        .collect();
    let phase = phase(pod, observed, &init_statuses, &container_statuses);
    let conditions = conditions(pod, observed, phase, &container_statuses, now);

    let ips = if spec::is_host_network(pod) && !matches!(observed.sandbox, Sandbox::Absent) {
        &observed.host_ips[..]
    } else {
        observed.sandbox.ips()
    };
    PodStatus {
        observed_generation: pod.metadata.generation,
        phase: Some(phase.into()),
        reason: observed.verdict.as_ref().map(|verdict| verdict.reason.clone()),
        message: observed.verdict.as_ref().map(|verdict| verdict.message.clone()),
        conditions: Some(conditions),
        host_ip: observed.host_ips.first().cloned(),
        host_ips: Some(observed.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: observed.accepted_at.map(seconds),
        qos_class: Some(QosClass::of(pod).name().into()),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        container_statuses: Some(container_statuses),
        ephemeral_container_statuses: (!ephemeral_statuses.is_empty()).then_some(ephemeral_statuses),
        nominated_node_name: before.and_then(|status| status.nominated_node_name.clone()),
        resource_claim_statuses: before.and_then(|status| status.resource_claim_statuses.clone()),
        ..PodStatus::default()
    }
}

fn phase(pod: &Pod, observed: &Observed, init: &[ContainerStatus], containers: &[ContainerStatus]) -> &'static str {
    if observed.verdict.is_some() {
        return "Failed";
    }
    match spec::final_phase(pod) {
        Some("Succeeded") => return "Succeeded",
        Some(_) => return "Failed",
        None => (),
    }
    let exit = |status: &ContainerStatus| terminated(status).map(|terminated| terminated.exit_code);
    let running = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    let begun = containers.iter().any(|status| status.container_id.is_some());
    if !begun {
        if has_ended(pod, observed) && init.iter().any(|status| exit(status).is_some_and(|code| code != 0)) {
            return "Failed";
        }
        let waiting = spec::init_containers(pod).iter().zip(init).any(|(container, status)| {
            if spec::is_sidecar(container) { status.started != Some(true) } else { exit(status) != Some(0) }
        });
        if waiting {
            return "Pending";
        }
    }
    if has_ended(pod, observed) {
        let ok = containers.iter().all(|status| exit(status) == Some(0));
        return if ok { "Succeeded" } else { "Failed" };
    }
    // A container that waits for its next run has been running; one that waits for its first has not.
    let has_run = |status: &ContainerStatus| {
        running(status)
            || terminated(status).is_some()
            || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    };
    if !containers.is_empty() && containers.iter().all(has_run) { "Running" } else { "Pending" }
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn container_status(
    pod: &Pod,
    container: &Container,
    init: bool,
    observed: &Observed,
    now: Timestamp,
) -> ContainerStatus {
    let nothing = Seen::default();
    let seen = seen(observed, container).unwrap_or(&nothing);
    let state = state(pod, container, init, seen, observed, now);
    let waits = state.waiting.is_some();
    // The newest run that ended is `state` while nothing better can be said, and `lastState` once it waits to run again.
    let last = if waits { seen.ended().or(seen.previous.as_ref()) } else { seen.previous.as_ref() };
    let run = seen.run.as_ref();
    let image_id = match (&seen.image, run) {
        (_, Some(run)) => run.image_id.clone(),
        (Image::Ready { .. }, None) | (_, None) => String::new(),
    };
    let started = seen.started(container);
    let ready = if init && !spec::is_sidecar(container) {
        seen.ended().is_some_and(|ended| ended.exit_code == 0)
    } else {
        seen.ready(container)
    };
    ContainerStatus {
        name: container.name.clone(),
        image: run.map_or_else(|| spec::image(container).to_owned(), |run| run.image.clone()),
        image_id,
        container_id: run.filter(|run| !run.id.is_empty()).map(|run| format!("{ID_SCHEME}{}", run.id)),
        restart_count: run.map_or(0, |run| i32::try_from(run.attempt).unwrap_or(i32::MAX)),
        started: Some(started),
        ready,
        state: Some(state),
        last_state: Some(ContainerState { terminated: last.map(terminated_state), ..ContainerState::default() }),
        // What it runs with, and what it was promised: they differ while a resize is under way.
        resources: seen.running().map_or(container.resources.clone(), |(run, _)| run.resources.clone()),
        allocated_resources: resize::allocated(
            container,
            seen.running().map(|(run, _)| run),
            resize::pending(pod, observed).is_some(),
        ),
        ..ContainerStatus::default()
    }
}

fn state(
    pod: &Pod,
    container: &Container,
    init: bool,
    seen: &Seen,
    observed: &Observed,
    now: Timestamp,
) -> ContainerState {
    let run = match &seen.run {
        Some(run) => run,
        None => return waiting_first(pod, container, seen, observed, now),
    };
    match &run.state {
        RunState::Running { since } => {
            // Until its hook is through, a container is still being created.
            if spec::post_start(container).is_some() && run.post_start == crate::observed::Hook::Pending {
                return waiting("ContainerCreating", None);
            }
            ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(seconds(*since)) }),
                ..ContainerState::default()
            }
        }
        RunState::Ended(ended) => {
            let over = observed.verdict.is_some()
                || spec::final_phase(pod).is_some()
                || pod.metadata.deletion_timestamp.is_some()
                || observed.leaving_since.is_some();
            if over || !runs_again(pod, container, init, ended.exit_code) {
                return ContainerState { terminated: Some(terminated_state(ended)), ..ContainerState::default() };
            }
            if let Some(state) = trouble_state(container, seen, now) {
                return state;
            }
            // One failure is an accident and shown as what it was; from the second on it is a loop.
            if seen.failures > 1 {
                let wait = backoff::restart_wait(seen.failures).as_secs();
                return waiting(
                    "CrashLoopBackOff",
                    Some(format!(
                        "back-off {wait}s restarting failed container={} pod={}",
                        container.name,
                        full_name(pod)
                    )),
                );
            }
            ContainerState { terminated: Some(terminated_state(ended)), ..ContainerState::default() }
        }
    }
}

fn waiting_first(pod: &Pod, container: &Container, seen: &Seen, observed: &Observed, now: Timestamp) -> ContainerState {
    if let Some(state) = trouble_state(container, seen, now) {
        return state;
    }
    // As kubelets say it, and as clients await it: a pod that has init containers is being initialized until each
    // of its containers has begun, these themselves among them.
    let reason = if spec::init_containers(pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let message = match (&observed.volumes, &observed.sandbox) {
        (Step::Failed(trouble), _) => Some(trouble.message.clone()),
        (_, Sandbox::Failed { trouble, .. }) => Some(trouble.message.clone()),
        _ => None,
    };
    waiting(reason, message)
}

/// What keeps a container from being started, if it is its image or its configuration.
fn trouble_state(container: &Container, seen: &Seen, now: Timestamp) -> Option<ContainerState> {
    if let Image::Failed(trouble) = &seen.image {
        return Some(image_state(container, trouble, now));
    }
    seen.start_trouble.as_ref().map(|trouble| waiting(&trouble.reason, Some(trouble.message.clone())))
}

/// A fresh failure is named; while waiting for the next attempt it is a back-off. Both carry the cause.
fn image_state(container: &Container, trouble: &Trouble, now: Timestamp) -> ContainerState {
    if trouble.hopeless || trouble.reason != "ErrImagePull" || trouble.count < 2 || now <= trouble.at {
        return waiting(&trouble.reason, Some(trouble.message.clone()));
    }
    let message = format!("Back-off pulling image \"{}\": ErrImagePull: {}", spec::image(container), trouble.message);
    waiting("ImagePullBackOff", Some(message))
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..ContainerState::default()
    }
}

fn terminated_state(ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: (!ended.container_id.is_empty()).then(|| format!("{ID_SCHEME}{}", ended.container_id)),
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: (!ended.message.is_empty()).then(|| ended.message.clone()),
        started_at: ended.started_at.map(seconds),
        finished_at: Some(seconds(ended.finished_at)),
    }
}

/// All init containers have done their work, or the containers behind them have begun.
fn is_initialized(pod: &Pod, observed: &Observed) -> bool {
    has_begun(pod, observed)
        || spec::init_containers(pod).iter().all(|container| {
            let Some(seen) = seen(observed, container) else { return false };
            if spec::is_sidecar(container) {
                seen.started(container)
            } else {
                seen.ended().is_some_and(|ended| ended.exit_code == 0)
            }
        })
}

fn conditions(
    pod: &Pod,
    observed: &Observed,
    phase: &str,
    statuses: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let over = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let foreign: Vec<PodCondition> = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| !OWN_CONDITIONS.iter().chain(&RESIZE_CONDITIONS).any(|own| *own == condition.type_))
        .cloned()
        .collect();

    let unready: Vec<&str> = statuses.iter().filter(|status| !status.ready).map(|status| &*status.name).collect();
    let unready_text = format!("containers with unready status: [{}]", unready.join(" "));
    let containers_ready = match over {
        Some(reason) => no(reason, ""),
        None if unready.is_empty() && !statuses.is_empty() => yes(),
        None => no("ContainersNotReady", &unready_text),
    };
    let gates: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !foreign.iter().any(|condition| condition.type_ == *gate && condition.status == "True"))
        .collect();
    let ready = match &containers_ready {
        Said { yes: true, .. } if !gates.is_empty() => no(
            "ReadinessGatesNotReady",
            &format!("the status of pod readiness gates is not \"True\": [{}]", gates.join(" ")),
        ),
        other => other.clone(),
    };
    let initialized = match over {
        Some("PodCompleted") => Said { yes: true, reason: "PodCompleted".into(), message: String::new() },
        _ if is_initialized(pod, observed) => yes(),
        Some(reason) => no(reason, ""),
        None => {
            let missing: Vec<&str> = spec::init_containers(pod)
                .iter()
                .filter(|container| {
                    let seen = seen(observed, container);
                    !seen.is_some_and(|s| s.started(container) || s.ended().is_some_and(|ended| ended.exit_code == 0))
                })
                .map(|container| container.name.as_str())
                .collect();
            no("ContainersNotInitialized", &format!("containers with incomplete status: [{}]", missing.join(" ")))
        }
    };
    let sandbox = if matches!(observed.sandbox, Sandbox::Ready { .. }) { yes() } else { no("", "") };

    let all = [sandbox, initialized, containers_ready.clone(), ready, yes()];
    // In the order of `OWN_CONDITIONS`: `Ready` before `ContainersReady` would read better, and Kubernetes sorts neither.
    let said = OWN_CONDITIONS.iter().zip(all);
    let resizing = RESIZE_CONDITIONS.into_iter().zip(resizing(pod, observed, phase));
    let resizing = resizing.filter_map(|(type_, said)| Some((type_, said?)));
    said.map(|(type_, said)| (*type_, said))
        .chain(resizing)
        .map(|(type_, said)| condition(type_, said, pod, observed, now))
        .chain(foreign)
        .collect()
}

/// How far a change of amounts has come: whether it waits for room, and whether it is being carried out.
fn resizing(pod: &Pod, observed: &Observed, phase: &str) -> [Option<Said>; 2] {
    if phase != "Running" || !resize::is_wanted(pod, observed) {
        return [None, None];
    }
    if let Some(pending) = resize::pending(pod, observed) {
        return [Some(Said { yes: true, reason: pending.reason.into(), message: pending.message }), None];
    }
    let trouble = observed.containers.values().find_map(|seen| seen.resize_trouble.as_ref());
    let (reason, message) = trouble.map_or(("", ""), |trouble| (&*trouble.reason, &*trouble.message));
    [None, Some(Said { yes: true, reason: reason.into(), message: message.into() })]
}

#[derive(Clone)]
struct Said {
    yes: bool,
    reason: String,
    message: String,
}

fn yes() -> Said {
    Said { yes: true, reason: String::new(), message: String::new() }
}

fn no(reason: &str, message: &str) -> Said {
    Said { yes: false, reason: reason.into(), message: message.into() }
}

/// The condition, with the time at which its status last changed.
fn condition(type_: &str, said: Said, pod: &Pod, observed: &Observed, now: Timestamp) -> PodCondition {
    let status = if said.yes { "True" } else { "False" };
    let before = observed.reported.as_ref().or(pod.status.as_ref());
    let since = before
        .and_then(|before| before.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == status))
        .and_then(|condition| condition.last_transition_time.clone());
    PodCondition {
        type_: type_.into(),
        status: status.into(),
        reason: (!said.reason.is_empty()).then_some(said.reason),
        message: (!said.message.is_empty()).then_some(said.message),
        last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// `metav1.Time` has whole seconds.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_is_taken_for_lost_as_its_condition_says() {
        let told = |conditions: Value| {
            let pod = json!({"metadata": {}, "spec": {"containers": []}, "status": {"conditions": conditions}});
            is_taken_for_lost(&serde_json::from_value(pod).unwrap())
        };
        assert!(told(json!([{"type": "Ready", "status": "False", "reason": "NodeLost"}])));
        assert!(!told(json!([{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}])));
        assert!(!told(json!([{"type": "Initialized", "status": "True", "reason": "NodeLost"}])) && !told(json!(null)));
    }

    #[test]
    fn a_pod_begins_until_something_runs_or_is_in_its_way() {
        let told = |phase: &str, state: Value| {
            let containers = json!([{"name": "a", "image": "x", "state": state}]);
            let status = json!({"phase": phase, "containerStatuses": containers});
            is_beginning(&serde_json::from_value(status).unwrap())
        };
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        assert!(told("Pending", waiting("ContainerCreating")) && told("Pending", waiting("PodInitializing")));
        for (phase, state) in [
            ("Pending", waiting("ErrImagePull")),
            ("Pending", json!({"waiting": {"reason": "ContainerCreating", "message": "no such ConfigMap"}})),
            ("Pending", json!({"running": {}})),
            ("Running", waiting("ContainerCreating")),
            ("Failed", waiting("ContainerCreating")),
            ("Pending", json!({})),
        ] {
            assert!(!told(phase, state.clone()), "{phase} {state}");
        }
    }
}
