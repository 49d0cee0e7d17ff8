//! The shim's loop: questions, output, ends of processes.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    children::{self, Child, Exec},
    session::{self, Session},
};
use crate::{
    ExecOutput, SandboxSpec, cgroup,
    wire::{Answer, Question},
};

/// The longest question; a container's description is a few kilobytes.
const QUESTION_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// An asker that has connected and says nothing may hold up everybody else no longer than this.
const ASK_MAX: Duration = Duration::from_secs(2);

struct Shim<'a> {
    directory: &'a Path,
    sandbox: SandboxSpec,
    children: BTreeMap<String, Child>,
    execs: Vec<Exec>,
    sessions: Vec<Session>,
}

pub fn run(directory: &Path, sandbox: SandboxSpec) -> Result<(), String> {
    let signals = SigSet::from(Signal::SIGCHLD);
    signals.thread_block().map_err(|error| format!("signals: {error}"))?;
    let ended = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| format!("signals: {error}"))?;
    let socket = directory.join("shim.sock");
    let _ = fs::remove_file(&socket);
    // Under another name first: the agent takes the socket's being there for our being ready.
    let beside = directory.join("shim.sock.new");
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside).map_err(|error| format!("{}: {error}", beside.display()))?;
    fs::rename(&beside, &socket).map_err(|error| format!("{}: {error}", socket.display()))?;

    let mut shim = Shim { directory, sandbox, children: BTreeMap::new(), execs: Vec::new(), sessions: Vec::new() };
    loop {
        let ready = shim.wait(&listener, &ended)?;
        for (id, place) in ready.pipes.into_iter().rev() {
            if let Some(child) = shim.children.get_mut(&id) {
                child.read(place);
            }
        }
        for place in ready.execs {
            shim.execs[place].read();
        }
        if ready.ended {
            while let Ok(Some(_)) = ended.read_signal() {}
        }
        shim.reap();
        shim.finish_execs();
        if ready.asked
            && let Ok((stream, _)) = listener.accept()
            && shim.answer(stream)
        {
            return Ok(());
        }
    }
}

/// What there is to do after a wait.
#[derive(Default)]
struct Ready {
    asked: bool,
    ended: bool,
    pipes: Vec<(String, usize)>,
    execs: Vec<usize>,
}

