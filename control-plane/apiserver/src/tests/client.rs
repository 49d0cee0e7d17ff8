//! A server on loopback, and an HTTP client that is an administrator of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use copepod_api::Timestamp;
use copepod_identity::{Authority, MASTERS_GROUP, NODES_GROUP, SERVERS_GROUP, client_config, server_config};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::memory::{Echo, Memory, MemoryDoor};
use crate::{Config, Forwarder, crowd::Crowd, forward::Dial};

/// How many connections a client of a test may have.
pub const CROWD: usize = 32;

const HOUR: Duration = Duration::from_secs(3600);

/// Who a client is.
#[derive(Clone, Copy)]
pub enum As {
    Admin,
    Node,
    Server,
    Nobody,
    /// A user in no group but that of everybody with a name.
    User(&'static str),
}

pub struct Server {
    pub memory: Arc<Memory>,
    pub address: SocketAddr,
    authority: Arc<Authority>,
    stop: DropGuard,
    serving: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Server {
        Server::of(Memory::new(), Arc::new(Authority::create(Timestamp::now()).unwrap())).await
    }

    /// Another server of the same cluster.
    pub async fn beside(&self, memory: Arc<Memory>) -> Server {
        Server::of(memory, self.authority.clone()).await
    }

    async fn of(memory: Arc<Memory>, authority: Arc<Authority>) -> Server {
        let issued = authority.issue_server("s1", "127.0.0.1", Timestamp::now()).unwrap();
        let tls = Arc::new(ArcSwap::from_pointee(server_config(authority.certificate_pem(), &issued).unwrap()));
        let own = Some((&*issued.certificate_pem, &*issued.key_pem));
        let forwarder = Forwarder::new(client_config(authority.certificate_pem(), own).unwrap());
        let config = Config { forwarder: Some(forwarder) };
        let router = crate::router(Arc::new(MemoryDoor(memory.clone())), Arc::new(Echo), config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(crate::serve::serve_crowd(listener, tls, router, stop.clone(), Crowd::new(CROWD)));
        Server { memory, address, authority, stop: stop.drop_guard(), serving }
    }

    /// Stops it; returns when its last connection is closed.
    pub async fn stop(self) {
        drop(self.stop);
        self.serving.await.unwrap();
    }

    pub fn kubeconfig(&self) -> String {
        let admin = self.authority.issue_client("admin", MASTERS_GROUP, Timestamp::now(), HOUR).unwrap();
        let url = format!("https://{}", self.address);
        let authority = self.authority.certificate_pem();
        copepod_identity::kubeconfig("test", &url, authority, &admin.certificate_pem, &admin.key_pem)
    }

    pub fn client(&self, who: As) -> Http {
        self.client_with(who, &[b"h2"])
    }

    pub fn client_with(&self, who: As, protocols: &[&[u8]]) -> Http {
        Http {
            base: format!("https://{}", self.address),
            client: Client::builder(TokioExecutor::new()).build(Dial::new(self.tls(who, protocols))),
        }
    }

    /// An administrator's connection on which nothing was said yet.
    pub async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let tls = TlsConnector::from(Arc::new(self.tls(As::Admin, &[protocol])));
        let tcp = TcpStream::connect(self.address).await.unwrap();
        tls.connect(copepod_identity::SERVER_NAME.try_into().unwrap(), tcp).await.unwrap()
    }

    fn tls(&self, who: As, protocols: &[&[u8]]) -> rustls::ClientConfig {
        let issue = |user: &str, group: &str| self.authority.issue_client(user, group, Timestamp::now(), HOUR).unwrap();
        let issued = match who {
            As::Admin => Some(issue("admin", MASTERS_GROUP)),
            As::Node => Some(issue("system:node:n1", NODES_GROUP)),
            As::Server => Some(issue("system:server:s2", SERVERS_GROUP)),
            As::User(name) => Some(issue(name, "people")),
            As::Nobody => None,
        };
        let own = issued.as_ref().map(|issued| (&*issued.certificate_pem, &*issued.key_pem));
        let mut tls = client_config(self.authority.certificate_pem(), own).unwrap();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        tls
    }
}

pub struct Http {
    base: String,
    client: Client<Dial, Full<Bytes>>,
}

/// An answer, read whole.
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// `404 NotFound: pods "a" not found`.
    pub fn refusal(&self) -> String {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{}", self.text);
        assert_eq!(status["code"], self.code);
        format!("{} {}: {}", self.code, status["reason"].as_str().unwrap(), status["message"].as_str().unwrap())
    }

    pub fn names(&self) -> Vec<String> {
        let list = self.json();
        let items = list["items"].as_array().unwrap_or_else(|| panic!("no list: {}", self.text));
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

impl Http {
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", accept)], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", kind)], &body.to_string()).await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_bytes(method, path, headers, body.to_owned().into()).await
    }

    /// What is sent is not always text.
    pub async fn send_bytes(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let response = self.open_with(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { code: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// What comes is not always text.
    pub async fn bytes(&self, path: &str, headers: &[(&str, &str)]) -> (http::response::Parts, Bytes) {
        let (parts, body) = self.open(Method::GET, path, headers, "").await.into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    }

    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> http::Response<Incoming> {
        self.open_with(method, path, headers, body.to_owned().into()).await
    }

    async fn open_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.request(request.body(Full::from(body)).unwrap()).await.unwrap()
    }

    pub async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let response = self.open(Method::GET, path, &[("accept", accept)], "").await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), read: Vec::new() }
    }
}

/// An open watch.
pub struct Events {
    body: Incoming,
    read: Vec<u8>,
}

impl Events {
    /// The next event of a stream in protobuf: what its frame holds.
    pub async fn next_frame(&mut self) -> Vec<u8> {
        loop {
            if let Some((length, rest)) = self.read.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    self.read.drain(..4 + length);
                    return frame;
                }
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await.expect("an event");
            self.read.extend_from_slice(&frame.expect("an event").unwrap().into_data().unwrap_or_default());
        }
    }

    pub async fn next_value(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await.expect("an event");
            // A connection that is closed ends the stream as well.
            self.read.extend_from_slice(&frame?.ok()?.into_data().unwrap_or_default());
        }
    }

    /// `ADDED a`, or `end`.
    pub async fn next(&mut self) -> String {
        let Some(event) = self.next_value().await else { return "end".to_owned() };
        let kind = event["type"].as_str().unwrap();
        let object = &event["object"];
        match kind {
            "ERROR" => format!("ERROR {} {}", object["code"], object["reason"].as_str().unwrap()),
            "BOOKMARK" => "BOOKMARK".to_owned(),
            _ => format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or("?")),
        }
    }
}
