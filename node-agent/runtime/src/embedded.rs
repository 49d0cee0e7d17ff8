//! The embedded runtime, as the agent uses it: starts shims, speaks to them, and reads from disk what they know.

mod streams;

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use copepod_api::Timestamp;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::{
    ContainerSpec, ContainerState, ExecOutput, Exit, Resources, RuntimeError, SandboxSpec, SandboxState, StartError,
    State, Usage, cgroup, oci,
    wire::{Answer, Question, Streams},
};

/// How long a process that was killed may take to end.
const END_MAX: Duration = Duration::from_secs(5);

/// How long a shim may take to make its namespaces.
const READY_MAX: Duration = Duration::from_secs(10);

/// How long a shim may take to answer what it can answer at once.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A shim that ends drops its callers before it is seen to be gone: so often is it looked at, with a pause between.
const ENDING_LOOKS: u32 = 20;
const ENDING_PAUSE: Duration = Duration::from_millis(10);

/// The longest answer: the output of an exec, escaped.
const ANSWER_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Sandboxes and containers of one node, below one directory.
pub struct Embedded {
    /// One directory a sandbox.
    directory: PathBuf,
    /// The program that is run as a shim, as `program shim DIRECTORY`.
    program: PathBuf,
    /// The sandbox of each container that this agent has met.
    sandbox_of: Mutex<HashMap<String, String>>,
}

impl Embedded {
    /// `run_dir` should be on a tmpfs: nothing in it has a meaning after the machine has started anew.
    pub fn open(run_dir: &Path, program: PathBuf) -> Result<Embedded, RuntimeError> {
        let directory = run_dir.join("sandboxes");
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(Embedded { directory, program, sandbox_of: Mutex::default() })
    }

    pub fn version() -> String {
        format!("copepod://{}", env!("CARGO_PKG_VERSION"))
    }

