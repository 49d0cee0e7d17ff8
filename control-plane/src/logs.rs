//! The apiserver's way to a node, over the agent's session on this server.

use std::{sync::Arc, time::Duration};

use copepod_api::Status;
use copepod_apiserver::{LogQuery, LogStream, Tunnels};
use copepod_nodes::Hub;
use copepod_proto::nodes::{LogRequest, TunnelData, open_tunnel};
use copepod_store::door::Async;
use futures::StreamExt;

/// The channels of a tunnel, as Kubernetes' remote command protocol numbers them: logs come as plain data.
const DATA: u32 = 0;
const ERROR: u32 = 3;

/// How long the first bytes are waited for before the answer begins without them.
const FIRST_MAX: Duration = Duration::from_millis(500);

pub struct NodeTunnels {
    hub: Arc<Hub>,
}

impl NodeTunnels {
    pub fn new(hub: Arc<Hub>) -> NodeTunnels {
        NodeTunnels { hub }
    }
}

impl Tunnels for NodeTunnels {
    fn logs(&self, query: LogQuery) -> Async<'_, Result<LogStream, Status>> {
        Box::pin(async move {
            let request = LogRequest {
                namespace: query.namespace,
                pod: query.pod,
                uid: query.uid,
                container: query.container,
                follow: query.follow,
                previous: query.previous,
                timestamps: query.timestamps,
                tail_lines: query.tail_lines,
                since_seconds: query.since_seconds,
                since_time: query.since_time,
                limit_bytes: query.limit_bytes,
            };
            let id = format!("{:032x}", rand::random::<u128>());
            let mut tunnel = self.hub.open_tunnel(&query.node, id, open_tunnel::Request::Logs(request)).await?;
            // The first message decides between an answer and an error: a Status cannot follow the head of a response. A
            // container that has not written anything yet is waited for only so long.
            let first = match tokio::time::timeout(FIRST_MAX, tunnel.from_node.message()).await {
                Ok(first) => first.map_err(lost)?,
                Err(_) => Some(TunnelData::default()),
            };
            if let Some(refusal) = first.as_ref().filter(|message| message.channel == ERROR) {
                return Err(refused(&refusal.data));
            }
            let keeper = tunnel.to_node;
            let rest = tunnel.from_node.map(move |message| {
                let _open = &keeper;
                message.map_err(lost)
            });
            let lines = futures::stream::iter(first.map(Ok)).chain(rest).filter_map(|message| async {
                match message {
                    Ok(message) if message.channel == DATA => Some(Ok(message.data)),
                    Ok(message) if message.channel == ERROR => Some(Err(refused(&message.data))),
                    Ok(_) => None,
                    Err(status) => Some(Err(status)),
                }
            });
            Ok(Box::pin(lines) as LogStream)
        })
    }
}

fn refused(data: &[u8]) -> Status {
    serde_json::from_slice(data)
        .ok()
        .and_then(Status::from_value)
        .unwrap_or_else(|| Status::internal(String::from_utf8_lossy(data)))
}

fn lost(status: tonic::Status) -> Status {
    Status::unavailable(format!("the connection to the node broke: {}", status.message()))
}
