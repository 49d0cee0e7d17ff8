//! Connections to ports of a pod for somebody far away.
//!
//! They are made from inside the pod's network namespace, to its loopback: a program that listens there alone is reached,
//! and no rule about the pod's address stands in between.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use copepod_api::Status;
use copepod_proto::nodes::{PortForwardRequest, TunnelData};
use nix::sched::{CloneFlags, setns};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tonic::Streaming;

use crate::{
    agent::Agent,
    streams::ENDS,
    tunnels::{self, Up},
};

/// How long a connection into a pod may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How much is read at once.
const PART_BYTES: usize = 32 << 10;

/// Carries one connection. A refusal is given before anything is said up the tunnel.
pub async fn forward(
    agent: &Agent,
    asked: &PortForwardRequest,
    up: &Up,
    down: &mut Streaming<TunnelData>,
) -> Result<(), Status> {
    let port = u16::try_from(asked.port).map_err(|_| Status::bad_request("the port is not one"))?;
    let (namespace, ip) = place(agent, asked)?;
    let dialled = tokio::time::timeout(CONNECT_MAX, dial(namespace, ip, port)).await;
    let stream = match dialled {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(format!("failed to connect to localhost:{port} inside the pod: {error}"))),
        Err(_) => return Err(failed(format!("port {port} inside the pod does not answer"))),
    };
    if up.send(TunnelData::default()).await.is_err() {
        return Ok(());
    }
    let (from_pod, to_pod) = stream.into_split();
    // Each direction ends by itself; a client that has gone ends both.
    let upward =
        async { upward(from_pod, up).await.map_err(|error| failed(format!("port {port} inside the pod: {error}"))) };
    let downward = async {
        match downward(to_pod, down).await {
            true => Ok(()),
            false => Err(None),
        }
    };
    let upward = async { upward.await.map_err(Some) };
    match tokio::try_join!(upward, downward) {
        Err(Some(status)) => Err(status),
        _ => Ok(()),
    }
}

/// Where to connect from and to. Where no pod is named, the machine itself is meant.
fn place(agent: &Agent, asked: &PortForwardRequest) -> Result<(Option<PathBuf>, Option<IpAddr>), Status> {
    if asked.pod.is_empty() {
        return Ok((None, agent.machine.host_ips.first().and_then(|ip| ip.parse().ok())));
    }
    let handle = tunnels::find(agent, &asked.namespace, &asked.pod, &asked.uid)?;
    let view = handle.view.borrow();
    let sandbox = view.sandbox.as_ref().ok_or_else(|| failed(format!("pod {:?} does not run yet", asked.pod)))?;
    let namespace = agent.machine.rooms.runtime.network_namespace(sandbox);
    Ok((namespace, view.ips.first().and_then(|ip| ip.parse().ok())))
}

fn failed(why: String) -> Status {
    Status::new(500, "InternalError", why)
}

async fn upward(mut from_pod: OwnedReadHalf, up: &Up) -> io::Result<()> {
    let mut part = vec![0; PART_BYTES];
    loop {
        let n_bytes = from_pod.read(&mut part).await?;
        if n_bytes == 0 {
            let _ = up.send(TunnelData { channel: ENDS, ..TunnelData::default() }).await;
            return Ok(());
        }
        if !tunnels::send(up, part[..n_bytes].to_vec()).await {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// False when the client has gone before it has said everything.
async fn downward(mut to_pod: OwnedWriteHalf, down: &mut Streaming<TunnelData>) -> bool {
    while let Ok(Some(data)) = down.message().await {
        if data.channel == ENDS {
            let _ = to_pod.shutdown().await;
            return true;
        }
        // A pod that hears no more may still speak.
        let _ = to_pod.write_all(&data.data).await;
    }
    false
}

/// Connects to a port: to the loopback of the namespace where there is one, and otherwise to the pod's address.
async fn dial(namespace: Option<PathBuf>, ip: Option<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let Some(namespace) = namespace else {
        let ip = ip.ok_or_else(|| io::Error::other("the pod has no address yet"))?;
        return TcpStream::connect((ip, port)).await;
    };
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match socket_in(&namespace, first).await?.connect(first).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            let other = socket_in(&namespace, second).await?.connect(second).await;
            // The first refusal says more: few pods have the other family.
            other.map_err(|_| error)
        }
        other => other,
    }
}

/// A socket that belongs to a network namespace, for ever. The thread that goes there to make it ends with it.
async fn socket_in(namespace: &Path, address: SocketAddr) -> io::Result<TcpSocket> {
    let namespace = File::open(namespace)?;
    let (sender, made) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("in-pod".into()).spawn(move || {
        let make = || -> io::Result<TcpSocket> {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
        };
        let _ = sender.send(make());
    })?;
    made.await.map_err(io::Error::other)?
}
