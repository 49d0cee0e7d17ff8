//! Making containers and processes in them, with libcontainer; and what is remembered of each.

use std::{
    fs::{self, File},
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Instant,
};

use copepod_api::Timestamp;
use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

use super::{
    attach,
    logs::{Log, Stream},
    session::{Console, Process},
};
use crate::{ContainerState, Exit, StartError, State, cgroup, wire::Streams};

/// What is kept of the output of one exec.
const EXEC_OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// A container of this shim.
pub struct Child {
    pub state: ContainerState,
    pub pipes: Vec<Pipe>,
    log: Log,
    /// Kills for memory that were counted before, by whoever used the cgroup.
    oom_kills_before: u64,
    /// Who waits for its end.
    pub waiting: Vec<UnixStream>,
    /// The end of its input that is written to.
    pub stdin: Option<OwnedFd>,
    pub stdin_once: bool,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
}

pub struct Pipe {
    pub file: File,
    stream: Stream,
}

/// A command running in a container.
pub struct Exec {
    pub pid: i32,
    pub output: Option<File>,
    pub said: Vec<u8>,
    pub deadline: Instant,
    pub exit: Option<i32>,
    pub asker: UnixStream,
}

/// Where libcontainer keeps what it knows.
pub fn root(directory: &Path) -> PathBuf {
    directory.join("oci")
}

pub fn state_path(directory: &Path, id: &str) -> PathBuf {
    directory.join("containers").join(format!("{id}.json"))
}

impl Child {
    pub fn start(
        directory: &Path,
        mut state: ContainerState,
        bundle: &Path,
        log_path: &Path,
        streams: Streams,
    ) -> Result<Child, StartError> {
        let create = |error: &dyn std::fmt::Display| StartError::Create(error.to_string());
        let log = Log::open(log_path).map_err(|error| create(&format!("{}: {error}", log_path.display())))?;
        let io = Io::new(directory, streams).map_err(|error| create(&error))?;
        let told = Told::begin(directory);
        let builder = ContainerBuilder::new(state.id.clone(), SyscallType::default())
            .with_root_path(root(directory))
            .map_err(|error| create(&error))?;
        let (builder, io) = io.given_to(builder);
        let made = builder.as_init(bundle).with_systemd(false).with_detach(true).build();
        let mut container = match made {
            Ok(container) => container,
            Err(error) => {
                forget(directory, &state.id);
                let _ = cgroup::remove(&state.cgroup);
                return Err(failure(&error, &told));
            }
        };
        let kept = match io.kept() {
            Ok(kept) => kept,
            Err(error) => {
                let _ = container.delete(true);
                forget(directory, &state.id);
                return Err(StartError::Create(error));
            }
        };
        let oom_kills_before = cgroup::oom_kills(&state.cgroup);
        let pid = container.pid().map(|pid| pid.as_raw()).unwrap_or_default();
        state.state = State::Running { pid, since: Timestamp::now() };
        if let Err(error) = container.start() {
            let _ = container.delete(true);
            forget(directory, &state.id);
            return Err(failure(&error, &told));
        }
        save(directory, &state).map_err(|error| create(&error))?;
        let Kept { pipes, stdin, terminal } = kept;
        let stdin_once = streams.stdin_once;
        Ok(Child { state, pipes, log, oom_kills_before, waiting: Vec::new(), stdin, stdin_once, terminal })
    }

    pub fn pid(&self) -> Option<i32> {
        match self.state.state {
            State::Running { pid, .. } => Some(pid),
            State::Exited(_) => None,
        }
    }

