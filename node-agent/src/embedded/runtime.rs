//! The embedded runtime, in the agent's words.

use std::{path::PathBuf, time::Duration};

use copepod_api::Timestamp;
use copepod_runtime::{Embedded, RuntimeError};

use crate::{
    AgentConfig, AgentError,
    surface::{
        ContainerSpec, ExecOutput, Exit, Failure, FoundContainer, FoundSandbox, FoundState, PodRef, Process,
        Propagation, Resources, Runtime, SandboxNetwork, SandboxSpec, StartError, Usage, User, UserAsked, UserIds,
        Wanted,
    },
};

pub struct Containers(Embedded);

impl Containers {
    pub fn open(config: &AgentConfig) -> Result<Containers, AgentError> {
        let room = |reason: String| AgentError::Room { room: "runtime", reason };
        let program = std::env::current_exe().map_err(|error| room(format!("the path of this program: {error}")))?;
        Embedded::open(&config.run_dir, program).map(Containers).map_err(|error| room(error.0))
    }
}

#[tonic::async_trait]
impl Runtime for Containers {
    async fn list(&self) -> Result<Vec<FoundSandbox>, Failure> {
        let sandboxes = self.0.list().await.map_err(failure)?;
        Ok(sandboxes.into_iter().map(found).collect())
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxNetwork, Failure> {
        let netns = self.0.create_sandbox(&sandbox(spec)).await.map_err(failure)?;
        Ok(netns.map_or(SandboxNetwork::Machine, SandboxNetwork::Namespace))
    }

    async fn has_sandbox(&self, id: &str) -> Result<bool, Failure> {
        Ok(self.0.has_sandbox(id).await)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Failure> {
        self.0.remove_sandbox(id).await.map_err(failure)
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        let own = container(spec).map_err(StartError::Create)?;
        self.0.start(&own).await.map_err(start_error)
    }

    async fn wait(&self, id: &str) -> Result<Exit, Failure> {
        self.0.wait(id).await.map(exit).map_err(failure)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Failure> {
        self.0.stop(id, grace).await.map_err(failure)
    }

    async fn resize(&self, id: &str, wanted: &Resources) -> Result<(), Failure> {
        self.0.resize(id, &resources(wanted)).map_err(failure)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Failure> {
        self.0.remove_container(id).await.map_err(failure)
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Failure> {
        let said = self.0.exec(id, command, timeout).await.map_err(failure)?;
        Ok(ExecOutput { exit_code: said.exit_code, output: said.output })
    }

    async fn run(&self, id: &str, command: &[String], wanted: Wanted) -> Result<Process, Failure> {
        self.0.run(id, command, wanted).await.map_err(failure)
    }

    async fn attach(&self, id: &str, wanted: Wanted) -> Result<Process, Failure> {
        self.0.attach(id, wanted.stdin).await.map_err(failure)
    }

    fn network_namespace(&self, sandbox: &str) -> Option<PathBuf> {
        self.0.network_namespace(sandbox)
    }

    async fn usage(&self) -> Vec<Usage> {
        self.0.usage().into_iter().map(usage).collect()
    }

    fn version(&self) -> String {
        Embedded::version()
    }
}

pub(crate) fn failure(error: RuntimeError) -> Failure {
    Failure(error.0)
}

fn pod(pod: &PodRef) -> copepod_runtime::Pod {
    copepod_runtime::Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

pub(crate) fn start_error(error: copepod_runtime::StartError) -> StartError {
    match error {
        copepod_runtime::StartError::Create(text) => StartError::Create(text),
        copepod_runtime::StartError::Run(text) => StartError::Run(text),
    }
}

pub(crate) fn usage(usage: copepod_runtime::Usage) -> Usage {
    Usage {
        pod_uid: usage.pod_uid,
        container: usage.container,
        memory_bytes: usage.memory_bytes,
        cpu_nanoseconds: usage.cpu_nanoseconds,
    }
}

pub(crate) fn sandbox(spec: &SandboxSpec) -> copepod_runtime::SandboxSpec {
    let host_ports = spec.host_ports.iter().map(|port| copepod_runtime::HostPort {
        protocol: port.protocol.clone(),
        host_ip: port.host_ip,
        host_port: port.host_port,
        container_port: port.container_port,
    });
    copepod_runtime::SandboxSpec {
        id: spec.id.clone(),
        pod: pod(&spec.pod),
        attempt: spec.attempt,
        hostname: spec.hostname.clone(),
        cgroup_parent: spec.cgroup_parent.clone(),
        sysctls: spec.sysctls.clone(),
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        share_pid: spec.share_pid,
        privileged: spec.privileged,
        log_dir: spec.log_dir.clone(),
        host_ports: host_ports.collect(),
    }
}

pub(crate) fn found(sandbox: copepod_runtime::SandboxState) -> FoundSandbox {
    let pod = sandbox.spec.pod;
    FoundSandbox {
        id: sandbox.spec.id,
        pod: PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid },
        attempt: sandbox.spec.attempt,
        ready: sandbox.ready,
        containers: sandbox.containers.into_iter().map(found_container).collect(),
    }
}

pub(crate) fn exit(exit: copepod_runtime::Exit) -> Exit {
    Exit {
        code: exit.code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

fn found_container(container: copepod_runtime::ContainerState) -> FoundContainer {
    FoundContainer {
        id: container.id,
        name: container.name,
        attempt: container.attempt,
        image: container.image,
        image_id: container.image_id,
        state: match container.state {
            copepod_runtime::State::Running { since, .. } => FoundState::Running { since },
            copepod_runtime::State::Exited(ended) => FoundState::Exited(exit(ended)),
        },
    }
}

pub(crate) fn resources(resources: &Resources) -> copepod_runtime::Resources {
    copepod_runtime::Resources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        memory_limit_bytes: resources.memory_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
    }
}

pub(crate) fn container(spec: &ContainerSpec) -> Result<copepod_runtime::ContainerSpec, String> {
    let capabilities = spec.capabilities.as_ref();
    Ok(copepod_runtime::ContainerSpec {
        id: spec.id.clone(),
        sandbox_id: spec.sandbox_id.clone(),
        pod: pod(&spec.pod),
        name: spec.name.clone(),
        attempt: spec.attempt,
        image: spec.image.clone(),
        image_id: spec.image_id.clone(),
        rootfs: spec.rootfs.clone(),
        read_only_rootfs: spec.read_only_rootfs,
        args: spec.args.clone(),
        env: spec.env.clone(),
        working_dir: spec.working_dir.clone(),
        user: match &spec.user {
            User::Known(UserIds { uid, gid, groups }) => {
                copepod_runtime::UserIds { uid: *uid, gid: *gid, groups: groups.clone() }
            }
            User::Asked(_) => copepod_runtime::UserIds::default(),
        },
        user_asked: match &spec.user {
            User::Known(_) => None,
            User::Asked(UserAsked { user, group, groups, is_strict }) => Some(copepod_runtime::UserAsked {
                user: user.clone(),
                group: *group,
                groups: groups.clone(),
                is_strict: *is_strict,
            }),
        },
        mounts: spec
            .mounts
            .iter()
            .map(|mount| copepod_runtime::Mount {
                source: mount.source.clone(),
                target: mount.target.clone(),
                read_only: mount.read_only,
                propagation: match mount.propagation {
                    Propagation::Private => copepod_runtime::Propagation::Private,
                    Propagation::HostToContainer => copepod_runtime::Propagation::HostToContainer,
                    Propagation::Bidirectional => copepod_runtime::Propagation::Bidirectional,
                },
            })
            .collect(),
        privileged: spec.privileged,
        no_new_privileges: spec.no_new_privileges,
        capabilities: copepod_runtime::Capabilities {
            add: capabilities.and_then(|asked| asked.add.clone()).unwrap_or_default(),
            drop: capabilities.and_then(|asked| asked.drop.clone()).unwrap_or_default(),
        },
        seccomp: seccomp(spec)?,
        unmasked_proc: spec.unmasked_proc,
        resources: resources(&spec.resources),
        cgroup_parent: spec.cgroup_parent.clone(),
        log_path: spec.log_path.clone(),
        stop_signal: spec.stop_signal.clone(),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        target: spec.target.clone(),
    })
}

/// Where profiles that pods name are looked for, as elsewhere.
const PROFILES: &str = "/var/lib/kubelet/seccomp";

fn seccomp(spec: &ContainerSpec) -> Result<copepod_runtime::Seccomp, String> {
    let Some(profile) = &spec.seccomp else { return Ok(copepod_runtime::Seccomp::Unconfined) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(copepod_runtime::Seccomp::Unconfined),
        "RuntimeDefault" => Ok(copepod_runtime::Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let plain =
                std::path::Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if name.is_empty() || !plain {
                return Err(format!("seccompProfile.localhostProfile {name:?} must be a path below {PROFILES}"));
            }
            Ok(copepod_runtime::Seccomp::Localhost(PathBuf::from(PROFILES).join(name)))
        }
        other => Err(format!("seccompProfile.type {other:?} is none of RuntimeDefault, Localhost, Unconfined")),
    }
}
