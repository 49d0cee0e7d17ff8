//! The rooms for real: what the agent's traits mean on this machine.

pub mod images;
pub mod network;
pub mod runtime;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{AgentConfig, AgentError, RuntimeChoice, run_with, surface::Rooms};

/// Runs a node on this machine until `stop`.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    if let RuntimeChoice::Cri(socket) = &config.runtime {
        return Err(AgentError::Room {
            room: "runtime",
            reason: format!("CRI sockets such as {} cannot be used yet; leave --runtime-socket out", socket.display()),
        });
    }
    let rooms = Rooms {
        runtime: Arc::new(runtime::Containers::open(&config)?),
        network: Arc::new(network::PodsNetwork::open(&config).await?),
        images: Arc::new(images::Images::open(&config)?),
    };
    run_with(config, rooms, stop).await
}
