//! A node whose containers another runtime runs, behind a CRI socket.
//!
//! Such a runtime brings its images, the roots of containers, and the network of pods, by its CNI plugins. What stays the
//! agent's: which pods there are, their volumes and files, probes, services and names.

mod images;
mod network;
mod runtime;

use std::{path::Path, sync::Arc};

use copepod_runtime::Cri;

use crate::{AgentConfig, AgentError, embedded::network::PodsNetwork, surface::Rooms};

pub async fn rooms(config: &AgentConfig, socket: &Path) -> Result<Rooms, AgentError> {
    let failed = |error: copepod_runtime::RuntimeError| AgentError::Room { room: "runtime", reason: error.0 };
    let cri = Arc::new(Cri::connect(socket, &config.name).await.map_err(failed)?);
    for complaint in cri.complaints().await.map_err(failed)? {
        tracing::warn!(runtime = cri.version(), complaint, "the runtime is not ready for pods");
    }
    tokio::spawn(copepod_runtime::cri::keep_logs_short(Arc::downgrade(&cri)));
    Ok(Rooms {
        runtime: Arc::new(runtime::Containers(cri.clone())),
        network: Arc::new(network::GivenNetwork(PodsNetwork::open(config).await?)),
        images: Arc::new(images::Images(cri)),
    })
}
