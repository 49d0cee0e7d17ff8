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
}
