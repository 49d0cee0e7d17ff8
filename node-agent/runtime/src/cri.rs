//! Sandboxes and containers of a runtime that is there already: containerd, CRI-O or another that speaks CRI v1.
//!
//! What belongs to whom: the runtime has the processes, the images, the logs and, through its CNI plugins, the addresses
//! of pods. The agent has the names. A runtime gives sandboxes and containers ids of its own, so the agent's are kept as
//! labels on them, and with the name of the node, since several nodes may share one runtime. Nothing is written down
//! here: an agent that comes back lists what carries its labels, and a call that is repeated finds what the first one made.
//!
//! A call that fails half-way leaves something with our label behind; so creating does not look first, which would cost
//! a call each time, but when it is refused it looks for what stands in its way, takes it or removes it, and tries again.

mod cgroups;
mod config;
mod images;
mod logs;
mod watch;

mod proto {
    //! Generated from `cri/runtime.proto`.
    #![allow(clippy::all, reason = "generated")]
    #![allow(dead_code, reason = "not every message of the interface is read")]
    tonic::include_proto!("runtime.v1");
}

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use copepod_api::Timestamp;
use futures::future::{try_join, try_join_all};
use hyper_util::rt::TokioIo;
use proto::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

pub use self::images::{ImageConfig, Login};
use self::{
    cgroups::CgroupDriver,
    config::{ID, IMAGE, NODE, SANDBOX},
    watch::Watch,
};
use crate::{
    ContainerSpec, ContainerState, ExecOutput, Exit, Pod, Resources, RuntimeError, SandboxSpec, SandboxState,
    StartError, State, Usage, cgroup,
};

/// How long a runtime may take for anything that waits for nobody. Starting a sandbox runs CNI plugins, which may ask
/// others; kubelets wait as long.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// How long a runtime may take beyond what a container or a command was given.
const MARGIN: Duration = Duration::from_secs(30);

/// How often the lengths of logs are looked at; kubelets look as often.
const LOGS_PAUSE: Duration = Duration::from_secs(10);

/// The pause before a runtime that is away is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The exit code of what was ended by SIGKILL, by the kernel for want of memory among others.
const KILLED: i32 = 137;

/// How long after the end of a container a runtime may hear that it ended for want of memory: the kernel tells both at
/// the same moment and in no order.
const REASON_LATE: Duration = Duration::from_millis(200);

/// The longest message: runtimes bound the output of a command to 16 MiB a stream.
const MESSAGE_BYTES_MAX: usize = 40 << 20;

/// The output of a command that is kept, as with the embedded runtime.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Sandboxes and containers of one node, in a runtime behind a socket.
pub struct Cri {
    socket: PathBuf,
    node: String,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    version: String,
    driver: CgroupDriver,
    watch: Watch,
    known: Mutex<Known>,
}

/// What this agent has met, so that it need not ask each time.
#[derive(Default)]
struct Known {
    containers: HashMap<String, Met>,
    sandboxes: HashMap<String, (String, SandboxSpec)>,
}

#[derive(Clone)]
struct Met {
    /// The runtime's id.
    own: String,
    /// Empty where it has no log, or one that cannot be moved away.
    log: PathBuf,
}

/// A runtime's refusal. What it is called matters in a few places; to people only what it says.
#[derive(Debug)]
struct Refusal {
    code: Code,
    text: String,
}

impl From<Refusal> for RuntimeError {
    fn from(refusal: Refusal) -> RuntimeError {
        RuntimeError(refusal.text)
    }
}

impl Cri {
    /// Connects and asks who is there. A runtime that restarts later is found again by itself.
    pub async fn connect(socket: &Path, node: &str) -> Result<Cri, RuntimeError> {
        let channel = channel(socket);
        let mut runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let images = ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let asked = proto::VersionRequest { version: "v1".into() };
        let version = match within(ANSWER_MAX, asked, |request| runtime.version(request)).await {
            Ok(version) => version,
            Err(refusal) if refusal.code == Code::Unimplemented => {
                let socket = socket.display();
                return Err(format!("the runtime at {socket} does not speak CRI v1: {}", refusal.text).into());
            }
            Err(refusal) => {
                return Err(format!("the runtime at {} does not answer: {}", socket.display(), refusal.text).into());
            }
        };
        let driver = driver(&mut runtime).await?;
        let watch = Watch::new(runtime.clone(), node);
        Ok(Cri {
            socket: socket.to_owned(),
            node: node.to_owned(),
            version: format!("{}://{}", version.runtime_name, version.runtime_version),
            runtime,
            images,
            driver,
            watch,
            known: Mutex::default(),
        })
    }

