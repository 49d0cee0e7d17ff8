//! Speaks to the API: one connection a request, which a command that lives for a second can afford.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use copepod_api::Status;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use crate::{
    failure::{Doing, Failure, Outcome},
    kubeconfig::Access,
};

/// A server that does not take a connection within this time is away.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Answers larger than this are not for a terminal.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What we say we are.
const AGENT: &str = concat!("copepod/", env!("CARGO_PKG_VERSION"));

/// A connection that carries messages.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

#[derive(Clone)]
pub struct Client {
    access: Arc<Access>,
    tls: TlsConnector,
}

/// An answer of the API: an object, or its refusal.
pub type Answer = Result<Value, Status>;

impl Client {
    pub fn new(access: Access) -> Outcome<Client> {
        let client = access.client.as_ref().map(|(certificate, key)| (certificate.as_str(), key.as_str()));
        let tls =
            copepod_identity::client_config(&access.authority_pem, client).doing("certificates of the kubeconfig")?;
        Ok(Client { access: Arc::new(access), tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// The same caller, speaking to another server of the cluster.
    pub fn at(&self, address: &str) -> Outcome<Client> {
        Client::new(Access { address: address.to_owned(), ..(*self.access).clone() })
    }

    pub fn namespace(&self) -> &str {
        self.access.namespace.as_deref().unwrap_or("default")
    }

    pub fn authority_pem(&self) -> &str {
        &self.access.authority_pem
    }

    pub fn address(&self) -> &str {
        &self.access.address
    }

    pub async fn get(&self, path: &str) -> Outcome<Answer> {
        self.send(Method::GET, path, "application/json", Bytes::new()).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Outcome<Answer> {
        self.send(Method::POST, path, "application/json", object.to_string().into()).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Outcome<Answer> {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch.to_string().into()).await
    }

    pub async fn apply(&self, path: &str, object: &Value) -> Outcome<Answer> {
        self.send(Method::PATCH, path, "application/apply-patch+yaml", object.to_string().into()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Outcome<Answer> {
        self.send(Method::DELETE, path, "application/json", options.to_string().into()).await
    }

    /// A list or object as the server would print it.
    pub async fn table(&self, path: &str) -> Outcome<Answer> {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let response = self.request(Method::GET, path, accept, "application/json", Bytes::new()).await?;
        self.answer(response).await
    }

    pub async fn send(&self, method: Method, path: &str, content: &str, body: Bytes) -> Outcome<Answer> {
        let response = self.request(method, path, "application/json", content, body).await?;
        self.answer(response).await
    }

    /// The body as it arrives: logs and watches.
    pub async fn stream(&self, path: &str, accept: &str) -> Outcome<Result<Stream, Status>> {
        let response = self.request(Method::GET, path, accept, "application/json", Bytes::new()).await?;
        if response.status().is_success() {
            print_warnings(&response);
            return Ok(Ok(Stream { body: response.into_body(), held: Vec::new() }));
        }
        Ok(Err(self.answer(response).await?.err().unwrap_or_else(|| Status::internal("an answer without a reason"))))
    }

    async fn answer(&self, response: http::Response<hyper::body::Incoming>) -> Outcome<Answer> {
        print_warnings(&response);
        let code = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        if code.is_success() {
            return serde_json::from_slice(&bytes).doing("the server's answer is no JSON").map(Ok);
        }
        let status = serde_json::from_slice(&bytes).ok().and_then(Status::from_value);
        Ok(Err(status.unwrap_or_else(|| {
            Status::new(code.as_u16(), "Unknown", String::from_utf8_lossy(&bytes).trim().to_owned())
        })))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content: &str,
        body: Bytes,
    ) -> Outcome<http::Response<hyper::body::Incoming>> {
        self.connect().await?.request(method, path, accept, content, body).await
    }

    /// A connection for many requests, one after the other.
    pub async fn connect(&self) -> Outcome<Connection> {
        let tls = self.dial().await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|error| self.broken(&error))?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { client: self.clone(), sender })
    }

    /// Whether the server shakes hands.
    pub async fn greets(&self) -> bool {
        self.dial().await.is_ok()
    }

    async fn dial(&self) -> Outcome<TlsStream<TcpStream>> {
        let connect = TcpStream::connect(&self.access.address);
        let tcp = match tokio::time::timeout(CONNECT_MAX, connect).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => return Err(self.away(&error)),
            Err(_) => return Err(self.away(&format_args!("no answer within {} s", CONNECT_MAX.as_secs()))),
        };
        tcp.set_nodelay(true).ok();
        let name = ServerName::try_from(self.access.tls_server_name.clone()).doing("tls-server-name")?;
        // The kernel takes connections for a process that is stopped: only what the process says shows that it lives.
        match tokio::time::timeout(CONNECT_MAX, self.tls.connect(name, tcp)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.away(&error)),
            Err(_) => Err(self.away(&format_args!("no handshake within {} s", CONNECT_MAX.as_secs()))),
        }
    }

    /// A WebSocket, if the server agrees to it.
    pub async fn websocket(&self, path: &str, protocol: &str) -> Outcome<Result<Socket, Status>> {
        let mut request = Request::builder()
            .uri(format!("wss://{}{path}", self.access.address))
            .header(header::HOST, &self.access.address)
            .header(header::USER_AGENT, AGENT)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, tungstenite::handshake::client::generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        if let Some(token) = &self.access.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(()).doing("the request cannot be made")?;
        match tokio_tungstenite::client_async(request, self.dial().await?).await {
            Ok((socket, _)) => Ok(Ok(socket)),
            Err(tungstenite::Error::Http(response)) => {
                let bytes = response.body().clone().unwrap_or_default();
                let status = serde_json::from_slice(&bytes).ok().and_then(Status::from_value);
                let code = response.status().as_u16();
                Ok(Err(status.unwrap_or_else(|| {
                    Status::new(code, "Unknown", String::from_utf8_lossy(&bytes).trim().to_owned())
                })))
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn away(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!("the server {} cannot be reached: {error}", self.access.address))
            .hint("is it up? `copepod kubeconfig` finds a server of the local cluster that answers")
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!("the connection to {} broke: {error}", self.access.address))
    }
}

/// One connection to the API.
pub struct Connection {
    client: Client,
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// The code and the body of an answer, as they come.
    pub async fn exchange(&mut self, method: Method, path: &str, content: &str, body: Bytes) -> Outcome<(u16, Bytes)> {
        self.sender.ready().await.map_err(|error| self.client.broken(&error))?;
        let response = self.request(method, path, "application/json", content, body).await?;
        let code = response.status().as_u16();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(|error| self.client.broken(&error))?.to_bytes();
        Ok((code, bytes))
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        content: &str,
        body: Bytes,
    ) -> Outcome<http::Response<hyper::body::Incoming>> {
        let access = &self.client.access;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &access.address)
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, AGENT)
            .header(header::CONTENT_TYPE, content);
        if let Some(token) = &access.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).doing("the request cannot be made")?;
        self.sender.send_request(request).await.map_err(|error| self.client.broken(&error))
    }
}

fn print_warnings(response: &http::Response<hyper::body::Incoming>) {
    for warning in response.headers().get_all(header::WARNING) {
        let text = warning.to_str().unwrap_or_default();
        let text = text.strip_prefix("299 - ").unwrap_or(text).trim_matches('"');
        eprintln!("warning: {text}");
    }
}

/// A body read piece by piece.
pub struct Stream {
    body: hyper::body::Incoming,
    held: Vec<u8>,
}

impl Stream {
    /// The next piece; `None` at the end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        if !self.held.is_empty() {
            return Some(std::mem::take(&mut self.held).into());
        }
        while let Some(Ok(frame)) = self.body.frame().await {
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
        None
    }

    /// The next line, without its end; `None` at the end.
    pub async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                return Some(line);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.held.extend(frame.into_data().unwrap_or_default()),
                _ if self.held.is_empty() => return None,
                _ => return Some(std::mem::take(&mut self.held)),
            }
        }
    }
}

/// A refusal, as the end of a command.
pub fn refused(status: &Status) -> Failure {
    let reason = status.reason();
    let message =
        if reason.is_empty() { status.message().to_owned() } else { format!("{} ({reason})", status.message()) };
    Failure::new(message)
}
