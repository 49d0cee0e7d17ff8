//! Why a server does not start, or stopped, in words for the person who runs it.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{path}: {cause}", path = path.display())]
    Disk { path: PathBuf, cause: String },

    #[error(
        "{path} {what}; remove the directory and let this server join again, or, if it was the only one, restore its cluster \
         from a backup (`copepod restore`)",
        path = path.display()
    )]
    Keys { path: PathBuf, what: String },

    #[error("cannot listen on {address}: {cause}")]
    Listen { address: std::net::SocketAddr, cause: String },

    #[error("cannot join the cluster through {server}: {cause}")]
    Join { server: String, cause: String },

    #[error("{0}")]
    Replica(#[from] copepod_replica::OpenError),

    #[error(
        "this server was removed from the cluster; to let it join again, remove {path} and start it with --join",
        path = path.display()
    )]
    Removed { path: PathBuf },

    #[error("certificates: {0}")]
    Identity(String),
}

impl ServerError {
    pub(crate) fn disk(path: &Path, error: std::io::Error) -> ServerError {
        let hint = match error.kind() {
            std::io::ErrorKind::StorageFull => " (free some space and start again; nothing acknowledged is lost)",
            std::io::ErrorKind::PermissionDenied => " (servers run as root)",
            _ => "",
        };
        ServerError::Disk { path: path.to_owned(), cause: format!("{error}{hint}") }
    }

    pub(crate) fn keys(path: PathBuf, what: &str) -> ServerError {
        ServerError::Keys { path, what: what.to_owned() }
    }
}
