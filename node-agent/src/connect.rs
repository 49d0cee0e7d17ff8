//! How servers are reached.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A server whose machine is gone is noticed after these two together. The kernel asks, so that a server of thousands of
/// nodes does not have to answer; whether the server itself hangs is told by its answers to heartbeats (`session.rs`).
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const ALIVE_MAX: Duration = Duration::from_millis(1500);

/// Reaches servers. The agent's is mutual TLS; tests bring one without.
#[tonic::async_trait]
pub trait Dial: Send + Sync + 'static {
    /// host:port of every server known, in the order to try them.
    fn servers(&self) -> Vec<String>;
    /// The cluster says which servers it has.
    fn learn(&self, servers: &[String]);
    async fn dial(&self, server: &str) -> Result<Channel, String>;
}

/// The connection's settings, whoever secures it.
pub fn endpoint(server: &str) -> Result<Endpoint, String> {
    Ok(Endpoint::from_shared(format!("http://{server}"))
        .map_err(|error| format!("{server:?} is no server's address, like 10.0.0.1:6443: {error}"))?
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true))
}

/// Has the kernel ask whether the other end lives, and give the connection up when nothing comes back.
pub fn keep_asking(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ALIVE_INTERVAL).with_interval(ALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(ALIVE_INTERVAL + ALIVE_MAX))
}
