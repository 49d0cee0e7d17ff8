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
    attach::{ATTACHED_MAX, Attached},
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
    attached: Vec<Attached>,
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

    let mut shim = Shim {
        directory,
        sandbox,
        children: BTreeMap::new(),
        execs: Vec::new(),
        sessions: Vec::new(),
        attached: Vec::new(),
    };
    loop {
        let ready = shim.wait(&listener, &ended)?;
        for (id, place) in ready.pipes.into_iter().rev() {
            if let Some(child) = shim.children.get_mut(&id) {
                child.read(place, |name, bytes| tell(&mut shim.attached, &id, name, bytes));
            }
        }
        for place in ready.execs {
            shim.execs[place].read();
        }
        shim.attend(&ready.attached);
        if ready.ended {
            while let Ok(Some(_)) = ended.read_signal() {}
        }
        shim.reap();
        shim.finish_execs();
        shim.attend(&[]);
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
    /// Who is attached and has said something, or nothing more, or takes more; and who has gone.
    attached: Vec<(usize, bool)>,
}

impl Shim<'_> {
    fn wait(&self, listener: &UnixListener, ended: &SignalFd) -> Result<Ready, String> {
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![listener.as_fd(), ended.as_fd()];
        let mut pipes = Vec::new();
        for (id, child) in &self.children {
            if self.attached.iter().any(|attached| attached.id == *id && attached.is_behind()) {
                continue;
            }
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
        let n_outputs = polled.len();
        let mut attached = Vec::new();
        for (place, one) in self.attached.iter().enumerate() {
            let flags = if one.is_heard { PollFlags::empty() } else { PollFlags::POLLIN };
            polled.push(PollFd::new(one.asker.as_fd(), flags));
            attached.push((place, true));
            for output in &one.outputs {
                // Of one that nobody reads any more it is told without asking.
                let flags = if output.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
                polled.push(PollFd::new(output.file.as_fd(), flags));
                attached.push((place, false));
            }
        }
        let deadlines = self.execs.iter().map(|exec| exec.deadline);
        let deadlines = deadlines.chain(self.attached.iter().filter_map(Attached::deadline));
        let next = deadlines.map(|deadline| deadline.saturating_duration_since(Instant::now())).min();
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
            attached: attached
                .into_iter()
                .enumerate()
                .filter(|(place, _)| is_ready(n_outputs + place))
                .map(|(place, (one, is_asker))| {
                    let events = polled[n_outputs + place].revents().unwrap_or(PollFlags::empty());
                    (one, is_asker && events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
                })
                .collect(),
        })
    }

    /// Listens to those who are attached, and lets go of those who have gone, do not read, or have heard the end.
    fn attend(&mut self, ready: &[(usize, bool)]) {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (place, has_gone) in ready {
            let one = &mut self.attached[*place];
            one.flush();
            if !one.is_heard && !has_gone {
                one.hear();
            }
            if *has_gone {
                gone.push(*place);
            }
        }
        for one in self.attached.iter().filter(|one| one.has_stdin) {
            let child = self.children.get_mut(&one.id).filter(|child| child.stdin_once);
            if let Some(child) = child.filter(|_| one.is_heard) {
                child.stdin = None;
            }
        }
        let mut place = 0;
        self.attached.retain(|one| {
            let stays = !gone.contains(&place) && one.deadline().is_none_or(|deadline| deadline > now);
            place += 1;
            let is_told = one.code.is_some() && !one.is_behind();
            if !stays
                && one.has_stdin
                && let Some(child) = self.children.get_mut(&one.id).filter(|child| child.stdin_once)
            {
                child.stdin = None;
            }
            if let (Some(code), true) = (one.code, is_told)
                && let Ok(asker) = one.asker.try_clone()
            {
                say(asker, &Answer::Ended { code });
            }
            stays && !is_told
        });
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
            let (id, attached) = (child.state.id.clone(), &mut self.attached);
            let exit = child.ended(self.directory, code, signal, |name, bytes| tell(attached, &id, name, bytes));
            for one in self.attached.iter_mut().filter(|one| one.id == id) {
                one.code = Some(code);
            }
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
            Question::Start { state, bundle, log_path, streams } => {
                let started = Child::start(self.directory, *state, &bundle, &log_path, streams);
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
            Question::Attach { id, stdin } => match self.children.get(&id).filter(|child| child.pid().is_some()) {
                None => say(stream, &unknown(&id)),
                Some(_) if self.attached.len() >= ATTACHED_MAX => {
                    say(stream, &Answer::Failed(format!("{ATTACHED_MAX} clients are attached already")));
                }
                Some(child) => match Attached::new(child, stream, stdin) {
                    Ok((attached, ends)) => {
                        hand_over(&attached.asker, ends);
                        let _ = attached.asker.set_nonblocking(true);
                        self.attached.push(attached);
                    }
                    Err((error, stream)) => say(stream, &Answer::Failed(error)),
                },
            },
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

/// Passes what a container said on to those who are attached to it.
fn tell(attached: &mut [Attached], id: &str, name: &str, bytes: &[u8]) {
    for one in attached.iter_mut().filter(|one| one.id == id) {
        one.take(name, bytes);
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
