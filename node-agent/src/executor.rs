//! Carrying actions out: procedures over the rooms. No opinions here; what to do next is not decided in this file.

use std::{collections::BTreeSet, fs, io, sync::Arc, time::Duration};

use copepod_api::Timestamp;
use copepod_pods::spec;
use copepod_volumes::{VolumeError, Volumes};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    adopt, container, credentials, files, kept,
    machine::{Machine, PodSources},
    surface::{
        Exit, HostPort, Image, PodNetwork, PodRef, PullError, PullPolicy, SandboxNetwork, SandboxSpec, StartError,
    },
    worker::{NotStarted, pod_ref},
};

/// The pause before asking again how a container ended, should the runtime not know.
const WAIT_AGAIN: Duration = Duration::from_secs(1);

/// The exit code of a container whose end nobody saw.
const UNKNOWN_EXIT: i32 = 137;

pub fn sandbox_id(pod: &PodRef, attempt: u32) -> String {
    format!("{}-{attempt}", pod.uid)
}

pub async fn prepare_volumes(machine: Arc<Machine>, pod: Arc<Pod>, ips: Vec<String>) -> Result<Volumes, VolumeError> {
    machine.tokens.obtain(&pod).await;
    let work = move || {
        let sources = PodSources { machine: &machine, pod: &pod, pod_ips: &ips };
        let version = Timestamp::now().as_nanosecond().to_string();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        copepod_volumes::prepare(&machine.pod_dir(uid), &pod, &sources, &version)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(VolumeError::Invalid { volume: "(all)".into(), what: format!("preparing volumes failed: {error}") })
    })
}

pub async fn create_sandbox(machine: &Machine, pod: &Pod, attempt: u32) -> Result<Vec<String>, String> {
    let reference = pod_ref(pod);
    let id = sandbox_id(&reference, attempt);
    let made = make_sandbox(machine, pod, &reference, &id, attempt).await;
    if made.is_err() {
        // The next attempt must not trip over half of this one.
        let _ = machine.rooms.network.detach(&reference).await;
        let _ = machine.rooms.runtime.remove_sandbox(&id).await;
    }
    made
}

async fn make_sandbox(
    machine: &Machine,
    pod: &Pod,
    reference: &PodRef,
    id: &str,
    attempt: u32,
) -> Result<Vec<String>, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let log_dir = machine.log_dir(reference);
    fs::create_dir_all(&log_dir).map_err(|error| format!("{}: {error}", log_dir.display()))?;
    let wanted = pod_network(machine, pod);
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let sandbox = SandboxSpec {
        id: id.into(),
        pod: reference.clone(),
        attempt,
        hostname: wanted.hostname.clone(),
        cgroup_parent: container::cgroup_parent(&machine.cgroup, pod),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        host_network: spec::is_host_network(pod),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        log_dir,
        resources: container::pod_resources(pod),
        privileged: spec::all_containers(pod).any(container::is_privileged),
        host_ports: wanted.host_ports.clone(),
    };
    let network = machine.rooms.runtime.create_sandbox(&sandbox).await.map_err(|error| error.0)?;
    let ips = match network {
        SandboxNetwork::Namespace(netns) => {
            let addresses = machine.rooms.network.attach(&wanted, &netns).await.map_err(|error| error.0)?;
            addresses.iter().map(ToString::to_string).collect()
        }
        SandboxNetwork::Given(addresses) => addresses.iter().map(ToString::to_string).collect(),
        SandboxNetwork::Machine => machine.host_ips.clone(),
    };
    adopt::save_sandbox(machine, reference, attempt, &ips).map_err(|error| error.to_string())?;
    files::write(machine, pod, &ips, &wanted.resolv_conf).map_err(|error| format!("the pod's files: {error}"))?;
    Ok(ips)
}

