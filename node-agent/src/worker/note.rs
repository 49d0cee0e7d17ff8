//! What a worker is told.

use std::sync::Arc;

use copepod_api::Timestamp;
use copepod_pods::{Job, ProbeKind};
use copepod_volumes::{VolumeError, Volumes};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::surface::{Exit, Image, PullError, StartError};

/// What can happen to a worker.
pub enum Note {
    /// The pod's object, for the first time or changed.
    Pod(Arc<Pod>),
    /// The control plane no longer knows the pod, or gave it to another node.
    Vanished,
    /// The pod is out of every node's data path.
    Released,
    /// A config map or secret that the pod may show has changed.
    Configuration,
    /// A token that the pod shows is to be renewed.
    Tokens,
    Done(Job, Box<Outcome>),
    Exited(Box<Exited>),
    /// The sandbox of this id has ended by itself.
    SandboxLost(String),
    /// A job may be tried again.
    Rested(Job),
}

/// A queue has room for 32 of them from the beginning.
const _: () = assert!(size_of::<Note>() <= 64);

/// A run that is over.
pub struct Exited {
    pub container: String,
    pub id: String,
    pub exit: Exit,
    pub message: String,
}

/// What came of an action.
pub enum Outcome {
    Volumes(Result<Volumes, VolumeError>),
    Sandbox {
        attempt: u32,
        ips: Result<Vec<String>, String>,
    },
    SandboxRemoved(Result<(), String>),
    SandboxStopped(Result<(), String>),
    TornDown(Result<(), String>),
    Image {
        container: String,
        attempt: u32,
        image: Result<Image, PullError>,
    },
    Started {
        container: String,
        attempt: u32,
        id: String,
        resources: Option<ResourceRequirements>,
        started: Result<Timestamp, NotStarted>,
    },
    Resized {
        container: String,
        id: String,
        resources: Option<ResourceRequirements>,
        done: Result<(), String>,
    },
    PostStart {
        container: String,
        id: String,
        done: Result<(), String>,
    },
    PreStop {
        container: String,
        done: Result<(), String>,
    },
    Stopped {
        container: String,
        done: Result<(), String>,
    },
    Probed {
        container: String,
        kind: ProbeKind,
        id: String,
        passed: bool,
        message: String,
    },
    Nothing,
}

/// Why a container does not run.
#[derive(Debug)]
pub enum NotStarted {
    /// What it needs is missing or wrong.
    Config(String),
    /// The sandbox has ended.
    Sandbox,
    Runtime(StartError),
}
