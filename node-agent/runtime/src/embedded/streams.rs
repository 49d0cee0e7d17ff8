//! Commands and terminals of the embedded runtime: the shim hands over descriptors, which are read and written here.

use std::{
    io::{self, IoSliceMut, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{ControlMessageOwned, MsgFlags, Shutdown, UnixAddr, recvmsg, shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{UnixStream, unix::pipe},
};

use super::{ANSWER_BYTES_MAX, ANSWER_MAX, Embedded};
use crate::{
    Process, RuntimeError, Size, Wanted,
    wire::{Answer, End, Question},
};

/// How many descriptors come with one answer.
const ENDS_MAX: usize = 4;

impl Embedded {
    /// Starts a command in a container; its streams are the caller's.
    pub async fn run(&self, id: &str, command: &[String], wanted: Wanted) -> Result<Process, RuntimeError> {
        let sandbox = self.sandbox(id)?;
        let Wanted { stdin, tty } = wanted;
        let question = Question::Run { id: id.to_owned(), command: command.to_vec(), stdin, tty };
        self.opened(&sandbox, &question).await
    }

    /// Watches the streams of a container's own process, and speaks to it.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Process, RuntimeError> {
        let sandbox = self.sandbox(id)?;
        self.opened(&sandbox, &Question::Attach { id: id.to_owned(), stdin }).await
    }

    async fn opened(&self, sandbox: &str, question: &Question) -> Result<Process, RuntimeError> {
        let stream = self.say(sandbox, question).await?.into_inner();
        let opened = tokio::time::timeout(ANSWER_MAX, open(stream)).await;
        opened.map_err(|_| RuntimeError(format!("the shim of {sandbox} does not answer")))?
    }
}

/// Takes the ends that the shim hands over, and waits for its last word on the same connection.
async fn open(stream: UnixStream) -> Result<Process, RuntimeError> {
    let broken = |error: io::Error| RuntimeError(format!("the shim does not answer: {error}"));
    let mut heard = Vec::new();
    let mut descriptors = Vec::new();
    while !heard.contains(&b'\n') && (heard.len() as u64) < ANSWER_BYTES_MAX {
        let n_bytes = stream
            .async_io(Interest::READABLE, || receive(&stream, &mut heard, &mut descriptors))
            .await
            .map_err(broken)?;
        if n_bytes == 0 {
            return Err("the shim has ended".into());
        }
    }
    let end = heard.iter().position(|byte| *byte == b'\n').map_or(heard.len(), |place| place + 1);
    let rest = heard.split_off(end);
    let ends = match understood(&heard)? {
        Answer::Opened(ends) if ends.len() == descriptors.len() => ends,
        Answer::Failed(error) => return Err(error.into()),
        other => return Err(format!("the shim answered {other:?}").into()),
    };
    let stream = Arc::new(stream);
    let ended = ended(stream.clone(), rest);
    let mut process = Process { stdin: None, stdout: None, stderr: None, resize: None, ended };
    for (end, descriptor) in ends.into_iter().zip(descriptors) {
        process.take(end, descriptor, &stream).map_err(broken)?;
    }
    Ok(process)
}

impl Process {
    fn take(&mut self, end: End, descriptor: OwnedFd, shim: &Arc<UnixStream>) -> io::Result<()> {
        match end {
            End::Stdin => {
                let pipe = pipe::Sender::from_owned_fd(descriptor)?;
                self.stdin = Some(Box::new(Input { pipe, shim: shim.clone() }));
            }
            End::Stdout => self.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(descriptor)?)),
            End::Stderr => self.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(descriptor)?)),
            End::Terminal => {
                let terminal = Terminal::new(descriptor)?;
                let (writer, sized) = (terminal.clone(), terminal.clone());
                self.stdin = Some(Box::new(writer));
                self.stdout = Some(Box::new(terminal));
                self.resize = Some(Box::new(move |size| sized.resize(size)));
            }
            End::Console => {
                let terminal = Terminal::new(descriptor)?;
                let sized = terminal.clone();
                self.stdin = Some(Box::new(terminal));
                self.resize = Some(Box::new(move |size| sized.resize(size)));
            }
        }
        Ok(())
    }
}

fn ended(stream: Arc<UnixStream>, mut heard: Vec<u8>) -> BoxFuture<'static, Result<i32, RuntimeError>> {
    Box::pin(async move {
        let lost = |error: io::Error| RuntimeError(format!("the shim was lost: {error}"));
        // It says one thing more, and no more than it says about any process.
        while !heard.contains(&b'\n') && (heard.len() as u64) < ANSWER_BYTES_MAX {
            let mut none = Vec::new();
            let read = stream.async_io(Interest::READABLE, || receive(&stream, &mut heard, &mut none)).await;
            if read.map_err(lost)? == 0 {
                return Err("the shim has ended".into());
            }
        }
        match understood(&heard)? {
            Answer::Ended { code } => Ok(code),
            Answer::Failed(error) => Err(error.into()),
            other => Err(format!("the shim answered {other:?}").into()),
        }
    })
}

fn understood(line: &[u8]) -> Result<Answer, RuntimeError> {
    serde_json::from_slice(line).map_err(|error| RuntimeError(format!("the shim's answer is not understood: {error}")))
}

/// Reads what there is, and the descriptors that come along.
fn receive(stream: &UnixStream, heard: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; ENDS_MAX]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows of them.
            descriptors.extend(received.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    let n_bytes = message.bytes;
    heard.extend_from_slice(&bytes[..n_bytes]);
    Ok(n_bytes)
}

/// The input of a process. The shim holds the same pipe for a container's own, and is told when nothing more comes.
struct Input {
    pipe: pipe::Sender,
    shim: Arc<UnixStream>,
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = shutdown(self.shim.as_raw_fd(), Shutdown::Write);
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

/// The master of a terminal. Its end is an error, EIO, when nothing holds the other side any more (pty(7)).
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<std::fs::File>>);

impl Terminal {
    fn new(descriptor: OwnedFd) -> io::Result<Terminal> {
        fcntl(&descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // SAFETY: the file owns its descriptor and keeps it for as long as it lives.
        let registered = unsafe { AsyncFd::register(std::fs::File::from(descriptor)) };
        Ok(Terminal(Arc::new(registered?)))
    }

    fn resize(&self, size: Size) {
        let size = nix::libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the size lives until the call returns. It fails for what is gone only.
        unsafe { nix::libc::ioctl(self.0.as_raw_fd(), nix::libc::TIOCSWINSZ, &size) };
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = out.initialize_unfilled();
            match guard.try_io(|file| file.get_ref().read(unfilled)) {
                Ok(Ok(n_bytes)) => out.advance(n_bytes),
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => continue,
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|file| file.get_ref().write(bytes)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => continue,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
