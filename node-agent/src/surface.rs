//! What the agent needs of the rooms it assembles, as small traits.
//!
//! The pod worker is written against these, and its tests bring a runtime, a network and an image store that exist only
//! in memory. What implements them for real stands in `embedded`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use copepod_api::Timestamp;
pub use copepod_network::Range;
pub use copepod_proto::nodes::SlicePort;
use k8s_openapi::{
    List,
    api::{
        core::v1::{Capabilities, Namespace, Pod, SeccompProfile, Service},
        networking::v1::NetworkPolicy,
    },
};

pub use copepod_runtime::{Process, Reader, Size, Wanted, Writer};

use crate::node::{self, MachineUsage};

/// What went wrong, said for people; the worker adds what it was doing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl<T: Into<String>> From<T> for Failure {
    fn from(text: T) -> Failure {
        Failure(text.into())
    }
}

/// Names a pod on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug)]
pub struct SandboxSpec {
    pub id: String,
    pub pod: PodRef,
    pub attempt: u32,
    pub hostname: String,
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// All containers see each other's processes.
    pub share_pid: bool,
    pub log_dir: PathBuf,
    /// Bounds of the pod as a whole, where every container has one.
    pub resources: Resources,
    /// Some container of the pod is privileged.
    pub privileged: bool,
    /// For a runtime that brings its own network; others leave them to the agent's.
    pub host_ports: Vec<HostPort>,
}

/// How the pod of a sandbox is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxNetwork {
    /// At the machine's own addresses.
    Machine,
    /// Not yet: this is its namespace, and the agent's network gives it addresses.
    Namespace(PathBuf),
    /// By the runtime's network, which gave it these.
    Given(Vec<IpAddr>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each hundred milliseconds.
    pub cpu_quota: Option<i64>,
    pub memory_limit_bytes: Option<i64>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Debug)]
pub struct ContainerSpec {
    pub id: String,
    pub sandbox_id: String,
    pub pod: PodRef,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    /// Empty where the images, and so the roots, are the runtime's own.
    pub rootfs: PathBuf,
    pub read_only_rootfs: bool,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub user: User,
    pub mounts: Vec<Mount>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub capabilities: Option<Capabilities>,
    pub seccomp: Option<SeccompProfile>,
    pub unmasked_proc: bool,
    pub resources: Resources,
    pub cgroup_parent: String,
    pub log_path: PathBuf,
    pub stop_signal: Option<String>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// The container of the same pod whose processes this one sees.
    pub target: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Known(UserIds),
    /// The image's files are the runtime's alone: it looks up what is not said.
    Asked(UserAsked),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserAsked {
    /// A number or a name; the image's user where there is none.
    pub user: Option<String>,
    pub group: Option<u32>,
    pub groups: Vec<u32>,
    /// Groups that the image says the user is in do not count.
    pub is_strict: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A sandbox that was there when the agent looked.
#[derive(Clone, Debug)]
pub struct FoundSandbox {
    pub id: String,
    pub pod: PodRef,
    pub attempt: u32,
    /// Its namespaces are usable.
    pub ready: bool,
    pub containers: Vec<FoundContainer>,
}

#[derive(Clone, Debug)]
pub struct FoundContainer {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub state: FoundState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundState {
    Running { since: Timestamp },
    Exited(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The container could not be made.
    Create(String),
    /// It was made, and its command could not be run: no such file, not executable.
    Run(String),
}

/// What a command in a container said.
#[derive(Clone, Debug, Default)]
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

/// Sandboxes and containers. Every call may be repeated: what is gone already is removed, what is stopped is stopped.
#[tonic::async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn list(&self) -> Result<Vec<FoundSandbox>, Failure>;
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxNetwork, Failure>;
    /// Whether containers can run in the sandbox: it is there, and what holds it lives.
    async fn has_sandbox(&self, id: &str) -> Result<bool, Failure>;
    /// Ends every process of the sandbox, and removes it with its containers.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Failure>;
    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError>;
    /// Returns when the container has ended; at once, if it had.
    async fn wait(&self, id: &str) -> Result<Exit, Failure>;
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Failure>;
    /// Gives a running container other amounts of what it uses.
    async fn resize(&self, id: &str, resources: &Resources) -> Result<(), Failure>;
    async fn remove_container(&self, id: &str) -> Result<(), Failure>;
    /// Runs a command in a container and waits for it. `Err` only if it could not be run.
    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Failure>;
    /// Starts a command in a container; its streams are the caller's.
    async fn run(&self, id: &str, command: &[String], wanted: Wanted) -> Result<Process, Failure>;
    /// The streams of a container's own process.
    async fn attach(&self, id: &str, wanted: Wanted) -> Result<Process, Failure>;
    /// Where a sandbox's network namespace is pinned, if the agent may go there; `/proc/self/ns/net` is the machine's.
    fn network_namespace(&self, sandbox: &str) -> Option<PathBuf>;
    async fn usage(&self) -> Vec<Usage>;
    /// Of the whole machine.
    fn machine_usage(&self) -> MachineUsage {
        node::usage()
    }
    /// `copepod://0.1.0`.
    fn version(&self) -> String;
}

/// How a pod wants to be reached.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    pub pod: PodRef,
    /// What policies ask after: its labels, and the names of its ports.
    pub object: Pod,
    pub host_ports: Vec<HostPort>,
    pub hostname: String,
    /// What its containers find in `/etc/resolv.conf`.
    pub resolv_conf: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: String,
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// Objects by namespace and name. Whoever keeps what it was told shares it.
pub type Shared<T> = Arc<BTreeMap<String, Arc<T>>>;

pub type Slices = Shared<Slice>;

/// Everything the node's data path is made of.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub services: Shared<Service>,
    pub slices: Slices,
    pub peers: Peers,
    pub policies: Shared<NetworkPolicy>,
    pub namespaces: Shared<Namespace>,
    /// All pods of every node while there are policies, with no more than their labels, addresses and named ports.
    pub neighbours: Shared<List<Pod>>,
}

/// Of an EndpointSlice, what the data path is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub namespace: String,
    /// Whose endpoints they are.
    pub service: String,
    pub revision: u64,
    pub ports: Vec<SlicePort>,
    pub endpoints: BTreeMap<Ipv4Addr, Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Takes requests.
    pub is_ready: bool,
    /// Is about to end and still takes requests.
    pub is_leaving: bool,
    /// Its pod runs on this node.
    pub is_local: bool,
    pub hostname: Option<Box<str>>,
}

/// Where pods are, by the ranges of their addresses.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// The range of this node's pods, and the node's address.
    pub own: Option<(Range, Ipv4Addr)>,
    /// Those of the other nodes.
    pub others: Arc<BTreeMap<Range, Ipv4Addr>>,
}

