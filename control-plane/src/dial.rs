//! A connection to a server whose cluster is known only by its fingerprint, as a token carries it.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tonic::transport::{Channel, Endpoint, Uri};

/// How long a server may take to accept a connection, with TLS.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The server must prove that its certificate comes from the authority with this fingerprint.
pub async fn pinned(address: &str, fingerprint: &str) -> Result<Channel, String> {
    let mut tls = copepod_identity::pinned_client_config(fingerprint).map_err(|error| error.to_string())?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(tls));
    let address = address.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            let name = ServerName::try_from(copepod_identity::SERVER_NAME).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    // TLS is the connector's business: tonic takes `https` only with a configuration of its own.
    let endpoint = Endpoint::from_static("http://copepod").connect_timeout(CONNECT_MAX);
    endpoint.connect_with_connector(connect).await.map_err(|error| crate::chain(&error))
}
