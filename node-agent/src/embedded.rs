//! The rooms for real: what the agent's traits mean on this machine.

pub mod images;
pub mod network;
mod policies;
pub mod runtime;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{AgentConfig, AgentError, RuntimeChoice, cri, run_with, surface::Rooms};

/// Runs a node on this machine until `stop`.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    let rooms = match &config.runtime {
        RuntimeChoice::Embedded => Rooms {
            runtime: Arc::new(runtime::Containers::open(&config)?),
            network: Arc::new(network::PodsNetwork::open(&config).await?),
            images: Arc::new(images::Images::open(&config)?),
        },
        RuntimeChoice::Cri(socket) => cri::rooms(&config, socket).await?,
    };
    run_with(config, rooms, stop).await
}
