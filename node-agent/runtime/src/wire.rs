//! What the agent and a shim say to each other: one JSON value a line, one question a connection. An answer may carry
//! descriptors (SCM_RIGHTS, unix(7)).

use serde::{Deserialize, Serialize};

use crate::{ContainerState, ExecOutput, Exit, StartError};

#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// Make and start a container whose bundle has been written. `state` is what is kept of it on disk.
    Start {
        state: Box<ContainerState>,
        bundle: std::path::PathBuf,
        log_path: std::path::PathBuf,
        #[serde(default)]
        streams: Streams,
    },
    /// Answered when the container has ended.
    Wait {
        id: String,
    },
    Signal {
        id: String,
        signal: i32,
    },
    /// Forget an ended container; kill it first if it has not ended.
    Remove {
        id: String,
    },
    Exec {
        id: String,
        command: Vec<String>,
        timeout_milliseconds: u64,
    },
    /// Start a command whose streams the asker holds. Answered with `Opened`, which carries descriptors, and with `Ended`
    /// when the command has ended.
    Run {
        id: String,
        command: Vec<String>,
        stdin: bool,
        tty: bool,
    },
    /// Watch the streams of a container's own process. Answered like `Run`; the asker says that its input has ended by
    /// shutting down its half of the connection.
    Attach {
        id: String,
        stdin: bool,
    },
    /// End everything and then the shim itself.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Started(Result<ContainerState, StartError>),
    Exited(Exit),
    Said(ExecOutput),
    /// One descriptor each comes along, in this order.
    Opened(Vec<End>),
    Ended {
        code: i32,
    },
    Failed(String),
}

/// Which end of a process's streams a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Stdin,
    Stdout,
    Stderr,
    /// All of them, as a terminal.
    Terminal,
    /// A terminal that is read elsewhere: it is written to and told its size.
    Console,
}

/// What a container's own process has besides output.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Streams {
    pub stdin: bool,
    /// Its input ends when the first who speaks to it has ended.
    pub stdin_once: bool,
    pub tty: bool,
}