#[tonic::async_trait]
pub trait Network: Send + Sync + 'static {
    /// Gives the pod its addresses. Asked again for a pod that has some, returns those.
    async fn attach(&self, pod: &PodNetwork, netns: &Path) -> Result<Vec<IpAddr>, Failure>;
    async fn detach(&self, pod: &PodRef) -> Result<(), Failure>;
    /// A pod that runs since before the agent did keeps its addresses and its ports of the node.
    async fn adopt(&self, pod: &PodNetwork, addresses: &[IpAddr]) -> Result<(), Failure>;
    /// Makes the data path say this. When it returns, every new connection on this node sees it.
    async fn apply(&self, cluster: &Cluster) -> Result<(), Failure>;
    fn resolv_conf(&self, pod: &Pod) -> String;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As the secret names it: `registry.example.com`, `https://index.docker.io/v1/`.
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.username, self.registry)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration; the status' `imageID`.
    pub id: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty for root.
    pub user: String,
    pub stop_signal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullError {
    /// No registry could have such an image.
    InvalidName(String),
    /// It is not here, and the policy forbids to fetch it.
    NeverPull(String),
    Failed(String),
}

#[tonic::async_trait]
pub trait ImageStore: Send + Sync + 'static {
    async fn ensure(&self, reference: &str, policy: PullPolicy, credentials: &[Credential])
    -> Result<Image, PullError>;
    /// Mounts a file system of the image for a container, and returns where; an empty path if the runtime does that.
    async fn rootfs(&self, image: &Image, container_id: &str) -> Result<PathBuf, Failure>;
    async fn release(&self, container_id: &str) -> Result<(), Failure>;
}

/// The rooms, chosen.
#[derive(Clone)]
pub struct Rooms {
    pub runtime: std::sync::Arc<dyn Runtime>,
    pub network: std::sync::Arc<dyn Network>,
    pub images: std::sync::Arc<dyn ImageStore>,
}

/// Joins below a directory of the agent.
pub(crate) fn below(dir: &Path, parts: &[&str]) -> PathBuf {
    parts.iter().fold(dir.to_path_buf(), |path, part| path.join(part))
}
