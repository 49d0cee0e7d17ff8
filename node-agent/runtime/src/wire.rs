//! What the agent and a shim say to each other: one JSON value a line, one question a connection.

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
    /// End everything and then the shim itself.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Started(Result<ContainerState, StartError>),
    Exited(Exit),
    Said(ExecOutput),
    Failed(String),
}
