//! What an agent remembers of a pod over its own restart.
//!
//! The runtime says which containers are there; beside it lie two small files a pod: the addresses of its sandbox, and the
//! status said last. With them the agent takes a running pod over without touching it, and without anybody noticing: a
//! ready container stays ready, and a pod that has ended stays ended even if its containers are gone. After a start of the
//! machine the runtime knows of nothing, and what was said last tells what has run: a container that is not to run a second
//! time does not.

use std::{collections::BTreeMap, fs, io};

use copepod_api::Timestamp;
use copepod_pods::{
    Ended, Observed, ProbeKind, ProbeRecord, Run, RunState, Sandbox, Seen, observed::Hook, spec, status::ID_SCHEME,
};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use serde::{Deserialize, Serialize};

use crate::{
    assignments::write,
    container, executor,
    machine::Machine,
    surface::{FoundContainer, FoundSandbox, FoundState, PodRef},
    worker::pod_ref,
};

#[derive(Serialize, Deserialize)]
struct SavedSandbox {
    attempt: u32,
    ips: Vec<String>,
}

pub fn save_sandbox(machine: &Machine, pod: &PodRef, attempt: u32, ips: &[String]) -> io::Result<()> {
    save(machine, pod, "sandbox.json", &SavedSandbox { attempt, ips: ips.to_vec() })
}

pub fn save_status(machine: &Machine, pod: &PodRef, status: &PodStatus) -> io::Result<()> {
    save(machine, pod, "status.json", status)
}

pub fn saved_status(machine: &Machine, pod: &PodRef) -> Option<PodStatus> {
    load(machine, pod, "status.json")
}

