//! The public API, over one connection after the other: a server closes those that have nothing to say for a while.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use copepod_api::Timestamp;
use copepod_identity::{Authority, SERVER_NAME};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;

use super::server::Server;

/// Longer than any measurement.
const VALIDITY: Duration = Duration::from_secs(86_400);

type Failed = Box<dyn std::error::Error>;

pub struct Api {
    address: SocketAddr,
    tls: TlsConnector,
    sender: Mutex<SendRequest<Full<Bytes>>>,
}

impl Api {
    /// As an administrator, whose certificate is made with the server's keys.
    pub async fn connect(server: &Server) -> Result<Api, String> {
        Api::try_connect(server).await.map_err(|error| format!("the API: {error}"))
    }

    async fn try_connect(server: &Server) -> Result<Api, Failed> {
        let key = fs::read_to_string(server.keys().join("authority.key"))?;
        let authority = Authority::from_pem(server.authority_pem(), &key)?;
        let admin = authority.issue_client("admin", "system:masters", Timestamp::now(), VALIDITY)?;
        let own = Some((admin.certificate_pem.as_str(), admin.key_pem.as_str()));
        let tls = TlsConnector::from(Arc::new(copepod_identity::client_config(server.authority_pem(), own)?));
        let sender = dial(server.address(), &tls).await?;
        Ok(Api { address: server.address(), tls, sender: Mutex::new(sender) })
    }

    pub async fn get(&self, path: &str) -> Result<Value, String> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Result<Value, String> {
        self.send(Method::POST, path, object.to_string().into()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Result<Value, String> {
        self.send(Method::PUT, path, object.to_string().into()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Value, String> {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, SERVER_NAME)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let mut sender = self.sender.lock().await;
        let response = loop {
            if sender.ready().await.is_err() {
                *sender = dial(self.address, &self.tls).await.map_err(|error| format!("{what}: {error}"))?;
            }
            match sender.send_request(request.clone()).await {
                // Closed in between, and never sent.
                Err(error) if error.is_canceled() => (),
                answered => break answered.map_err(|error| format!("{what}: {error}"))?,
            }
        };
        let code = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| format!("{what}: {error}"))?.to_bytes();
        if !code.is_success() {
            return Err(format!("{what}: {code}: {}", String::from_utf8_lossy(&bytes)));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("{what}: {error}"))
    }
}

async fn dial(address: SocketAddr, tls: &TlsConnector) -> Result<SendRequest<Full<Bytes>>, Failed> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(ServerName::try_from(SERVER_NAME)?, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
