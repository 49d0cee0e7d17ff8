//! Programs that are asked over HTTPS, in pods behind a service or anywhere: webhooks.
//!
//! Servers have no way into the pod network. So what is behind a service is reached through a tunnel to the node of one
//! of its pods, as the proxy subresources do it.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use copepod_api::{Status, resource::SERVICES};
use copepod_identity::{AnyCertificate, Issued, Trust};
use copepod_store::View;
use http::{
    StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Tunnels, proxy::target, streams::link::Connection};

/// The longest answer that is read: an object of the largest size, and a patch that replaces all of it.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

const HTTPS: u16 = 443;

/// Where a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    place: Place,
    /// Path and query.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Service { namespace: String, name: String, port: u16 },
    Host { name: String, port: u16 },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host(), self.port());
        write!(f, "https://{host}:{port}{}", self.path)
    }
}

impl Address {
    /// Reads a `clientConfig`: a `url`, or a `service`.
    pub fn of(client: &Value) -> Result<Address, String> {
        let service = &client["service"];
        if service.is_object() {
            let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
            let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS);
            let path = text("path");
            return Ok(Address {
                place: Place::Service { namespace: text("namespace"), name: text("name"), port },
                path: if path.is_empty() { "/".to_owned() } else { path },
            });
        }
        let url = client["url"].as_str().unwrap_or_default();
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        Ok(Address {
            place: Place::Host { name: host.to_owned(), port: uri.port_u16().unwrap_or(HTTPS) },
            path: uri.path().to_owned(),
        })
    }

    /// The name that its certificate must bear.
    fn host(&self) -> String {
        match &self.place {
            Place::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
            Place::Host { name, .. } => name.clone(),
        }
    }

    fn port(&self) -> u16 {
        match self.place {
            Place::Service { port, .. } | Place::Host { port, .. } => port,
        }
    }

    /// A program behind a port of a service.
    pub fn of_service(namespace: &str, name: &str, port: u16) -> Address {
        let place = Place::Service { namespace: namespace.to_owned(), name: name.to_owned(), port };
        Address { place, path: "/".to_owned() }
    }

    /// A connection to the program, which has proved by its certificate to be the one.
    pub async fn connect(
        &self,
        view: &View,
        tunnels: &dyn Tunnels,
        trust: Arc<Trust>,
    ) -> Result<TlsStream<Box<dyn Connection + Unpin>>, String> {
        self.connect_with(view, tunnels, Arc::new(client(Some(trust), None)?)).await
    }

    /// A connection by other rules of trust.
    pub async fn connect_with(
        &self,
        view: &View,
        tunnels: &dyn Tunnels,
        tls: Arc<ClientConfig>,
    ) -> Result<TlsStream<Box<dyn Connection + Unpin>>, String> {
        let connection: Box<dyn Connection + Unpin> = match &self.place {
            Place::Service { namespace, name, port } => {
                let said = |status: Status| match status.code() {
                    404 => format!("{} {name:?} not found", SERVICES.plural),
                    _ => status.message().to_owned(),
                };
                let target = target::behind(view, namespace, name, *port).map_err(said)?;
                let link = tunnels.forward(target.query).await.map_err(said)?;
                Box::new(link.into_connection())
            }
            Place::Host { name, port } => {
                let bare = name.trim_matches(['[', ']']);
                let stream = TcpStream::connect((bare, *port)).await;
                Box::new(stream.map_err(|error| format!("dial tcp {name}:{port}: {error}"))?)
            }
        };
        let host = self.host();
        let server = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let server = server.map_err(|_| format!("{host:?} cannot be the name of a server"))?;
        let connector = TlsConnector::from(tls);
        connector.connect(server, connection).await.map_err(|error| format!("tls: {error}"))
    }

    /// Sends JSON and gives the JSON that comes back, within so long.
    pub async fn post(
        &self,
        view: &View,
        tunnels: &dyn Tunnels,
        trust: Arc<Trust>,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, String> {
        let answer = tokio::time::timeout(timeout, self.exchange(view, tunnels, trust, body)).await;
        answer
            .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
            .map_err(|why| format!("Post \"{self}\": {why}"))
    }

    async fn exchange(
        &self,
        view: &View,
        tunnels: &dyn Tunnels,
        trust: Arc<Trust>,
        body: &Value,
    ) -> Result<Value, String> {
        let stream = self.connect(view, tunnels, trust).await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        // It ends with the exchange: whoever waits for the answer drops it.
        let connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
        let request = http::Request::post(&self.path)
            .header(HOST, format!("{}:{}", self.host(), self.port()))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        drop(connection);
        if code != StatusCode::OK {
            const SHOWN_MAX: usize = 200;
            let text: String = String::from_utf8_lossy(&body).trim().chars().take(SHOWN_MAX).collect();
            return Err(format!("the answer has the status code {code}: {text}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("the answer is not JSON: {error}"))
    }
}

/// A task that lives no longer than whoever waits for it.
pub struct AbortOnDrop(pub tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How to speak TLS as a client: whom to trust (`None`: everybody), and as whom.
pub fn client(trust: Option<Arc<Trust>>, own: Option<&Issued>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Some(trust) => trust,
        None => AnyCertificate::verifier(),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some(own) = own else { return Ok(builder.with_no_client_auth()) };
    let certificate = CertificateDer::from_pem_slice(own.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes());
    let (Ok(certificate), Ok(key)) = (certificate, key) else {
        return Err("the certificate of the front proxy is damaged".to_owned());
    };
    builder.with_client_auth_cert(vec![certificate], key).map_err(|error| error.to_string())
}

/// Whom to trust: the certificates of a `caBundle` (PEM, in base64), or those that this machine trusts.
pub fn trusted(bundle: Option<&str>) -> Result<Arc<Trust>, String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Trust::in_roots(roots).map_err(|error| format!("this machine trusts nobody: {error}"));
    };
    let pem = STANDARD.decode(bundle).map_err(|error| format!("caBundle is not base64: {error}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| format!("caBundle is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("caBundle holds no certificate".to_owned());
    }
    Trust::of(certificates).map_err(|error| format!("caBundle holds no certificate of an authority: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_a_service_or_a_url() {
        for (client, address) in [
            (json!({"service": {"namespace": "n", "name": "s"}}), "https://s.n.svc:443/"),
            (
                json!({"service": {"namespace": "n", "name": "s", "port": 8443, "path": "/a/b"}}),
                "https://s.n.svc:8443/a/b",
            ),
            (json!({"url": "https://example.com/x"}), "https://example.com:443/x"),
            (json!({"url": "https://[::1]:9443"}), "https://[::1]:9443/"),
        ] {
            assert_eq!(Address::of(&client).unwrap().to_string(), address);
        }
        assert!(Address::of(&json!({"url": "nowhere"})).is_ok_and(|address| address.port() == 443));
        assert!(Address::of(&json!({})).is_err());
    }

    #[test]
    fn a_bundle_holds_certificates_or_is_refused() {
        assert!(trusted(Some("%")).unwrap_err().contains("base64"));
        assert!(trusted(Some("aGVsbG8=")).unwrap_err().contains("no certificate"));
    }
}
