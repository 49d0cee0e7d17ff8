//! Those who watch a container's own streams.
//!
//! What the container says goes into its log and, as it comes, into a pipe of each who is attached. A pipe that is full
//! holds the container back, as a terminal would, but not for long: who does not read for some seconds is let go.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe2,
};

use super::{
    children::Child,
    session::{Ends, pipe},
};
use crate::wire::End;

/// How many may be attached to the containers of a pod.
pub const ATTACHED_MAX: usize = 16;

/// How long a container waits for somebody who does not read.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Somebody who is attached.
pub struct Attached {
    pub id: String,
    /// Says when the client has nothing more to say, and when it has gone; hears of the container's end.
    pub asker: UnixStream,
    pub has_stdin: bool,
    /// The client has nothing more to say.
    pub is_heard: bool,
    pub outputs: Vec<Output>,
    /// The container's exit code, still to be told when everything before it was.
    pub code: Option<i32>,
}

/// A pipe to somebody, and what did not fit into it.
pub struct Output {
    name: &'static str,
    pub file: File,
    held: Vec<u8>,
    since: Instant,
}

impl Attached {
    /// Makes the ends for somebody who wants to watch a container, and perhaps speak to it.
    pub fn new(child: &Child, asker: UnixStream, stdin: bool) -> Result<(Attached, Ends), (String, UnixStream)> {
        match ends(child, stdin) {
            Ok((outputs, ends)) => {
                let id = child.state.id.clone();
                Ok((Attached { id, asker, has_stdin: stdin, is_heard: false, outputs, code: None }, ends))
            }
            Err(error) => Err((format!("attaching: {error}"), asker)),
        }
    }

    /// Passes on what the container said.
    pub fn take(&mut self, name: &str, bytes: &[u8]) {
        let now = Instant::now();
        for output in self.outputs.iter_mut().filter(|output| output.name == name) {
            if output.held.is_empty() {
                output.since = now;
            }
            output.held.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Writes what fits. A pipe that nobody reads any more is forgotten.
    pub fn flush(&mut self) {
        self.outputs.retain_mut(|output| output.flush().is_ok() && !is_closed(&output.file));
    }

    /// The container has to wait.
    pub fn is_behind(&self) -> bool {
        self.outputs.iter().any(Output::is_behind)
    }

    /// When it has waited long enough.
    pub fn deadline(&self) -> Option<Instant> {
        self.outputs.iter().filter(|output| output.is_behind()).map(|output| output.since + STALL_MAX).min()
    }

    /// Takes note that the client has said all.
    pub fn hear(&mut self) {
        let mut nothing = [0; 64];
        self.is_heard = match (&self.asker).read(&mut nothing) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
    }
}

impl Output {
    pub fn is_behind(&self) -> bool {
        !self.held.is_empty()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.held.is_empty() {
            match self.file.write(&self.held) {
                Ok(n_bytes) => {
                    self.held.drain(..n_bytes);
                    self.since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Nobody reads a pipe any more.
fn is_closed(file: &File) -> bool {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::empty())];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(n) if n > 0)
}

fn ends(child: &Child, stdin: bool) -> io::Result<(Vec<Output>, Ends)> {
    let mut ends = Vec::new();
    let mut outputs = Vec::new();
    let mut output = |name: &'static str, end: End| -> io::Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        outputs.push(Output { name, file: writer.into(), held: Vec::new(), since: Instant::now() });
        ends.push((end, reader));
        Ok(())
    };
    output("stdout", End::Stdout)?;
    if child.terminal.is_none() {
        output("stderr", End::Stderr)?;
    }
    match (&child.terminal, &child.stdin) {
        (Some(terminal), _) => ends.push((End::Console, terminal.as_fd().try_clone_to_owned()?)),
        (None, Some(input)) if stdin => ends.push((End::Stdin, input.as_fd().try_clone_to_owned()?)),
        _ => {}
    }
    Ok((outputs, ends))
}

/// What a container is given for its standard input: nothing, or a pipe whose other end is kept.
pub fn input(stdin: bool) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    if stdin {
        let (reader, writer) = pipe()?;
        return Ok((reader, Some(writer)));
    }
    Ok((File::open("/dev/null")?.into(), None))
}