    /// Makes the namespaces; gives the path of the network namespace, where the pod has one of its own.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Option<PathBuf>, RuntimeError> {
        if spec.share_pid {
            return Err("shareProcessNamespace is not supported by the embedded runtime".into());
        }
        let directory = self.directory.join(&spec.id);
        let netns = (!spec.host_network).then(|| directory.join("ns/net"));
        if self.has_sandbox(&spec.id).await {
            return Ok(netns);
        }
        self.remove_sandbox(&spec.id).await?;
        let failed = |error: io::Error| RuntimeError(format!("{}: {error}", directory.display()));
        fs::create_dir_all(directory.join("containers")).map_err(failed)?;
        fs::write(directory.join("sandbox.json"), serde_json::to_vec(spec).map_err(|error| error.to_string())?)
            .map_err(failed)?;
        let errors = fs::File::create(directory.join("shim.log")).map_err(failed)?;
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("shim").arg(&directory).current_dir("/").env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).kill_on_drop(false);
        let mut shim = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        if let Some(pid) = shim.id() {
            fs::write(directory.join("shim.pid"), pid.to_string()).map_err(failed)?;
        }
        let deadline = Instant::now() + READY_MAX;
        let socket = directory.join("shim.sock");
        while !socket.exists() {
            let ended = shim.try_wait().ok().flatten().is_some();
            if ended || Instant::now() > deadline {
                let why = fs::read_to_string(directory.join("shim.log")).unwrap_or_default();
                let _ = self.remove_sandbox(&spec.id).await;
                return Err(format!("the shim did not start: {}", why.trim()).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // It is reaped when it ends, for as long as this agent lives; after that init does it.
        tokio::spawn(async move {
            let _ = shim.wait().await;
        });
        Ok(netns)
    }

    /// Ends every process of a sandbox and removes all of it.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let directory = self.directory.join(id);
        if !directory.exists() {
            return Ok(());
        }
        let asked = self.ask(id, &Question::Shutdown).await;
        if let Ok(Answer::Failed(error)) = &asked {
            tracing::warn!(sandbox = id, error, "the shim could not remove everything");
        }
        let spec = read_spec(&directory);
        let left = directory.clone();
        tokio::task::spawn_blocking(move || sweep(&left, spec.as_ref()))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| RuntimeError(format!("removing sandbox {}: {error}", directory.display())))?;
        self.sandboxes_of().retain(|_, sandbox| sandbox != id);
        Ok(())
    }

    pub async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        let directory = self.directory.join(&spec.sandbox_id);
        let create = |error: String| StartError::Create(error);
        let sandbox =
            read_spec(&directory).ok_or_else(|| create(format!("there is no sandbox {}", spec.sandbox_id)))?;
        let (namespaces, shm) = (directory.join("ns"), directory.join("shm"));
        let target = match &spec.target {
            None => None,
            Some(id) => {
                let pid = self.pid_of(&spec.sandbox_id, id);
                let pid = pid
                    .ok_or_else(|| create(format!("the container {id}, whose processes it shall see, does not run")))?;
                Some(PathBuf::from(format!("/proc/{pid}/ns/pid")))
            }
        };
        let pinned = oci::Pinned { namespaces: &namespaces, shm: &shm, pids: target.as_deref() };
        let config = oci::config(&sandbox, spec, &pinned)?;
        let bundle = directory.join("bundles").join(&spec.id);
        fs::create_dir_all(&bundle)
            .and_then(|()| fs::write(bundle.join("config.json"), config.to_string()))
            .map_err(|error| create(format!("{}: {error}", bundle.display())))?;
        make_targets(spec).map_err(|error| create(format!("preparing mounts: {error}")))?;
        let state = ContainerState {
            id: spec.id.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            image_id: spec.image_id.clone(),
            cgroup: format!("{}/{}", spec.cgroup_parent.trim_start_matches('/'), spec.id),
            stop_signal: spec.stop_signal.clone(),
            state: State::Running { pid: 0, since: Timestamp::now() },
        };
        let streams = Streams { stdin: spec.stdin, stdin_once: spec.stdin_once, tty: spec.tty };
        let question = Question::Start { state: Box::new(state), bundle, log_path: spec.log_path.clone(), streams };
        self.sandboxes_of().insert(spec.id.clone(), spec.sandbox_id.clone());
        match self.ask(&spec.sandbox_id, &question).await {
            Ok(Answer::Started(Ok(state))) => match state.state {
                State::Running { since, .. } => Ok(since),
                State::Exited(exit) => Ok(exit.started_at.unwrap_or(exit.finished_at)),
            },
            Ok(Answer::Started(Err(error))) => Err(error),
            Ok(Answer::Failed(error)) => Err(create(error)),
            Ok(other) => Err(create(format!("the shim answered {other:?}"))),
            Err(error) => Err(create(error.0)),
        }
    }

    /// Returns when the container has ended; at once, if it had.
    pub async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        let sandbox = self.sandbox(id)?;
        for _ in 0..ENDING_LOOKS {
            let asked = async {
                let mut stream = self.say(&sandbox, &Question::Wait { id: id.to_owned() }).await?;
                hear(&mut stream).await
            };
            if let Ok(Answer::Exited(exit)) = asked.await {
                return Ok(exit);
            }
            // The shim is gone; what it wrote down last is all there is.
            match self.read(&sandbox, id) {
                Some(ContainerState { state: State::Exited(exit), .. }) => return Ok(exit),
                Some(state) if !self.has_sandbox(&sandbox).await => return Ok(lost(&state)),
                Some(_) => tokio::time::sleep(ENDING_PAUSE).await,
                None => return Err(format!("there is no container {id}").into()),
            }
        }
        Err(format!("the shim of {sandbox} does not say when container {id} ends").into())
    }

    /// Asks the container to end, and makes it after `grace`. Returns when it has.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let Some(state) = self.read(&sandbox, id) else { return Ok(()) };
        if matches!(state.state, State::Exited(_)) {
            return Ok(());
        }
        let signal = state.stop_signal.as_deref().and_then(signal_named).unwrap_or(Signal::SIGTERM);
        let tell = |signal: Signal| Question::Signal { id: id.to_owned(), signal: signal as i32 };
        if !grace.is_zero() {
            let _ = self.ask(&sandbox, &tell(signal)).await;
            if tokio::time::timeout(grace, self.wait(id)).await.is_ok() {
                return Ok(());
            }
        }
        let _ = self.ask(&sandbox, &tell(Signal::SIGKILL)).await;
        tokio::time::timeout(ANSWER_MAX, self.wait(id))
            .await
            .map_err(|_| format!("container {id} does not end after SIGKILL"))?
            .map(drop)
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        match self.ask(&sandbox, &Question::Remove { id: id.to_owned() }).await {
            Ok(Answer::Failed(error)) => Err(error.into()),
            Ok(_) => {
                self.sandboxes_of().remove(id);
                Ok(())
            }
            Err(error) if self.has_sandbox(&sandbox).await => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Gives a running container other amounts of what it uses.
    pub fn resize(&self, id: &str, resources: &Resources) -> Result<(), RuntimeError> {
        let state = self.read(&self.sandbox(id)?, id);
        let state = state.ok_or_else(|| RuntimeError(format!("there is no container {id}")))?;
        cgroup::resize(&state.cgroup, resources).map_err(|error| RuntimeError(error.to_string()))
    }

    /// The process whose namespace another container joins.
    fn pid_of(&self, sandbox: &str, id: &str) -> Option<i32> {
        match self.read(sandbox, id)?.state {
            State::Running { pid, .. } => Some(pid).filter(|pid| *pid > 0),
            State::Exited(_) => None,
        }
    }

    /// Runs a command in a container and waits for it.
    pub async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let sandbox = self.sandbox(id)?;
        let question = Question::Exec {
            id: id.to_owned(),
            command: command.to_vec(),
            timeout_milliseconds: timeout.as_millis() as u64,
        };
        match self.ask(&sandbox, &question).await? {
            Answer::Said(output) => Ok(output),
            Answer::Failed(error) => Err(error.into()),
            other => Err(format!("the shim answered {other:?}").into()),
        }
    }

    pub async fn list(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        let mut found = Vec::new();
        let entries =
            fs::read_dir(&self.directory).map_err(|error| format!("{}: {error}", self.directory.display()))?;
        for entry in entries.flatten() {
            let Some(spec) = read_spec(&entry.path()) else { continue };
            let ready = self.has_sandbox(&spec.id).await;
            let mut containers = states(&entry.path());
            for container in &mut containers {
                self.sandboxes_of().insert(container.id.clone(), spec.id.clone());
                if matches!(container.state, State::Running { .. }) && !ready {
                    container.state = State::Exited(lost(container));
                }
            }
            found.push(SandboxState { spec, ready, containers });
        }
        Ok(found)
    }

    /// Where the network namespace of a sandbox is found: its own, or the machine's.
    pub fn network_namespace(&self, sandbox: &str) -> Option<PathBuf> {
        let directory = self.directory.join(sandbox);
        let own = directory.join("ns/net");
        let is_of_machine = || read_spec(&directory).is_some_and(|spec| spec.host_network);
        if own.exists() { Some(own) } else { is_of_machine().then(|| "/proc/self/ns/net".into()) }
    }

    /// What the running containers use. Reads a few small files of the kernel for each.
    pub fn usage(&self) -> Vec<Usage> {
        let mut usage = Vec::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let Some(spec) = read_spec(&entry.path()) else { continue };
            for container in states(&entry.path()) {
                if matches!(container.state, State::Running { .. }) {
                    let (memory_bytes, cpu_nanoseconds) = cgroup::usage(&container.cgroup);
                    let pod_uid = spec.pod.uid.clone();
                    usage.push(Usage { pod_uid, container: container.name, memory_bytes, cpu_nanoseconds });
                }
            }
        }
        usage
    }

    fn sandboxes_of(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.sandbox_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sandbox(&self, container: &str) -> Result<String, RuntimeError> {
        if let Some(sandbox) = self.sandboxes_of().get(container) {
            return Ok(sandbox.clone());
        }
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let found = entries
            .filter(|entry| crate::shim::state_path(&entry.path(), container).exists())
            .find_map(|entry| entry.file_name().into_string().ok());
        let found = found.ok_or_else(|| RuntimeError(format!("there is no container {container}")))?;
        self.sandboxes_of().insert(container.to_owned(), found.clone());
        Ok(found)
    }

    fn read(&self, sandbox: &str, id: &str) -> Option<ContainerState> {
        let text = fs::read(crate::shim::state_path(&self.directory.join(sandbox), id)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether containers can run in a sandbox: its shim lives. One that is only busy does.
    pub async fn has_sandbox(&self, id: &str) -> bool {
        let is_gone = |error: &io::Error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
        UnixStream::connect(self.directory.join(id).join("shim.sock")).await.err().is_none_or(|error| !is_gone(&error))
    }

    async fn say(&self, sandbox: &str, question: &Question) -> Result<BufReader<UnixStream>, RuntimeError> {
        let socket = self.directory.join(sandbox).join("shim.sock");
        let failed = |error: io::Error| RuntimeError(format!("the shim of {sandbox} does not answer: {error}"));
        let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
        let mut text = serde_json::to_vec(question).map_err(|error| error.to_string())?;
        text.push(b'\n');
        stream.write_all(&text).await.map_err(failed)?;
        Ok(BufReader::new(stream))
    }

    async fn ask(&self, sandbox: &str, question: &Question) -> Result<Answer, RuntimeError> {
        let asked = async {
            let mut stream = self.say(sandbox, question).await?;
            hear(&mut stream).await
        };
        match tokio::time::timeout(ANSWER_MAX, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("the shim of {sandbox} does not answer").into()),
        }
    }
}

async fn hear(stream: &mut BufReader<UnixStream>) -> Result<Answer, RuntimeError> {
    let mut line = String::new();
    stream.take(ANSWER_BYTES_MAX).read_line(&mut line).await.map_err(|error| error.to_string())?;
    serde_json::from_str(&line).map_err(|error| RuntimeError(format!("the shim's answer is not understood: {error}")))
}

/// A container whose shim has gone, with whatever it knew. Its processes may go on, and nobody would hear of their end: they
/// are killed.
fn lost(state: &ContainerState) -> Exit {
    for pid in cgroup::processes(&state.cgroup) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let started_at = match &state.state {
        State::Running { since, .. } => Some(*since),
        State::Exited(exit) => exit.started_at,
    };
    Exit { code: 137, signal: Some(9), oom_killed: false, started_at, finished_at: Timestamp::now() }
}

fn read_spec(directory: &Path) -> Option<SandboxSpec> {
    serde_json::from_slice(&fs::read(directory.join("sandbox.json")).ok()?).ok()
}

fn states(directory: &Path) -> Vec<ContainerState> {
    let entries = fs::read_dir(directory.join("containers")).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    files.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

/// What a mount is put over must be there: a file for a file, a directory for a directory. Symbolic links of the image
/// are not followed, libcontainer resolves them inside the root.
fn make_targets(spec: &ContainerSpec) -> io::Result<()> {
    for mount in &spec.mounts {
        let target = spec.rootfs.join(mount.target.strip_prefix("/").unwrap_or(&mount.target));
        let inside = mount.target.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        let linked = target.ancestors().take_while(|path| path.starts_with(&spec.rootfs)).any(Path::is_symlink);
        if !inside || linked || target.exists() || mount.target.starts_with("/dev") || mount.target.starts_with("/proc")
        {
            continue;
        }
        if mount.source.is_dir() {
            fs::create_dir_all(&target)?;
        } else {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(&target)?;
        }
    }
    Ok(())
}

/// Takes away what a shim that has died could not.
fn sweep(directory: &Path, spec: Option<&SandboxSpec>) -> io::Result<()> {
    let shim = fs::read_to_string(directory.join("shim.pid")).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let shim = shim.filter(|pid| is_shim_of(*pid, directory));
    if let Some(pid) = shim {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Some(spec) = spec {
        for pid in cgroup::processes(&spec.cgroup_parent) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        cgroup::remove(&spec.cgroup_parent)?;
    }
    for name in ["ns/net", "ns/uts", "ns/ipc", "shm"] {
        match umount2(&directory.join(name), MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => (),
            Err(error) => return Err(error.into()),
        }
    }
    // A process that was killed ends when it is next on a processor; until then the sandbox is not gone.
    let begin = Instant::now();
    while let Some(pid) = shim.filter(|pid| is_shim_of(*pid, directory)) {
        if begin.elapsed() > END_MAX {
            return Err(io::Error::other(format!("its shim, process {pid}, was killed and has not ended")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Process ids are used again; the arguments tell whether this is still the one.
fn is_shim_of(pid: i32, directory: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = directory.as_os_str().as_encoded_bytes();
    line.split(|byte| *byte == 0).any(|argument| argument == bytes)
}

fn signal_named(name: &str) -> Option<Signal> {
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse().ok().or_else(|| name.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok()))
}
