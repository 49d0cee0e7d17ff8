//! Byte streams to a node: logs, and later exec and port-forward.
//!
//! The agent is asked over its session to open a tunnel and calls back with the tunnel's id, so nothing ever dials it.

use std::{sync::Arc, time::Duration};

use copepod_api::Status;
use copepod_proto::nodes::{OpenTunnel, TunnelData, open_tunnel, to_node};
use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use crate::Hub;

/// How long an agent may take to call back. It only has to open a stream on a connection that it holds.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Messages on their way to a slow agent; each holds at most a few tens of kilobytes.
const TUNNEL_QUEUE: usize = 16;

/// Tunnels that agents were asked for and have not opened yet.
#[derive(Default)]
pub(crate) struct Pending(DashMap<String, oneshot::Sender<Tunnel>>);

/// Both directions of a tunnel; it ends when either is dropped.
pub struct Tunnel {
    pub from_node: Streaming<TunnelData>,
    pub to_node: mpsc::Sender<Result<TunnelData, tonic::Status>>,
}

impl Hub {
    /// Opens a tunnel to a node that has its session here. `id` is a number nobody can guess.
    pub async fn open_tunnel(&self, node: &str, id: String, request: open_tunnel::Request) -> Result<Tunnel, Status> {
        let session = self.session(node).ok_or_else(|| away(node))?;
        let (sender, opened) = oneshot::channel();
        self.tunnels.0.insert(id.clone(), sender);
        let _guard = Forget { pending: &self.tunnels, id: id.clone() };
        let message = to_node::Message::OpenTunnel(OpenTunnel { id, request: Some(request) });
        session.send(message).await.map_err(|_| away(node))?;
        match tokio::time::timeout(OPEN_MAX, opened).await {
            Ok(Ok(tunnel)) => Ok(tunnel),
            _ => Err(Status::timeout(format!("node {node} did not answer within {} s", OPEN_MAX.as_secs()))),
        }
    }

    /// An agent calls back: its first message names the tunnel.
    pub(crate) async fn opened(
        self: &Arc<Self>,
        mut from_node: Streaming<TunnelData>,
    ) -> Result<mpsc::Receiver<Result<TunnelData, tonic::Status>>, tonic::Status> {
        let first = from_node.message().await?.ok_or_else(|| tonic::Status::invalid_argument("an empty tunnel"))?;
        let (_, sender) = self
            .tunnels
            .0
            .remove(&first.id)
            .ok_or_else(|| tonic::Status::not_found("nobody waits for this tunnel (any more)"))?;
        let (to_node, outbox) = mpsc::channel(TUNNEL_QUEUE);
        sender
            .send(Tunnel { from_node, to_node })
            .map_err(|_| tonic::Status::not_found("nobody waits for this tunnel any more"))?;
        Ok(outbox)
    }
}

/// A tunnel whose asker went away is waited for no longer.
struct Forget<'a> {
    pending: &'a Pending,
    id: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pending.0.remove(&self.id);
    }
}

fn away(node: &str) -> Status {
    Status::unavailable(format!(
        "node {node} is not connected to the control plane; see `copepod describe node {node}`"
    ))
}