    /// `containerd://1.7.27`
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Says what the runtime cannot do yet, if there is something: that no network was configured for it, most often.
    pub async fn complaints(&self) -> Result<Vec<String>, RuntimeError> {
        let mut runtime = self.runtime.clone();
        let asked = proto::StatusRequest { verbose: false };
        let answer = within(ANSWER_MAX, asked, |request| runtime.status(request)).await?;
        let conditions = answer.status.unwrap_or_default().conditions.into_iter();
        let bad = conditions.filter(|condition| !condition.status);
        Ok(bad.map(|condition| format!("{}: {}", condition.r#type, condition.message)).collect())
    }

    /// Makes the namespaces, and gives the pod the addresses that the runtime's network has for it: none with the
    /// machine's network.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Vec<IpAddr>, RuntimeError> {
        let config = config::sandbox(spec, &self.node, self.driver);
        let id = match self.run_sandbox(&config).await {
            Ok(id) => id,
            Err(refusal) => match self.find_sandbox(&spec.id).await? {
                Some(there) if there.state() == proto::PodSandboxState::SandboxReady => there.id,
                Some(there) => {
                    self.take_sandbox_away(&there.id).await?;
                    self.run_sandbox(&config).await?
                }
                None => return Err(refusal.into()),
            },
        };
        self.known().sandboxes.insert(spec.id.clone(), (id.clone(), spec.clone()));
        if spec.host_network {
            return Ok(Vec::new());
        }
        self.addresses(&id).await
    }

    async fn run_sandbox(&self, config: &proto::PodSandboxConfig) -> Result<String, Refusal> {
        let mut runtime = self.runtime.clone();
        let asked = proto::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let answer = within(ANSWER_MAX, asked, |request| runtime.run_pod_sandbox(request)).await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn addresses(&self, id: &str) -> Result<Vec<IpAddr>, RuntimeError> {
        let mut runtime = self.runtime.clone();
        let asked = proto::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = within(ANSWER_MAX, asked, |request| runtime.pod_sandbox_status(request)).await?;
        let network = answer.status.and_then(|status| status.network).unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        let all = all.filter(|ip| !ip.is_empty());
        all.map(|ip| ip.parse().map_err(|_| RuntimeError(format!("the runtime gave the pod the address {ip:?}"))))
            .collect()
    }

    /// Whether containers can run in a sandbox.
    pub async fn has_sandbox(&self, id: &str) -> Result<bool, RuntimeError> {
        let there = self.find_sandbox(id).await?;
        Ok(there.is_some_and(|sandbox| sandbox.state() == proto::PodSandboxState::SandboxReady))
    }

    /// Ends every process of a sandbox and removes all of it.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let Some(there) = self.find_sandbox(id).await? else { return Ok(()) };
        let spec = sandbox_spec(&there);
        self.take_sandbox_away(&there.id).await?;
        // The runtime removes the cgroups of containers; the one that they were in is the agent's.
        let parent = Some(spec.cgroup_parent).filter(|parent| !parent.is_empty());
        if let Some(path) = parent.map(|parent| self.driver.path(&parent)) {
            let removed = tokio::task::spawn_blocking(move || cgroup::remove(&path)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(sandbox = id, %error, "the cgroup of the pod could not be removed");
            }
        }
        let mut known = self.known();
        known.sandboxes.remove(id);
        known.containers.clear();
        Ok(())
    }

    async fn take_sandbox_away(&self, id: &str) -> Result<(), Refusal> {
        let mut runtime = self.runtime.clone();
        let stop = proto::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(within(ANSWER_MAX, stop, |request| runtime.stop_pod_sandbox(request)).await.map(drop))?;
        let remove = proto::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(within(ANSWER_MAX, remove, |request| runtime.remove_pod_sandbox(request)).await.map(drop))
    }

    pub async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        let create = |error: RuntimeError| StartError::Create(error.0);
        let (sandbox_id, sandbox) = self
            .sandbox(&spec.sandbox_id)
            .await
            .map_err(create)?
            .ok_or_else(|| StartError::Create(format!("there is no sandbox {}", spec.sandbox_id)))?;
        let target = match &spec.target {
            None => None,
            Some(id) => Some(self.container(id).await.map_err(create)?.ok_or_else(|| {
                StartError::Create(format!("the container {id}, whose processes it shall see, is not there"))
            })?),
        };
        let asked = proto::CreateContainerRequest {
            pod_sandbox_id: sandbox_id,
            config: Some(config::container(&sandbox, spec, target, &self.node)?),
            sandbox_config: Some(config::sandbox(&sandbox, &self.node, self.driver)),
        };
        let id = match self.create_container(&asked).await {
            Ok(id) => id,
            Err(refusal) => match self.find_container(&spec.id).await.map_err(create)? {
                Some(there) if there.state() == proto::ContainerState::ContainerRunning => {
                    return self.started_at(&there.id).await.map_err(create);
                }
                Some(there) => {
                    self.take_container_away(&there.id).await.map_err(|refusal| StartError::Create(refusal.text))?;
                    self.create_container(&asked).await.map_err(|refusal| StartError::Create(refusal.text))?
                }
                None => return Err(StartError::Create(refusal.text)),
            },
        };
        let mut runtime = self.runtime.clone();
        let asked = proto::StartContainerRequest { container_id: id.clone() };
        if let Err(refusal) = within(ANSWER_MAX, asked, |request| runtime.start_container(request)).await {
            let _ = self.take_container_away(&id).await;
            return Err(match refusal.code {
                // Not the container's fault: the runtime went away, or took too long.
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => StartError::Create(refusal.text),
                _ => StartError::Run(refusal.text),
            });
        }
        self.known().containers.insert(spec.id.clone(), Met { own: id.clone(), log: spec.log_path.clone() });
        self.started_at(&id).await.map_err(create)
    }

    async fn create_container(&self, asked: &proto::CreateContainerRequest) -> Result<String, Refusal> {
        let mut runtime = self.runtime.clone();
        let answer = within(ANSWER_MAX, asked.clone(), |request| runtime.create_container(request)).await?;
        Ok(answer.container_id)
    }

    async fn started_at(&self, id: &str) -> Result<Timestamp, RuntimeError> {
        let status = self.status(id).await?;
        Ok(time(status.started_at).unwrap_or_else(Timestamp::now))
    }

    /// Returns when the container has ended; at once, if it had. A runtime that is away says nothing about its
    /// containers, which go on without it: so long, this waits.
    pub async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        let own = self.container(id).await?.ok_or_else(|| format!("there is no container {id}"))?;
        loop {
            // Begun before its state is asked for, so that an end between the two is not missed.
            let mut news = self.watch.begin();
            match self.status(&own).await {
                Ok(status) => match exit(&status) {
                    Some(ended) if ended.code == KILLED && !ended.oom_killed => {
                        tokio::time::sleep(REASON_LATE).await;
                        let later = self.status(&own).await.ok().and_then(|status| exit(&status));
                        return Ok(later.unwrap_or(ended));
                    }
                    Some(ended) => return Ok(ended),
                    None => news.until_not_running(&own).await,
                },
                Err(refusal) if matches!(refusal.code, Code::Unavailable | Code::DeadlineExceeded) => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Asks the container to end, and makes it after `grace`. Returns when it has.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Some(own) = self.container(id).await? else { return Ok(()) };
        let mut runtime = self.runtime.clone();
        let asked = proto::StopContainerRequest { container_id: own, timeout: seconds(grace) };
        gone(within(grace + MARGIN, asked, |request| runtime.stop_container(request)).await.map(drop))?;
        self.watch.look();
        Ok(())
    }

    /// Gives a running container other amounts of what it uses.
    pub async fn resize(&self, id: &str, resources: &Resources) -> Result<(), RuntimeError> {
        let own = self.container(id).await?.ok_or_else(|| RuntimeError(format!("there is no container {id}")))?;
        let mut runtime = self.runtime.clone();
        let linux = Some(config::resources(resources));
        let asked = proto::UpdateContainerResourcesRequest { container_id: own, linux };
        within(ANSWER_MAX, asked, |request| runtime.update_container_resources(request)).await?;
        Ok(())
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Some(own) = self.container(id).await? else { return Ok(()) };
        self.take_container_away(&own).await?;
        self.known().containers.remove(id);
        Ok(())
    }

    async fn take_container_away(&self, own: &str) -> Result<(), Refusal> {
        let mut runtime = self.runtime.clone();
        // Some runtimes refuse to remove what runs.
        let stop = proto::StopContainerRequest { container_id: own.to_owned(), timeout: 0 };
        gone(within(ANSWER_MAX, stop, |request| runtime.stop_container(request)).await.map(drop))?;
        let remove = proto::RemoveContainerRequest { container_id: own.to_owned() };
        gone(within(ANSWER_MAX, remove, |request| runtime.remove_container(request)).await.map(drop))
    }

    /// Runs a command in a container and waits for it.
    pub async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let own = self.container(id).await?.ok_or_else(|| format!("there is no container {id}"))?;
        let mut runtime = self.runtime.clone();
        // Zero would be no bound at all.
        let seconds = seconds(timeout).max(1);
        let asked = proto::ExecSyncRequest { container_id: own, cmd: command.to_vec(), timeout: seconds };
        match within(timeout + MARGIN, asked, |request| runtime.exec_sync(request)).await {
            Ok(said) => {
                let mut output = [said.stdout, said.stderr].concat();
                output.truncate(OUTPUT_BYTES_MAX);
                Ok(ExecOutput { exit_code: said.exit_code, output: String::from_utf8_lossy(&output).into_owned() })
            }
            Err(refusal) if refusal.code == Code::DeadlineExceeded => {
                Err(format!("command timed out after {timeout:?}").into())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub async fn list(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        let (sandboxes, containers) =
            try_join(self.list_sandboxes(HashMap::new()), self.list_containers(HashMap::new())).await?;
        let mut found = Vec::new();
        for sandbox in &sandboxes {
            let spec = sandbox_spec(sandbox);
            let own = containers.iter().filter(|container| container.pod_sandbox_id == sandbox.id);
            let states = try_join_all(own.map(|container| self.state(container))).await?;
            self.known().sandboxes.insert(spec.id.clone(), (sandbox.id.clone(), spec.clone()));
            found.push(SandboxState {
                spec,
                ready: sandbox.state() == proto::PodSandboxState::SandboxReady,
                containers: states.into_iter().flatten().collect(),
            });
        }
        Ok(found)
    }

    /// A container that was never started is nothing to the agent: it makes it anew.
    async fn state(&self, container: &proto::Container) -> Result<Option<ContainerState>, RuntimeError> {
        let id = container.labels.get(ID).cloned().unwrap_or_default();
        let status = match self.status(&container.id).await {
            Ok(status) => status,
            Err(refusal) if refusal.code == Code::NotFound => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        let since = time(status.started_at);
        let state = match (exit(&status), since) {
            (Some(exit), _) => State::Exited(exit),
            (None, Some(since)) => State::Running { pid: 0, since },
            (None, None) => return Ok(None),
        };
        self.known().containers.insert(id.clone(), Met { own: container.id.clone(), log: status.log_path.into() });
        let metadata = container.metadata.clone().unwrap_or_default();
        let named = container.image.as_ref().map(|image| image.image.clone());
        let image_id = if container.image_ref.is_empty() { named.clone() } else { Some(container.image_ref.clone()) };
        Ok(Some(ContainerState {
            id,
            name: metadata.name,
            attempt: metadata.attempt,
            image: container.annotations.get(IMAGE).cloned().or(named).unwrap_or_default(),
            image_id: image_id.unwrap_or_default(),
            cgroup: String::new(),
            stop_signal: None,
            state,
        }))
    }

    /// What the running containers use.
    pub async fn usage(&self) -> Result<Vec<Usage>, RuntimeError> {
        let mut runtime = self.runtime.clone();
        let filter = proto::ContainerStatsFilter {
            label_selector: HashMap::from([(NODE.into(), self.node.clone())]),
            ..proto::ContainerStatsFilter::default()
        };
        let asked = proto::ListContainerStatsRequest { filter: Some(filter) };
        let answer = within(ANSWER_MAX, asked, |request| runtime.list_container_stats(request)).await?;
        let value = |number: Option<proto::UInt64Value>| number.map_or(0, |number| number.value);
        let of = |stats: proto::ContainerStats| {
            let attributes = stats.attributes?;
            Some(Usage {
                pod_uid: attributes.labels.get("io.kubernetes.pod.uid")?.clone(),
                container: attributes.metadata?.name,
                memory_bytes: value(stats.memory?.working_set_bytes),
                cpu_nanoseconds: value(stats.cpu?.usage_core_nano_seconds),
            })
        };
        Ok(answer.stats.into_iter().filter_map(of).collect())
    }

    /// Moves logs away that have grown long, and lets the runtime begin new ones.
    pub async fn rotate_logs(&self) {
        let all: Vec<(String, Met)> =
            self.known().containers.iter().map(|(id, met)| (id.clone(), met.clone())).collect();
        for (id, Met { own, log }) in all.into_iter().filter(|(_, met)| logs::is_long(&met.log)) {
            if let Err(error) = self.rotate(&own, &log).await {
                tracing::warn!(container = id, error = error.0, "the log cannot be moved away; it stays one file");
                if let Some(met) = self.known().containers.get_mut(&id) {
                    met.log = PathBuf::new();
                }
            }
        }
    }

    async fn rotate(&self, own: &str, log: &Path) -> Result<(), RuntimeError> {
        let failed = |error: std::io::Error| RuntimeError(format!("{}: {error}", log.display()));
        if exit(&self.status(own).await?).is_some() {
            return Err("the container has ended".into());
        }
        let aside = logs::set_aside(log, Timestamp::now()).map_err(failed)?;
        let mut runtime = self.runtime.clone();
        let asked = proto::ReopenContainerLogRequest { container_id: own.to_owned() };
        if let Err(refusal) = within(ANSWER_MAX, asked, |request| runtime.reopen_container_log(request)).await {
            // It goes on writing to the file, which must have the name that it knows.
            if !log.exists() {
                std::fs::rename(&aside, log).map_err(failed)?;
            }
            return Err(refusal.into());
        }
        logs::forget_oldest(log).map_err(failed)
    }

    /// The runtime's id of a container; nothing where it has none.
    async fn container(&self, id: &str) -> Result<Option<String>, RuntimeError> {
        if let Some(met) = self.known().containers.get(id) {
            return Ok(Some(met.own.clone()));
        }
        Ok(self.find_container(id).await?.map(|there| there.id))
    }

    async fn sandbox(&self, id: &str) -> Result<Option<(String, SandboxSpec)>, RuntimeError> {
        if let Some(known) = self.known().sandboxes.get(id) {
            return Ok(Some(known.clone()));
        }
        let Some(there) = self.find_sandbox(id).await? else { return Ok(None) };
        let known = (there.id.clone(), sandbox_spec(&there));
        self.known().sandboxes.insert(id.to_owned(), known.clone());
        Ok(Some(known))
    }

    async fn find_container(&self, id: &str) -> Result<Option<proto::Container>, RuntimeError> {
        let found = self.list_containers(HashMap::from([(ID.into(), id.to_owned())])).await?;
        Ok(found.into_iter().next())
    }

    async fn find_sandbox(&self, id: &str) -> Result<Option<proto::PodSandbox>, RuntimeError> {
        let found = self.list_sandboxes(HashMap::from([(ID.into(), id.to_owned())])).await?;
        Ok(found.into_iter().next())
    }

    async fn list_containers(&self, labels: HashMap<String, String>) -> Result<Vec<proto::Container>, RuntimeError> {
        let mut runtime = self.runtime.clone();
        let filter = Some(proto::ContainerFilter { label_selector: self.of_node(labels), ..Default::default() });
        let asked = proto::ListContainersRequest { filter };
        let answer = within(ANSWER_MAX, asked, |request| runtime.list_containers(request)).await?;
        Ok(answer.containers)
    }

    async fn list_sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<proto::PodSandbox>, RuntimeError> {
        let mut runtime = self.runtime.clone();
        let filter = Some(proto::PodSandboxFilter { label_selector: self.of_node(labels), ..Default::default() });
        let asked = proto::ListPodSandboxRequest { filter };
        let answer = within(ANSWER_MAX, asked, |request| runtime.list_pod_sandbox(request)).await?;
        Ok(answer.items)
    }

    fn of_node(&self, mut labels: HashMap<String, String>) -> HashMap<String, String> {
        labels.insert(NODE.into(), self.node.clone());
        labels
    }

    async fn status(&self, own: &str) -> Result<proto::ContainerStatus, Refusal> {
        let mut runtime = self.runtime.clone();
        let asked = proto::ContainerStatusRequest { container_id: own.to_owned(), verbose: false };
        let answer = within(ANSWER_MAX, asked, |request| runtime.container_status(request)).await?;
        answer
            .status
            .ok_or_else(|| Refusal { code: Code::Internal, text: "the runtime answered without a status".into() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.version, self.socket.display())
    }
}

/// Keeps the logs of a runtime short for as long as anybody else uses it.
pub async fn keep_logs_short(cri: std::sync::Weak<Cri>) {
    loop {
        tokio::time::sleep(LOGS_PAUSE).await;
        let Some(cri) = cri.upgrade() else { return };
        cri.rotate_logs().await;
    }
}

/// Connects when it is first used, and again whenever the connection was lost.
fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is never used; HTTP wants to have one.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
}

async fn driver(runtime: &mut RuntimeServiceClient<Channel>) -> Result<CgroupDriver, RuntimeError> {
    let asked = proto::RuntimeConfigRequest {};
    match within(ANSWER_MAX, asked, |request| runtime.runtime_config(request)).await {
        Ok(answer) => return Ok(CgroupDriver::of(Some(&answer), None)),
        Err(refusal) if refusal.code == Code::Unimplemented => (),
        Err(refusal) => return Err(refusal.into()),
    }
    let asked = proto::StatusRequest { verbose: true };
    let answer = within(ANSWER_MAX, asked, |request| runtime.status(request)).await?;
    Ok(CgroupDriver::of(None, answer.info.get("config").map(String::as_str)))
}

/// One call, with a bound that the runtime is told and that holds even if it does not listen.
async fn within<Q, A, F>(bound: Duration, asked: Q, call: impl FnOnce(Request<Q>) -> F) -> Result<A, Refusal>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(asked);
    request.set_timeout(bound);
    match tokio::time::timeout(bound + MARGIN, call(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // What has a cause is of our own side of the socket: nobody was reached, or the connection broke.
        Ok(Err(status)) => {
            let lost = std::error::Error::source(&status).is_some();
            Err(Refusal { code: if lost { Code::Unavailable } else { status.code() }, text: said(&status) })
        }
        Err(_) => {
            Err(Refusal { code: Code::DeadlineExceeded, text: format!("the runtime did not answer in {bound:?}") })
        }
    }
}

/// The words of a refusal; those of a lost connection hide in its causes.
fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What is gone already need not be removed.
fn gone(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    outcome.or_else(|refusal| if refusal.code == Code::NotFound { Ok(()) } else { Err(refusal) })
}

/// Whole seconds, which is all that the interface counts; never less than was asked for.
fn seconds(duration: Duration) -> i64 {
    let more = u64::from(duration.subsec_nanos() > 0);
    i64::try_from(duration.as_secs().saturating_add(more)).unwrap_or(i64::MAX)
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}

fn exit(status: &proto::ContainerStatus) -> Option<Exit> {
    // A container that the runtime knows nothing of will not say more later; kubelets take it for ended, too.
    let ended = [proto::ContainerState::ContainerExited, proto::ContainerState::ContainerUnknown];
    ended.contains(&status.state()).then(|| Exit {
        code: status.exit_code,
        // The interface does not tell a signal from a program that ends with 128 and more.
        signal: None,
        oom_killed: status.reason == "OOMKilled",
        started_at: time(status.started_at),
        finished_at: time(status.finished_at).unwrap_or_else(Timestamp::now),
    })
}

/// What the sandbox was asked to be; for one that something else labelled, what can be seen of it.
fn sandbox_spec(sandbox: &proto::PodSandbox) -> SandboxSpec {
    if let Some(spec) = sandbox.annotations.get(SANDBOX).and_then(|text| serde_json::from_str(text).ok()) {
        return spec;
    }
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    SandboxSpec {
        id: sandbox.labels.get(ID).cloned().unwrap_or_default(),
        pod: Pod { namespace: metadata.namespace, name: metadata.name, uid: metadata.uid },
        attempt: metadata.attempt,
        ..SandboxSpec::default()
    }
}