/// What a pod asks of the network.
pub fn pod_network(machine: &Machine, pod: &Pod) -> PodNetwork {
    PodNetwork {
        pod: pod_ref(pod),
        object: pod.clone(),
        host_ports: host_ports(pod),
        hostname: files::hostname(pod, &machine.name),
        resolv_conf: machine.rooms.network.resolv_conf(pod),
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = spec::all_containers(pod).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// Ends and removes sandboxes, with all that their containers hold.
pub async fn remove_sandboxes(
    machine: &Machine,
    pod: &PodRef,
    ids: &BTreeSet<String>,
    containers: &[String],
) -> Result<(), String> {
    for id in ids {
        machine.rooms.runtime.remove_sandbox(id).await.map_err(|error| format!("sandbox {id}: {error}"))?;
    }
    for id in containers {
        machine.rooms.images.release(id).await.map_err(|error| format!("root of {id}: {error}"))?;
    }
    machine.rooms.network.detach(pod).await.map_err(|error| format!("network: {error}"))
}

/// Leaves nothing of the pod on this machine but what it wrote.
pub async fn tear_down(
    machine: &Machine,
    object: Arc<Pod>,
    pod: &PodRef,
    ids: &BTreeSet<String>,
    containers: &[String],
) -> Result<(), String> {
    remove_sandboxes(machine, pod, ids, containers).await?;
    let (pod_dir, log_dir) = (machine.pod_dir(&pod.uid), machine.log_dir(pod));
    let data_dir = machine.data_dir.clone();
    let work = move || -> io::Result<()> {
        copepod_volumes::tear_down(&pod_dir)?;
        kept::keep(&data_dir, &object, &log_dir, Timestamp::now())
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    machine.tokens.forget(&pod.uid);
    done.map_err(|error| format!("directories: {error}"))
}

pub async fn ensure_image(machine: &Machine, pod: &Pod, container: &Container) -> Result<Image, PullError> {
    let policy = match spec::pull_policy(container) {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    };
    let reference = spec::image(container);
    if reference.trim().is_empty() {
        return Err(PullError::InvalidName("the container names no image".into()));
    }
    let credentials = credentials::of(machine, pod);
    machine.rooms.images.ensure(reference, policy, &credentials).await
}

/// Creates and starts a container.
#[expect(clippy::too_many_arguments, reason = "all of what a container is made of, gathered once")]
pub async fn start(
    machine: &Machine,
    pod: &Pod,
    wanted: &Container,
    attempt: u32,
    id: &str,
    sandbox_id: &str,
    target: Option<String>,
    image: Image,
    volumes: &Volumes,
    ips: &[String],
) -> Result<Timestamp, NotStarted> {
    let env = container::env(machine, pod, wanted, &image, ips).map_err(NotStarted::Config)?;
    let rootfs = machine
        .rooms
        .images
        .rootfs(&image, id)
        .await
        .map_err(|error| NotStarted::Runtime(StartError::Create(format!("root file system: {error}"))))?;
    let world = container::World { machine, pod, image: &image, volumes, rootfs, sandbox_id, attempt, id, target };
    let spec = match container::spec(&world, wanted, env) {
        Ok(spec) => spec,
        Err(message) => {
            let _ = machine.rooms.images.release(id).await;
            return Err(NotStarted::Config(message));
        }
    };
    match machine.rooms.runtime.start(&spec).await {
        Ok(started) => Ok(started),
        Err(error) => {
            let _ = machine.rooms.runtime.remove_container(id).await;
            let _ = machine.rooms.images.release(id).await;
            Err(if stands(machine, sandbox_id).await { NotStarted::Runtime(error) } else { NotStarted::Sandbox })
        }
    }
}

/// Whether a pod's sandbox can be used; where nobody can tell, it can.
pub async fn stands(machine: &Machine, sandbox_id: &str) -> bool {
    machine.rooms.runtime.has_sandbox(sandbox_id).await.unwrap_or(true)
}

/// Gives a running container the amounts of its spec.
pub async fn resize(machine: &Machine, pod: &Pod, wanted: &Container, id: &str) -> Result<(), String> {
    let resources = container::resources(machine, pod, wanted);
    machine.rooms.runtime.resize(id, &resources).await.map_err(|error| error.0)
}

/// Keeps this run and the one before; older ones are history.
pub async fn clear_older_runs(machine: &Machine, pod: &PodRef, name: &str, attempt: u32) {
    // The run before has ended: its processes are gone and its log is kept.
    let before = container::id(pod, name, attempt - 1);
    let _ = machine.rooms.runtime.remove_container(&before).await;
    let _ = machine.rooms.images.release(&before).await;
    if let Some(older) = attempt.checked_sub(2) {
        let log = machine.log_path(pod, name, older);
        let _ = fs::remove_file(&log);
        let _ = fs::remove_dir_all(files::run_dir(machine, pod, name, older));
    }
}

/// Waits for the end of a container, however long the runtime cannot say.
pub async fn wait(machine: &Machine, id: &str) -> Exit {
    let mut failures = 0;
    loop {
        match machine.rooms.runtime.wait(id).await {
            Ok(exit) => return exit,
            // Asked a few times: the runtime itself may be restarting.
            Err(error) if failures < 10 => {
                failures += 1;
                tracing::warn!(id, %error, "cannot wait for the container");
                tokio::time::sleep(WAIT_AGAIN).await;
            }
            Err(_) => {
                let finished_at = Timestamp::now();
                return Exit { code: UNKNOWN_EXIT, signal: None, oom_killed: false, started_at: None, finished_at };
            }
        }
    }
}

/// What a container left to say when it ended: its termination message, or the end of its log if it failed without one.
pub fn last_words(
    machine: &Machine,
    pod: &PodRef,
    wanted: Option<&Container>,
    name: &str,
    attempt: u32,
    exit: &Exit,
) -> String {
    let said = files::termination_message(machine, pod, name, attempt);
    let failed = exit.code != 0;
    if !said.is_empty() || !failed {
        return said;
    }
    let fallback =
        wanted.and_then(|wanted| wanted.termination_message_policy.as_deref()) == Some("FallbackToLogsOnError");
    let lines = if fallback { crate::logs::LAST_LINES_ASKED } else { crate::logs::LAST_LINES };
    crate::logs::tail(&machine.log_path(pod, name, attempt), lines)
}
