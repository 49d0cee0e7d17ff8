//! A process in a container whose streams somebody holds.

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::RuntimeError;

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Which streams are wanted. Output is always given: who does not want it does not read it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub tty: bool,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// A process as it runs. Dropping a stream closes it.
pub struct Process {
    /// Dropped, it ends: the process reads to its end.
    pub stdin: Option<Writer>,
    /// What a terminal shows, where there is one.
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// Tells the terminal how large it is.
    pub resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
    /// Its exit code, when it has ended.
    pub ended: BoxFuture<'static, Result<i32, RuntimeError>>,
}
