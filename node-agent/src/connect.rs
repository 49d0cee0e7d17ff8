//! How servers are reached.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A server that is gone without a word (a cut cable) is noticed after these two together.
const PING_EVERY: Duration = Duration::from_secs(1);
const PONG_MAX: Duration = Duration::from_millis(1500);

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
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX)
        .keep_alive_while_idle(true))
}
