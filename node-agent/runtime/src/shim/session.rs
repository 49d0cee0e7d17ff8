//! Commands whose streams somebody holds: the shim starts them, hands over the ends of their pipes or of their terminal,
//! and says how they ended. What flows never passes through the shim, so its one thread cannot be held up by it.

use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use nix::{
    sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg},
    unistd::pipe2,
};
use serde_json::Value;

use super::{
    attach,
    children::{chain, root},
};
use crate::{oci::TERM, wire::End};

/// A process that asked for a terminal has connected before it is said to run, so this is only for faults.
const CONSOLE_MAX: Duration = Duration::from_secs(2);

/// A command that runs for somebody.
pub struct Session {
    pub pid: i32,
    pub asker: UnixStream,
}

/// The ends that the asker gets, by what they are.
pub type Ends = Vec<(End, OwnedFd)>;

/// Starts a command in a running container.
pub fn start(directory: &Path, id: &str, command: Vec<String>, stdin: bool, tty: bool) -> Result<(i32, Ends), String> {
    let process = Process::write(directory, id, command, tty)?;
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(root(directory))
        .map_err(|error| error.to_string())?;
    let (builder, mut ends, console) = if tty {
        let console = Console::bind(directory)?;
        (builder.with_console_socket(Some(&console.path)), Vec::new(), Some(console))
    } else {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (stdout, out) = pipe().map_err(|error| text(&error))?;
        let (stderr, err) = pipe().map_err(|error| text(&error))?;
        let mut ends = vec![(End::Stdout, stdout), (End::Stderr, stderr)];
        let (input, kept) = attach::input(stdin).map_err(|error| text(&error))?;
        ends.extend(kept.map(|stdin| (End::Stdin, stdin)));
        (builder.with_stdin(input).with_stdout(out).with_stderr(err), ends, None)
    };
    let pid = builder
        .as_tenant()
        .with_process(Some(&process.path))
        .with_detach(true)
        .build()
        .map_err(|error| chain(&error))?;
    if let Some(console) = console {
        ends.push((End::Terminal, console.master()?));
    }
    Ok((pid.as_raw(), ends))
}

pub fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    pipe2(nix::fcntl::OFlag::O_CLOEXEC)
}

/// The description of a process in a container: as the container's own, but for the command.
pub struct Process {
    pub path: PathBuf,
}

impl Process {
    pub fn write(directory: &Path, id: &str, command: Vec<String>, tty: bool) -> Result<Process, String> {
        let bundle = directory.join("bundles").join(id);
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", bundle.display());
        let text = fs::read(bundle.join("config.json")).map_err(|error| failed(&error))?;
        let mut config: Value = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        let mut process = config["process"].take();
        process["args"] = command.into();
        process["terminal"] = tty.into();
        if tty && let Some(env) = process["env"].as_array_mut() {
            let is_said = env.iter().any(|line| line.as_str().is_some_and(|line| line.starts_with("TERM=")));
            if !is_said {
                env.push(TERM.into());
            }
        }
        let path = bundle.join("process.json");
        fs::write(&path, process.to_string()).map_err(|error| failed(&error))?;
        Ok(Process { path })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The socket over which a process that wants a terminal sends its master, made inside the container.
pub struct Console {
    pub path: PathBuf,
    listener: UnixListener,
}

impl Console {
    pub fn bind(directory: &Path) -> Result<Console, String> {
        let path = directory.join("console.sock");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Console { path, listener })
    }

    pub fn master(&self) -> Result<OwnedFd, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the process sent no terminal: {error}");
        self.listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        let (stream, _) = self.listener.accept().map_err(|error| failed(&error))?;
        stream.set_read_timeout(Some(CONSOLE_MAX)).map_err(|error| failed(&error))?;
        receive(&stream).map_err(|error| failed(&error))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The one descriptor that comes over a socket.
fn receive(stream: &UnixStream) -> Result<OwnedFd, nix::errno::Errno> {
    let mut name = [0; 64];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(stream.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let descriptor = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let descriptor = descriptor.ok_or(nix::errno::Errno::EBADMSG)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
