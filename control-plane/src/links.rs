//! Connections to the other servers: mutual TLS with this server's certificate, one a peer, made when first used.

use std::{io, sync::Arc, time::Duration};

use dashmap::DashMap;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

/// Raft gives up on a peer long before; this only ends a connection to a machine that is gone, so that a new one is made.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Links {
    tls: ClientTlsConfig,
    channels: Arc<DashMap<String, Channel>>,
}

impl Links {
    pub fn new(authority_pem: &str, certificate_pem: &str, key_pem: &str) -> Links {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority_pem))
            .identity(Identity::from_pem(certificate_pem, key_pem))
            .domain_name(copepod_identity::SERVER_NAME);
        Links { tls, channels: Arc::default() }
    }

    /// Never waits: the connection is made with the first call, and made again when it breaks.
    pub fn channel(&self, address: &str) -> Channel {
        if let Some(channel) = self.channels.get(address) {
            return channel.clone();
        }
        let channel = self.dial(address);
        self.channels.insert(address.to_owned(), channel.clone());
        channel
    }

    fn dial(&self, address: &str) -> Channel {
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("https://invalid.invalid"))
            .connect_timeout(KEEP_ALIVE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        match endpoint.clone().tls_config(self.tls.clone()) {
            Ok(endpoint) => endpoint.connect_with_connector_lazy(tower::service_fn(reach)),
            // Without TLS the peer refuses us, which is what an unusable certificate deserves; the cause is in the log.
            Err(error) => {
                tracing::error!(%error, "this server's certificate cannot be used");
                endpoint.connect_with_connector_lazy(tower::service_fn(reach))
            }
        }
    }
}

/// Tonic's own way to a socket has the time to connect end before TLS begins, and a server that hangs, or has only just bound
/// its port, then holds the link for as long as it likes.
async fn reach(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(uri.authority().map_or("", |authority| authority.as_str())).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}