impl Shim<'_> {
    fn wait(&self, listener: &UnixListener, ended: &SignalFd) -> Result<Ready, String> {
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![listener.as_fd(), ended.as_fd()];
        let mut pipes = Vec::new();
        for (id, child) in &self.children {
            for (place, pipe) in child.pipes.iter().enumerate() {
                pipes.push((id.clone(), place));
                descriptors.push(pipe.file.as_fd());
            }
        }
        let mut execs = Vec::new();
        for (place, exec) in self.execs.iter().enumerate() {
            if let Some(output) = &exec.output {
                execs.push(place);
                descriptors.push(output.as_fd());
            }
        }
        let mut polled: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let next = self.execs.iter().map(|exec| exec.deadline.saturating_duration_since(Instant::now())).min();
        let timeout = next.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait.as_millis().min(60_000) as i32 + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(error) => return Err(format!("poll: {error}")),
        }
        let is_ready = |place: usize| polled[place].any().unwrap_or(false);
        let n_pipes = pipes.len();
        Ok(Ready {
            asked: is_ready(0),
            ended: is_ready(1),
            pipes: pipes
                .into_iter()
                .enumerate()
                .filter(|(place, _)| is_ready(2 + place))
                .map(|(_, pipe)| pipe)
                .collect(),
            execs: execs
                .into_iter()
                .enumerate()
                .filter(|(place, _)| is_ready(2 + n_pipes + place))
                .map(|(_, exec)| exec)
                .collect(),
        })
    }

    fn reap(&mut self) {
        while self.reap_one(Some(WaitPidFlag::WNOHANG)) {}
    }

    /// Takes note of the end of one child; false when there is none to take note of.
    fn reap_one(&mut self, flags: Option<WaitPidFlag>) -> bool {
        let (pid, code, signal) = match waitpid(None::<Pid>, flags) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code, None),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32, Some(signal as i32)),
            Ok(WaitStatus::StillAlive) => return false,
            Err(error) => return error == Errno::EINTR,
            Ok(_) => return true,
        };
        let pid = pid.as_raw();
        if let Some(child) = self.children.values_mut().find(|child| child.pid() == Some(pid)) {
            let exit = child.ended(self.directory, code, signal);
            for asker in child.waiting.drain(..) {
                say(asker, &Answer::Exited(exit.clone()));
            }
        } else if let Some(exec) = self.execs.iter_mut().find(|exec| exec.pid == pid) {
            exec.exit = Some(code);
            exec.read_rest();
        } else if let Some(place) = self.sessions.iter().position(|session| session.pid == pid) {
            say(self.sessions.swap_remove(place).asker, &Answer::Ended { code });
        }
        // Anything else was left behind by a container without a pid namespace of its own.
        true
    }

    fn finish_execs(&mut self) {
        let now = Instant::now();
        for exec in self.execs.extract_if(.., |exec| exec.exit.is_some() || exec.deadline <= now) {
            let answer = match exec.exit {
                Some(exit_code) => {
                    let output = String::from_utf8_lossy(&exec.said).into_owned();
                    Answer::Said(ExecOutput { exit_code, output })
                }
                None => {
                    let _ = kill(Pid::from_raw(exec.pid), Signal::SIGKILL);
                    Answer::Failed("command timed out".to_owned())
                }
            };
            say(exec.asker, &answer);
        }
    }

    /// Answers one question; true when it was the last.
    fn answer(&mut self, stream: UnixStream) -> bool {
        let _ = stream.set_read_timeout(Some(ASK_MAX));
        let _ = stream.set_write_timeout(Some(ASK_MAX));
        let mut line = String::new();
        if BufReader::new((&stream).take(QUESTION_BYTES_MAX)).read_line(&mut line).is_err() {
            return false;
        }
        let question = match serde_json::from_str(&line) {
            Ok(question) => question,
            Err(error) => {
                say(stream, &Answer::Failed(format!("a question that is not understood: {error}")));
                return false;
            }
        };
        match question {
            Question::Start { state, bundle, log_path } => {
                let started = Child::start(self.directory, *state, &bundle, &log_path);
                let answer = started.map(|child| {
                    let state = child.state.clone();
                    self.children.insert(state.id.clone(), child);
                    state
                });
                say(stream, &Answer::Started(answer));
            }
            Question::Wait { id } => match self.children.get_mut(&id) {
                None => say(stream, &unknown(&id)),
                Some(child) => match &child.state.state {
                    crate::State::Exited(exit) => say(stream, &Answer::Exited(exit.clone())),
                    crate::State::Running { .. } => {
                        child.waiting.retain(|asker| !has_hung_up(asker));
                        child.waiting.push(stream);
                    }
                },
            },
            Question::Signal { id, signal } => {
                let pid = self.children.get(&id).and_then(Child::pid);
                let signal = Signal::try_from(signal).unwrap_or(Signal::SIGKILL);
                if let Some(pid) = pid {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
                say(stream, &Answer::Done);
            }
            Question::Remove { id } => {
                let answer = self.remove(&id);
                say(stream, &answer);
            }
            Question::Exec { id, command, timeout_milliseconds } => {
                if self.children.get(&id).and_then(Child::pid).is_none() {
                    say(stream, &unknown(&id));
                    return false;
                }
                let deadline = Instant::now() + Duration::from_millis(timeout_milliseconds);
                match children::exec(self.directory, &id, command, deadline, stream) {
                    Ok(exec) => self.execs.push(exec),
                    Err((error, stream)) => say(stream, &Answer::Failed(error)),
                }
            }
            Question::Run { id, command, stdin, tty } => {
                if self.children.get(&id).and_then(Child::pid).is_none() {
                    say(stream, &unknown(&id));
                    return false;
                }
                match session::start(self.directory, &id, command, stdin, tty) {
                    Ok((pid, ends)) => {
                        hand_over(&stream, ends);
                        self.sessions.push(Session { pid, asker: stream });
                    }
                    Err(error) => say(stream, &Answer::Failed(error)),
                }
            }
            Question::Shutdown => {
                let ids: Vec<String> = self.children.keys().cloned().collect();
                let failed = ids.iter().find_map(|id| match self.remove(id) {
                    Answer::Failed(error) => Some(error),
                    _ => None,
                });
                let _ = cgroup::remove(&self.sandbox.cgroup_parent);
                say(stream, &failed.map_or(Answer::Done, Answer::Failed));
                return true;
            }
        }
        false
    }

    fn remove(&mut self, id: &str) -> Answer {
        if let Some(pid) = self.children.get(id).and_then(Child::pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // The first process of a pid namespace does not end before all others of it are reaped, and commands that were
        // run in it are children of ours: so whatever ends is reaped until it has ended.
        while self.children.get(id).and_then(Child::pid).is_some() && self.reap_one(None) {}
        let Some(child) = self.children.get(id) else { return Answer::Done };
        match child.remove(self.directory) {
            Ok(()) => {
                self.children.remove(id);
                Answer::Done
            }
            Err(error) => Answer::Failed(error),
        }
    }
}

fn unknown(id: &str) -> Answer {
    Answer::Failed(format!("container {id} is not running"))
}

/// An asker that has gone needs no answer.
fn say(mut stream: UnixStream, answer: &Answer) {
    if let Ok(mut text) = serde_json::to_vec(answer) {
        text.push(b'\n');
        let _ = stream.write_all(&text);
    }
}

/// Says which ends there are and sends them along.
fn hand_over(stream: &UnixStream, ends: session::Ends) {
    let answer = Answer::Opened(ends.iter().map(|(end, _)| *end).collect());
    let descriptors: Vec<RawFd> = ends.iter().map(|(_, descriptor)| descriptor.as_raw_fd()).collect();
    if let Ok(mut text) = serde_json::to_vec(&answer) {
        text.push(b'\n');
        let parts = [IoSlice::new(&text)];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        // An asker that has gone gets nothing, and the process finds its streams closed.
        let _ = sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None);
    }
}

fn has_hung_up(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLHUP)];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(n) if n > 0)
}