    /// Reads what a pipe has, for the log and for whoever else; drops it at its end. A log that cannot be written (a full
    /// disk) must not stop the program that writes, so what does not fit is lost.
    pub fn read(&mut self, place: usize, mut tell: impl FnMut(&'static str, &[u8])) {
        let mut buffer = [0; 32 * 1024];
        let pipe = &mut self.pipes[place];
        match pipe.file.read(&mut buffer) {
            Ok(n @ 1..) => {
                let _ = pipe.stream.take(&buffer[..n], Timestamp::now(), &mut self.log);
                tell(pipe.stream.name, &buffer[..n]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
            // A terminal ends with an error.
            Ok(0) | Err(_) => {
                let _ = pipe.stream.end(Timestamp::now(), &mut self.log);
                self.pipes.remove(place);
            }
        }
    }

    /// What is left in the pipes when the process has ended. Others may hold them open, so their end is not waited for.
    fn read_rest(&mut self, mut tell: impl FnMut(&'static str, &[u8])) {
        for place in (0..self.pipes.len()).rev() {
            let mut buffer = [0; 32 * 1024];
            let Some(pipe) = self.pipes.get_mut(place) else { continue };
            while let Ok(n) = pipe.file.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                let _ = pipe.stream.take(&buffer[..n], Timestamp::now(), &mut self.log);
                tell(pipe.stream.name, &buffer[..n]);
            }
            let _ = pipe.stream.end(Timestamp::now(), &mut self.log);
        }
        self.pipes.clear();
        (self.stdin, self.terminal) = (None, None);
    }

    pub fn ended(
        &mut self,
        directory: &Path,
        code: i32,
        signal: Option<i32>,
        tell: impl FnMut(&'static str, &[u8]),
    ) -> Exit {
        // Whatever else runs in the container ends with its first process, also where it has no pid namespace of its own.
        for pid in cgroup::processes(&self.state.cgroup) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        self.read_rest(tell);
        let started_at = match &self.state.state {
            State::Running { since, .. } => Some(*since),
            State::Exited(exit) => exit.started_at,
        };
        let oom_killed = cgroup::oom_kills(&self.state.cgroup) > self.oom_kills_before;
        let exit = Exit { code, signal, oom_killed, started_at, finished_at: Timestamp::now() };
        self.state.state = State::Exited(exit.clone());
        let _ = save(directory, &self.state);
        exit
    }

    /// Removes all traces but the log.
    pub fn remove(&self, directory: &Path) -> Result<(), String> {
        let kept = root(directory).join(&self.state.id);
        if let Ok(mut container) = Container::load(kept) {
            let _ = container.delete(true);
        }
        forget(directory, &self.state.id);
        cgroup::remove(&self.state.cgroup).map_err(|error| format!("the cgroup {}: {error}", self.state.cgroup))
    }
}

/// Starts a command in a running container; its output and errors come through one pipe.
pub fn exec(
    directory: &Path,
    id: &str,
    command: Vec<String>,
    deadline: Instant,
    asker: UnixStream,
) -> Result<Exec, (String, UnixStream)> {
    let started = (|| {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (output, out) = pipe().map_err(|error| text(&error))?;
        let err = out.try_clone().map_err(|error| text(&error))?;
        let nothing = File::open("/dev/null").map_err(|error| text(&error))?;
        let process = Process::write(directory, id, command, false)?;
        let pid = ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_root_path(root(directory))
            .map_err(|error| text(&error))?
            .with_stdin(nothing)
            .with_stdout(out)
            .with_stderr(err)
            .as_tenant()
            .with_process(Some(&process.path))
            .with_detach(true)
            .build()
            .map_err(|error| chain(&error))?;
        Ok((pid.as_raw(), output))
    })();
    match started {
        Ok((pid, output)) => Ok(Exec { pid, output: Some(output), said: Vec::new(), deadline, exit: None, asker }),
        Err(error) => Err((error, asker)),
    }
}

impl Exec {
    pub fn read(&mut self) {
        let mut buffer = [0; 4096];
        let Some(output) = &mut self.output else { return };
        match output.read(&mut buffer) {
            Ok(0) => self.output = None,
            Ok(n) => {
                let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(self.said.len());
                self.said.extend_from_slice(&buffer[..n.min(room)]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
            Err(_) => self.output = None,
        }
    }

    /// What is in the pipe already; a child left behind may hold it open for ever.
    pub fn read_rest(&mut self) {
        let mut before = usize::MAX;
        while self.output.is_some() && before != self.said.len() {
            before = self.said.len();
            self.read();
        }
    }
}

/// The streams of a container that is about to be made.
enum Io {
    Pipes { given: [OwnedFd; 3], kept: Kept },
    Terminal(Console),
}

/// Our ends of them.
struct Kept {
    pipes: Vec<Pipe>,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Io {
    fn new(directory: &Path, streams: Streams) -> Result<Io, String> {
        if streams.tty {
            return Console::bind(directory).map(Io::Terminal);
        }
        let made = || -> std::io::Result<Io> {
            let (stdout, out) = pipe()?;
            let (stderr, err) = pipe()?;
            let (input, stdin) = attach::input(streams.stdin)?;
            let pipes = vec![
                Pipe { file: stdout, stream: Stream::new("stdout") },
                Pipe { file: stderr, stream: Stream::new("stderr") },
            ];
            Ok(Io::Pipes { given: [input, out, err], kept: Kept { pipes, stdin, terminal: None } })
        };
        made().map_err(|error| error.to_string())
    }

    fn given_to(self, builder: ContainerBuilder) -> (ContainerBuilder, Given) {
        match self {
            Io::Pipes { given: [input, out, err], kept } => {
                (builder.with_stdin(input).with_stdout(out).with_stderr(err), Given::Pipes(kept))
            }
            Io::Terminal(console) => (builder.with_console_socket(Some(&console.path)), Given::Terminal(console)),
        }
    }
}

/// The streams of a container that is made.
enum Given {
    Pipes(Kept),
    Terminal(Console),
}

impl Given {
    fn kept(self) -> Result<Kept, String> {
        match self {
            Given::Pipes(kept) => Ok(kept),
            Given::Terminal(console) => {
                let master = console.master()?;
                let made = || -> std::io::Result<Kept> {
                    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                    let pipes = vec![Pipe { file: master.try_clone()?.into(), stream: Stream::new("stdout") }];
                    Ok(Kept { pipes, stdin: None, terminal: Some(master) })
                };
                made().map_err(|error| format!("the terminal: {error}"))
            }
        }
    }
}

/// The reading end does not block; both are closed in containers.
fn pipe() -> std::io::Result<(File, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(reader.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((File::from(reader), writer))
}

fn save(directory: &Path, state: &ContainerState) -> std::io::Result<()> {
    let path = state_path(directory, &state.id);
    let beside = path.with_extension("new");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&beside, serde_json::to_vec(state)?)?;
    fs::rename(beside, path)
}

fn forget(directory: &Path, id: &str) {
    let _ = fs::remove_dir_all(root(directory).join(id));
    let _ = fs::remove_dir_all(directory.join("bundles").join(id));
    let _ = fs::remove_file(state_path(directory, id));
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What the shim's log says since some moment: the processes on their way to be a container write there.
struct Told {
    path: PathBuf,
    before: usize,
}

impl Told {
    fn begin(directory: &Path) -> Told {
        let path = directory.join("shim.log");
        let before = fs::metadata(&path).map_or(0, |file| file.len() as usize);
        Told { path, before }
    }

    /// The first error: those that follow only say that it happened.
    fn first(&self) -> Option<String> {
        let text = fs::read(&self.path).ok()?;
        let text = String::from_utf8_lossy(text.get(self.before..)?).into_owned();
        Some(text.lines().find_map(|line| line.trim().strip_prefix("ERROR "))?.to_owned())
    }
}

/// A command that cannot be run is the fault of the pod's author, everything else is ours or the machine's.
fn failure(error: &dyn std::error::Error, told: &Told) -> StartError {
    let text = match told.first() {
        Some(first) => format!("{} ({first})", chain(error)),
        None => chain(error),
    };
    let of_command =
        ["not found in $PATH", "does not have the correct permission", "does not have correct permissions"];
    if of_command.iter().any(|words| text.contains(words)) { StartError::Run(text) } else { StartError::Create(text) }
}
