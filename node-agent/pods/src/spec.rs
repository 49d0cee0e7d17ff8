//! Reading a pod's spec, with the defaults in place. The API server writes defaults too; an agent must not depend on it.

use std::borrow::Cow;

use copepod_api::ephemeral::as_container;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, LifecycleHandler, Pod, PodSpec};

/// When nothing says how long a pod may take to leave.
const GRACE_SECONDS: i64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

pub fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

pub fn containers(pod: &Pod) -> &[Container] {
    spec(pod).map_or(&[], |spec| &spec.containers)
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// Those that joined the pod while it ran, as containers that run once.
pub fn ephemeral_containers(pod: &Pod) -> impl Iterator<Item = Container> {
    ephemerals(pod).map(once)
}

fn ephemerals(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    spec(pod).into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

fn once(ephemeral: &EphemeralContainer) -> Container {
    Container { restart_policy: Some("Never".into()), ..as_container(ephemeral) }
}

/// Whose processes an ephemeral container sees beside its own.
pub fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let container = ephemerals(pod).find(|container| container.name == name)?;
    container.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// Those of the pod's own work. Init containers first, as they run.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(containers(pod))
}

/// A container of any sort.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let own = all_containers(pod).find(|container| container.name == name).map(Cow::Borrowed);
    own.or_else(|| ephemerals(pod).find(|container| container.name == name).map(|found| Cow::Owned(once(found))))
}

/// An init container that keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    parse_policy(spec(pod).and_then(|spec| spec.restart_policy.as_deref()))
}

/// The policy of one of the pod's containers, or of one of its init containers.
pub fn restart_policy_of(pod: &Pod, container: &Container, init: bool) -> RestartPolicy {
    if container.restart_policy.is_some() {
        return parse_policy(container.restart_policy.as_deref());
    }
    match restart_policy(pod) {
        // An init container that succeeded has done its work.
        RestartPolicy::Always if init => RestartPolicy::OnFailure,
        policy => policy,
    }
}

fn parse_policy(text: Option<&str>) -> RestartPolicy {
    match text {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// How long the pod may take to leave: what the deletion asks for, else what the spec says.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let asked = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    asked.or(spec(pod).and_then(|spec| spec.termination_grace_period_seconds)).unwrap_or(GRACE_SECONDS).max(0)
}

pub fn post_start(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
}

pub fn pre_stop(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref())
}

pub fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

/// `IfNotPresent` unless the spec says otherwise; images named `latest`, or not named further, are looked up each time.
pub fn pull_policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let image = image(container);
            let last = image.rsplit('/').next().unwrap_or_default();
            if last.contains('@') || (last.contains(':') && !last.ends_with(":latest")) {
                "IfNotPresent"
            } else {
                "Always"
            }
        }
    }
}

pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The phase the control plane knows is final: the pod is never run again, whatever this machine remembers.
pub fn final_phase(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref())?;
    matches!(phase, "Succeeded" | "Failed").then_some(phase)
}