fn save<T: Serialize>(machine: &Machine, pod: &PodRef, name: &str, value: &T) -> io::Result<()> {
    let dir = machine.pod_dir(&pod.uid);
    fs::create_dir_all(&dir)?;
    write(&dir, name, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

fn load<T: serde::de::DeserializeOwned>(machine: &Machine, pod: &PodRef, name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(machine.pod_dir(&pod.uid).join(name)).ok()?).ok()
}

/// What is known of a pod when its worker begins.
pub async fn observed(machine: &Machine, pod: &Pod, said: Option<&PodStatus>, found: &[FoundSandbox]) -> Observed {
    let reference = pod_ref(pod);
    let mut observed = Observed {
        host_ips: machine.host_ips.clone(),
        accepted_at: said.and_then(|said| said.start_time.as_ref()).map(|time| time.0),
        ..Observed::default()
    };
    if let Some(said) = said.filter(|said| said.phase.as_deref() == Some("Failed"))
        && let (Some(reason), Some(message)) = (&said.reason, &said.message)
    {
        observed.verdict = Some(copepod_pods::Verdict { reason: reason.clone(), message: message.clone() });
    }
    let Some(newest) = found.iter().max_by_key(|sandbox| sandbox.attempt) else {
        observed.containers = said.map(|said| of_former_life(pod, said, Timestamp::now())).unwrap_or_default();
        return observed;
    };
    let saved: Option<SavedSandbox> = load(machine, &reference, "sandbox.json");
    observed.sandbox = match saved.filter(|saved| newest.ready && saved.attempt == newest.attempt) {
        Some(saved) => {
            let addresses: Vec<_> = saved.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            if !spec::is_host_network(pod)
                && let Err(error) = machine.rooms.network.adopt(&executor::pod_network(machine, pod), &addresses).await
            {
                tracing::warn!(pod = reference.name, %error, "the pod's addresses could not be taken over");
            }
            Sandbox::Ready { attempt: newest.attempt, ips: saved.ips }
        }
        None => Sandbox::Broken { attempt: newest.attempt },
    };
    let mut by_name: BTreeMap<&str, Vec<&FoundContainer>> = BTreeMap::new();
    for container in found.iter().flat_map(|sandbox| &sandbox.containers) {
        by_name.entry(&container.name).or_default().push(container);
    }
    for (name, mut runs) in by_name {
        runs.sort_by_key(|run| run.attempt);
        observed.containers.insert(name.into(), Box::new(seen(machine, pod, &reference, name, &runs, said)));
    }
    if let Sandbox::Broken { attempt } = observed.sandbox {
        observed.lose_sandbox(attempt);
    }
    observed
}

fn seen(
    machine: &Machine,
    pod: &Pod,
    reference: &PodRef,
    name: &str,
    runs: &[&FoundContainer],
    said: Option<&PodStatus>,
) -> Seen {
    let mut seen = Seen::default();
    let Some((newest, older)) = runs.split_last() else { return seen };
    let known = said.and_then(|said| status_of(said, name));
    seen.previous = older
        .last()
        .and_then(|run| ended(machine, pod, reference, run))
        .or_else(|| known?.last_state.as_ref()?.terminated.as_ref().map(as_said));
    let state = match &newest.state {
        FoundState::Running { since } => RunState::Running { since: *since },
        FoundState::Exited(_) => match ended(machine, pod, reference, newest) {
            Some(ended) => RunState::Ended(ended),
            None => return seen,
        },
    };
    if let RunState::Ended(ended) = &state {
        // How often it failed in a row is not written down; the number of its runs is the most it can be.
        seen.failures = if ended.exit_code == 0 { 0 } else { newest.attempt + 1 };
    }
    seen.run = Some(Run {
        id: newest.id.clone(),
        attempt: newest.attempt,
        image: newest.image.clone(),
        image_id: newest.image_id.clone(),
        resources: known.and_then(|known| known.resources.clone()),
        state,
        // It ran before this agent did, so its hook is through.
        post_start: Hook::Done,
    });
    let same = known.filter(|known| known.container_id.as_deref() == Some(&format!("{ID_SCHEME}{}", newest.id)));
    if let Some(same) = same.filter(|_| seen.running().is_some()) {
        let passed = || ProbeRecord { verdict: Some(true), successes: 1, ..ProbeRecord::default() };
        if same.started == Some(true) {
            seen.probes.insert(ProbeKind::Startup, passed());
        }
        if same.ready {
            seen.probes.insert(ProbeKind::Readiness, passed());
        }
    }
    seen
}

/// The containers of a pod that the runtime knows nothing of, as after a start of the machine: their runs are over, and those
/// that were under way have ended nobody knows how.
fn of_former_life(pod: &Pod, said: &PodStatus, now: Timestamp) -> BTreeMap<String, Box<Seen>> {
    statuses(said).filter_map(|known| Some((known.name.clone(), Box::new(remembered(pod, known, now)?)))).collect()
}

/// `None` of a container that has not run.
fn remembered(pod: &Pod, known: &ContainerStatus, now: Timestamp) -> Option<Seen> {
    let (state, attempt) = (known.state.as_ref()?, u32::try_from(known.restart_count).unwrap_or(0));
    let last = known.last_state.as_ref().and_then(|last| last.terminated.as_ref()).map(as_said);
    let id = known.container_id.as_deref().unwrap_or_default().trim_start_matches(ID_SCHEME);
    let (ended, previous, is_known) = match (&state.terminated, &state.running) {
        (Some(terminated), _) => (as_said(terminated), last, true),
        (None, Some(running)) => {
            let unknown = Ended {
                container_id: id.into(),
                exit_code: 137,
                signal: None,
                reason: "ContainerStatusUnknown".into(),
                message: "the machine was started anew while the container ran".into(),
                started_at: running.started_at.as_ref().map(|time| time.0),
                finished_at: now,
            };
            (unknown, last, false)
        }
        // It waited to be started again.
        (None, None) => (last?, None, true),
    };
    Some(Seen {
        failures: if ended.exit_code == 0 || !is_known { 0 } else { attempt.saturating_add(1) },
        is_of_former_sandbox: true,
        run: Some(Run {
            id: id.into(),
            attempt,
            // Had it another image than the pod asks for, it would be started for that.
            image: spec::container(pod, &known.name)?.image.clone().unwrap_or_default(),
            image_id: known.image_id.clone(),
            resources: known.resources.clone(),
            state: RunState::Ended(ended),
            post_start: Hook::Done,
        }),
        previous,
        ..Seen::default()
    })
}

fn as_said(terminated: &ContainerStateTerminated) -> Ended {
    Ended {
        container_id: terminated.container_id.as_deref().unwrap_or_default().trim_start_matches(ID_SCHEME).into(),
        exit_code: terminated.exit_code,
        signal: terminated.signal,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
        started_at: terminated.started_at.as_ref().map(|time| time.0),
        finished_at: terminated.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    }
}

fn ended(machine: &Machine, pod: &Pod, reference: &PodRef, run: &FoundContainer) -> Option<Ended> {
    let FoundState::Exited(exit) = &run.state else { return None };
    let wanted = spec::container(pod, &run.name);
    let words = executor::last_words(machine, reference, wanted.as_deref(), &run.name, run.attempt, exit);
    Some(container::ended(&run.id, exit, words))
}

fn status_of<'a>(said: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    statuses(said).find(|status| status.name == name)
}

fn statuses(said: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&said.container_statuses, &said.init_container_statuses, &said.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten()
}
