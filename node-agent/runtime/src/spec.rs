//! What is asked of a runtime, and what it says.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use copepod_api::Timestamp;
use serde::{Deserialize, Serialize};

/// Names a pod on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub id: String,
    pub pod: Pod,
    pub attempt: u32,
    pub hostname: String,
    /// `copepod/<node>/<qos>/pod<uid>`, below the root of each cgroup hierarchy.
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_pid: bool,
    /// Some container of the pod is privileged: a CRI runtime wants to know that beforehand.
    #[serde(default)]
    pub privileged: bool,
    /// Logs of all containers are below it.
    #[serde(default)]
    pub log_dir: PathBuf,
    /// Ports of the machine that lead to the pod, for runtimes that bring their own network.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each hundred milliseconds.
    pub cpu_quota: Option<i64>,
    pub memory_limit_bytes: Option<i64>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub id: String,
    pub sandbox_id: String,
    pub pod: Pod,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub rootfs: PathBuf,
    pub read_only_rootfs: bool,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub user: UserIds,
    pub mounts: Vec<Mount>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub capabilities: Capabilities,
    pub seccomp: Seccomp,
    /// `/proc` without masked paths.
    pub unmasked_proc: bool,
    pub resources: Resources,
    pub cgroup_parent: String,
    pub log_path: PathBuf,
    /// `SIGTERM` where nothing else is said.
    pub stop_signal: Option<String>,
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub stdin_once: bool,
    #[serde(default)]
    pub tty: bool,
    /// Set where the image's files are the runtime's alone, which then looks up what is not said; `user` has no meaning.
    #[serde(default)]
    pub user_asked: Option<UserAsked>,
    /// The container of the same pod whose processes this one sees.
    #[serde(default)]
    pub target: Option<String>,
}

/// Who runs a container, as far as it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserAsked {
    /// A number or a name; the image's user where there is none.
    pub user: Option<String>,
    pub group: Option<u32>,
    pub groups: Vec<u32>,
    /// Groups that the image says the user is in do not count.
    pub is_strict: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Names without `CAP_`; `ALL` is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile in the form of the OCI runtime specification.
    Localhost(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A sandbox that is there.
#[derive(Clone, Debug)]
pub struct SandboxState {
    pub spec: SandboxSpec,
    /// Its shim lives, so its namespaces can be used.
    pub ready: bool,
    pub containers: Vec<ContainerState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub cgroup: String,
    pub stop_signal: Option<String>,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Running { pid: i32, since: Timestamp },
    Exited(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 and the signal, where one ended it.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StartError {
    /// The container could not be made.
    #[error("{0}")]
    Create(String),
    /// It was made, and its command could not be run.
    #[error("{0}")]
    Run(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuntimeError(pub String);

impl<T: Into<String>> From<T> for RuntimeError {
    fn from(text: T) -> RuntimeError {
        RuntimeError(text.into())
    }
}

/// What a command in a container said: standard output and error as they came, up to a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub output: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub pod_uid: String,
    pub container: String,
    pub memory_bytes: u64,
    pub cpu_nanoseconds: u64,
}
