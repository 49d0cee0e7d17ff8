//! Tunnels: byte streams that the control plane asks for over the session and the agent opens towards it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use copepod_api::{Status, Timestamp};
use copepod_proto::nodes::{LogRequest, OpenTunnel, TunnelData, nodes_client::NodesClient, open_tunnel};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    agent::Agent,
    kept,
    logs::{FOLLOW, Reader},
    ports, streams,
    worker::Handle,
};

/// Messages on their way up; each holds at most 64 KiB.
const QUEUE: usize = 8;

/// How long the other side may take to have read everything.
const LINGER: Duration = Duration::from_secs(30);

/// Channels of Kubernetes' remote command protocol.
pub const DATA: u32 = 0;
pub const ERROR: u32 = 3;

pub type Up = mpsc::Sender<TunnelData>;

/// Answers a request for a tunnel, in a task of its own.
pub fn open(agent: Arc<Agent>, channel: Channel, request: OpenTunnel) {
    tokio::spawn(async move {
        let (up, outbound) = mpsc::channel(QUEUE);
        let first = TunnelData { id: request.id.clone(), ..TunnelData::default() };
        if up.send(first).await.is_err() {
            return;
        }
        let mut client = NodesClient::new(channel);
        let mut down = match client.tunnel(ReceiverStream::new(outbound)).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                tracing::debug!(id = request.id, %status, "a tunnel could not be opened");
                return;
            }
        };
        let done = match request.request {
            Some(open_tunnel::Request::Logs(asked)) => logs(&agent, &asked, &up, &mut down).await,
            Some(open_tunnel::Request::PortForward(asked)) => ports::forward(&agent, &asked, &up, &mut down).await,
            Some(open_tunnel::Request::Exec(asked)) => streams::exec(&agent, &asked, &up, &mut down).await,
            None => Err(Status::bad_request("the tunnel asks for nothing")),
        };
        if let Err(status) = done {
            let data = serde_json::to_vec(&status.to_value()).unwrap_or_default();
            let _ = up.send(TunnelData { id: String::new(), channel: ERROR, data: data.into() }).await;
        }
        // Dropping the answer resets the stream, and with it what is still on its way up: the other side ends it first.
        drop(up);
        let ended = async { while let Ok(Some(_)) = down.message().await {} };
        let _ = tokio::time::timeout(LINGER, ended).await;
    });
}

pub fn find(agent: &Agent, namespace: &str, name: &str, uid: &str) -> Result<Handle, Status> {
    let found = if uid.is_empty() { agent.worker_named(namespace, name) } else { agent.worker(uid) };
    found.ok_or_else(|| Status::not_found(&copepod_api::resource::PODS, name))
}

pub async fn send(up: &Up, data: Vec<u8>) -> bool {
    up.send(TunnelData { id: String::new(), channel: DATA, data: Bytes::from(data) }).await.is_ok()
}

/// Shows the log of a container, and goes on while it runs if asked to.
async fn logs(agent: &Agent, asked: &LogRequest, up: &Up, down: &mut Streaming<TunnelData>) -> Result<(), Status> {
    let handle = match find(agent, &asked.namespace, &asked.pod, &asked.uid) {
        Ok(handle) => handle,
        Err(_) if !asked.uid.is_empty() => return kept_logs(agent, asked, up).await,
        Err(refusal) => return Err(refusal),
    };
    let view = handle.view.borrow().clone();
    let container = &asked.container;
    let Some(run) = view.runs.get(container) else {
        let text = format!("container {container:?} in pod {:?} is waiting to start: ContainerCreating", asked.pod);
        return Err(Status::bad_request(&text));
    };
    let attempt = match (asked.previous, run.attempt.checked_sub(1)) {
        (false, _) => run.attempt,
        (true, Some(previous)) => previous,
        (true, None) => {
            let text = format!("previous terminated container {container:?} in pod {:?} not found", asked.pod);
            return Err(Status::bad_request(&text));
        }
    };
    let path = agent.machine.log_path(&view.pod, container, attempt);
    let failed = |error: std::io::Error| Status::internal(format!("the log cannot be read: {error}"));
    let mut reader = Reader::open(&path, asked, Timestamp::now()).map_err(failed)?;
    let mut has_shown = false;
    loop {
        // Asked before reading: what is written until the end is read after it.
        let running = handle.view.borrow().runs.get(container).is_some_and(|run| run.running && run.attempt == attempt);
        let data = reader.read().map_err(failed)?;
        if !data.is_empty() {
            if !send(up, data).await {
                return Ok(());
            }
            has_shown = true;
            continue;
        }
        // The pod's last step is done, and only its worker is not quite gone. It may be done at any moment, so this is asked
        // after nothing was found.
        if !has_shown && !agent.machine.log_dir(&view.pod).exists() {
            return kept_logs(agent, asked, up).await;
        }
        if reader.is_exhausted() || !asked.follow || !running {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => (),
            // Nothing is ever said down this tunnel; its end is the end of interest.
            _ = down.message() => return Ok(()),
        }
    }
}

/// Shows what a pod wrote that is gone.
async fn kept_logs(agent: &Agent, asked: &LogRequest, up: &Up) -> Result<(), Status> {
    let failed = |error: std::io::Error| Status::internal(format!("the log cannot be read: {error}"));
    let found = kept::find(&agent.machine.data_dir, asked).map_err(failed)?;
    let path = found.map_err(|why| Status::new(404, "NotFound", why))?;
    let mut reader = Reader::open(&path, asked, Timestamp::now()).map_err(failed)?;
    loop {
        let data = reader.read().map_err(failed)?;
        if data.is_empty() || !send(up, data).await {
            return Ok(());
        }
    }
}
