//! What an agent is told when it is started.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The name of the node.
    pub name: String,
    /// The cgroup of its containers, below `copepod/`: of its own, so that several nodes can be on one machine.
    pub cgroup: String,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// Content of images; may be shared by the nodes of one machine.
    pub images_dir: PathBuf,
    /// host:port of any server; needed once, to join.
    pub server: Option<String>,
    pub token: Option<String>,
    /// The node's address; found by itself when not given.
    pub address: Option<IpAddr>,
    pub labels: BTreeMap<String, String>,
    pub runtime: RuntimeChoice,
    /// Registries and where to ask instead.
    pub mirrors: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    Embedded,
    /// The socket of a container runtime that speaks CRI.
    Cri(PathBuf),
}

impl AgentConfig {
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        pod_dir(&self.data_dir, uid)
    }
}

pub fn pod_dir(data_dir: &Path, uid: &str) -> PathBuf {
    data_dir.join("pods").join(uid)
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Join(String),
    #[error("the {room} cannot be used: {reason}")]
    Room { room: &'static str, reason: String },
}

impl AgentError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> AgentError {
        let what = what.into();
        move |source| AgentError::Io { what, source }
    }
}
