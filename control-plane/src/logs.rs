//! The apiserver's way to a node, over the agent's session on this server.

use std::{sync::Arc, time::Duration};

use copepod_api::Status;
use copepod_apiserver::{ExecQuery, ForwardQuery, Frame, Link, LogQuery, LogStream, Tunnels};
use copepod_nodes::Hub;
use copepod_proto::nodes::{ExecRequest, LogRequest, PortForwardRequest, TunnelData, open_tunnel};
use copepod_store::door::Async;
use futures::{SinkExt, StreamExt};
use tokio_util::sync::PollSender;

/// The channels of a tunnel, as Kubernetes' remote command protocol numbers them: logs come as plain data.
const DATA: u32 = 0;
const ERROR: u32 = 3;

/// How long the first bytes are waited for before the answer begins without them.
const FIRST_MAX: Duration = Duration::from_millis(500);

/// How long a node may take to say whether it can do what is asked; it only looks for the container.
const LINK_MAX: Duration = Duration::from_secs(10);

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

    fn exec(&self, query: ExecQuery) -> Async<'_, Result<Link, Status>> {
        Box::pin(async move {
            let request = ExecRequest {
                namespace: query.namespace,
                pod: query.pod,
                uid: query.uid,
                container: query.container,
                command: query.command,
                stdin: query.stdin,
                stdout: query.stdout,
                stderr: query.stderr,
                tty: query.tty,
                attach: query.attach,
            };
            self.link(&query.node, open_tunnel::Request::Exec(request)).await
        })
    }

    fn forward(&self, query: ForwardQuery) -> Async<'_, Result<Link, Status>> {
        Box::pin(async move {
            let request = PortForwardRequest {
                namespace: query.namespace,
                pod: query.pod,
                uid: query.uid,
                port: query.port.into(),
            };
            self.link(&query.node, open_tunnel::Request::PortForward(request)).await
        })
    }
}

impl NodeTunnels {
    /// Opens a tunnel both of whose directions are used. The node's first word decides whether it came about.
    async fn link(&self, node: &str, request: open_tunnel::Request) -> Result<Link, Status> {
        let id = format!("{:032x}", rand::random::<u128>());
        let mut tunnel = self.hub.open_tunnel(node, id, request).await?;
        let first = tokio::time::timeout(LINK_MAX, tunnel.from_node.message()).await;
        let first = first.map_err(|_| Status::timeout(format!("node {node} does not answer")))?.map_err(lost)?;
        match first {
            Some(first) if first.channel == ERROR => return Err(refused(&first.data)),
            Some(_) => {}
            None => return Err(Status::unavailable(format!("node {node} ended the connection"))),
        }
        let from_node = tunnel.from_node.map(|message| {
            let message = message.map_err(lost)?;
            Ok(Frame { channel: u8::try_from(message.channel).unwrap_or(u8::MAX), data: message.data })
        });
        let to_node = PollSender::new(tunnel.to_node).sink_map_err(|_| Status::unavailable("the node has gone"));
        let to_node = to_node.with(|frame: Frame| {
            let message = TunnelData { id: String::new(), channel: frame.channel.into(), data: frame.data };
            std::future::ready(Ok::<_, Status>(Ok(message)))
        });
        Ok(Link { from_node: Box::pin(from_node), to_node: Box::pin(to_node) })
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
