//! Requests that another server has to carry out.
//!
//! A client may talk to any server; writes, and streams to nodes, belong to the one that leads. A server passes such
//! a request on over a connection that it keeps to the leader, proves by its own certificate that it is a server, and
//! says in headers for whom it speaks.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use copepod_api::{Status, StatusResult, User};
use copepod_identity::SERVER_NAME;
use copepod_store::{Door, Leader};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{ACCEPT, CONTENT_TYPE, UPGRADE, USER_AGENT},
};
use http_body::Body as _;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{accept::Encoding, answer, streams, who};

/// How long a request waits for a leader: an election takes less than one second.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often it looks, while there is none.
const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long the leader may take to begin an answer. A write waits for a disk or two, and perhaps for webhooks.
const ANSWER_MAX: Duration = Duration::from_secs(65);

/// How long a server that leads no more is still waited for. What it committed before it stopped leading it says at once.
const LAST_WORD_MAX: Duration = Duration::from_millis(100);

/// How long somebody else's program may take, which a request is passed on to.
const PROXIED_MAX: Duration = Duration::from_secs(600);

/// How long a dead leader is not noticed on a connection with requests under way.
const ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// How long a connection may take to be made.
const DIAL_MAX: Duration = Duration::from_secs(2);

/// In an answer: nothing was done, because this server does not lead.
const NOT_LEADER: HeaderName = HeaderName::from_static("copepod-not-leader");

/// What the leader needs to know of the original request's headers.
const PASSED_ON: [HeaderName; 3] = [ACCEPT, CONTENT_TYPE, USER_AGENT];

#[derive(Clone)]
pub struct Forwarder {
    client: Client<Dial, Full<Bytes>>,
    /// For connections that are to be switched to another protocol, which HTTP/2 cannot.
    dial: Dial,
}

impl Forwarder {
    /// `tls`: this server's certificate, and trust in the cluster's authority (`copepod_identity::client_config`).
    pub fn new(mut tls: rustls::ClientConfig) -> Forwarder {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let dial = Dial::new(tls.clone());
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(ALIVE_INTERVAL)
            .http2_keep_alive_timeout(ALIVE_INTERVAL)
            .build(Dial::new(tls));
        Forwarder { client, dial }
    }
}

/// What is left to do with a request after its leader was looked for.
pub enum Place {
    /// Carry it out here.
    Here,
    /// It was carried out elsewhere, or refused.
    Done(Response),
}

/// A request that belongs to the leader.
pub struct ForLeader<'a> {
    pub user: &'a User,
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
    /// It comes from another server already.
    pub is_forwarded: bool,
}

/// What became of a request that wants to switch its connection to another protocol.
pub enum Switched {
    /// Switch it here.
    Here(http::Request<Body>),
    /// It was switched by the leader, with this server in between, or refused.
    Done(Response),
}

/// Finds the leader, and has it switch the client's connection unless it is this server.
pub async fn switch(
    door: &dyn Door,
    forwarder: Option<&Forwarder>,
    user: &User,
    mut request: Request<Body>,
) -> StatusResult<Switched> {
    let give_up = Instant::now() + LEADER_WAIT_MAX;
    let is_forwarded = who::is_forwarded(&request);
    loop {
        match (door.leader(), forwarder) {
            (Leader::Here, _) => return Ok(Switched::Here(request)),
            _ if is_forwarded => {
                let mut response = answer::refusal(&Status::unavailable("this server does not lead"), Encoding::Json);
                response.headers_mut().insert(NOT_LEADER, HeaderValue::from_static("true"));
                return Ok(Switched::Done(response));
            }
            (Leader::At(leader), Some(forwarder)) => {
                if let Some(response) = forwarder.try_to_switch(&leader, user, &mut request).await? {
                    return Ok(Switched::Done(response));
                }
            }
            (Leader::At(leader), None) => {
                return Err(Status::unavailable(format!("this server has no nodes; the leader is {leader}")));
            }
            (Leader::Unknown, _) => {}
        }
        if Instant::now() >= give_up {
            return Err(Status::unavailable("no server leads, so no node can be reached"));
        }
        tokio::time::sleep(LEADER_LOOK_INTERVAL).await;
    }
}

/// Finds the leader, and has it carry the request out unless it is this server.
pub async fn to_leader(door: &dyn Door, forwarder: Option<&Forwarder>, request: &ForLeader<'_>) -> StatusResult<Place> {
    let give_up = Instant::now() + LEADER_WAIT_MAX;
    loop {
        match (door.leader(), forwarder) {
            (Leader::Here, _) => return Ok(Place::Here),
            _ if request.is_forwarded => {
                let mut response = answer::refusal(&Status::unavailable("this server does not lead"), Encoding::Json);
                response.headers_mut().insert(NOT_LEADER, HeaderValue::from_static("true"));
                return Ok(Place::Done(response));
            }
            (Leader::At(leader), Some(forwarder)) => {
                if let Some(response) = forwarder.try_once(door, &leader, request).await? {
                    return Ok(Place::Done(response));
                }
            }
            (Leader::At(leader), None) => {
                return Err(Status::unavailable(format!("this server takes no writes; the leader is {leader}")));
            }
            (Leader::Unknown, _) => {}
        }
        if Instant::now() >= give_up {
            return Err(Status::unavailable(
                "no server leads: nothing can be written until more than half of the servers reach each other",
            ));
        }
        tokio::time::sleep(LEADER_LOOK_INTERVAL).await;
    }
}

impl Forwarder {
    /// The leader's answer; `None` where it surely did nothing, so that it can be asked again.
    async fn try_once(&self, door: &dyn Door, leader: &str, request: &ForLeader<'_>) -> StatusResult<Option<Response>> {
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut passed_on = Request::builder()
            .method(request.method)
            .uri(format!("https://{leader}{path}"))
            .version(Version::HTTP_2)
            .body(Full::new(request.body.clone()))
            .map_err(Status::internal)?;
        for name in PASSED_ON {
            for value in request.headers.get_all(&name) {
                passed_on.headers_mut().append(name.clone(), value.clone());
            }
        }
        who::describe(request.user, passed_on.headers_mut())?;

        let answered = tokio::select! {
            answered = tokio::time::timeout(ANSWER_MAX, self.client.request(passed_on)) => answered,
            () = replaced(door, leader) => {
                return Err(Status::timeout(
                    "another server leads now, and the one before it did not answer: the request may or may not have \
                     been carried out",
                ));
            }
        };
        match answered {
            Ok(Ok(response)) if response.headers().contains_key(NOT_LEADER) => Ok(None),
            Ok(Ok(response)) => {
                let (parts, body) = response.into_parts();
                let mut answer = Response::new(Body::new(body));
                *answer.status_mut() = parts.status;
                *answer.headers_mut() = parts.headers;
                Ok(Some(answer))
            }
            Ok(Err(error)) if error.is_connect() => Ok(None),
            Ok(Err(error)) => {
                tracing::debug!(leader, %error, "a forwarded request was cut off");
                Err(Status::timeout(
                    "the leader was lost before it answered: the request may or may not have been carried out",
                ))
            }
            Err(_) => Err(Status::timeout(format!(
                "the leader did not answer within {} s: the request may or may not have been carried out",
                ANSWER_MAX.as_secs()
            ))),
        }
    }
}

/// Waits until another server leads, and for the last word of this one. A machine without power does not close its
/// connections, and the others have a new leader long before anybody notices on them.
async fn replaced(door: &dyn Door, leader: &str) {
    let leads_no_more = || match door.leader() {
        Leader::Here => true,
        Leader::At(other) => other != leader,
        Leader::Unknown => false,
    };
    while !leads_no_more() {
        tokio::time::sleep(LEADER_LOOK_INTERVAL).await;
    }
    tokio::time::sleep(LAST_WORD_MAX).await;
}

impl Forwarder {
    /// Has the leader switch, and from then on carries bytes between it and the client.
    async fn try_to_switch(
        &self,
        leader: &str,
        user: &User,
        request: &mut Request<Body>,
    ) -> StatusResult<Option<Response>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let lost = |error: &dyn std::fmt::Display| Status::unavailable(format!("the leader was lost: {error}"));
        let address: Uri = format!("https://{leader}").parse().map_err(Status::internal)?;
        let Ok(stream) = tower::Service::call(&mut self.dial.clone(), address).await else { return Ok(None) };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|error| lost(&error))?;
        tokio::spawn(connection.with_upgrades());
        let body = std::mem::take(request.body_mut());
        let had_body = !body.is_end_stream();
        let mut passed_on =
            Request::builder().method(request.method()).uri(path).body(body).map_err(Status::internal)?;
        let told = request.headers().iter().filter(|(name, _)| !who::says_who(name));
        passed_on.headers_mut().extend(told.map(|(name, value)| (name.clone(), value.clone())));
        who::describe(user, passed_on.headers_mut())?;
        let patience = if request.headers().contains_key(UPGRADE) { ANSWER_MAX } else { PROXIED_MAX };
        let answered = tokio::time::timeout(patience, sender.send_request(passed_on)).await;
        let mut response = answered.map_err(|error| lost(&error))?.map_err(|error| lost(&error))?;
        if response.headers().contains_key(NOT_LEADER) {
            // What was sent cannot be sent again.
            return if had_body { Err(Status::unavailable("the leader has changed")) } else { Ok(None) };
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            streams::splice(hyper::upgrade::on(request), hyper::upgrade::on(&mut response));
        }
        Ok(Some(response.map(Body::new)))
    }
}

/// Opens connections to servers. Whatever address is dialled, the certificate must be a server's of this cluster.
#[derive(Clone)]
pub struct Dial {
    tls: TlsConnector,
}

impl Dial {
    pub fn new(tls: rustls::ClientConfig) -> Dial {
        Dial { tls: TlsConnector::from(Arc::new(tls)) }
    }
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<Secure>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Secure>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let address = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
            let name = SERVER_NAME.try_into().map_err(io::Error::other)?;
            let dial = async {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                tls.connect(name, tcp).await
            };
            let stream = tokio::time::timeout(DIAL_MAX, dial).await.map_err(|_| io::ErrorKind::TimedOut)??;
            Ok(TokioIo::new(Secure(stream)))
        })
    }
}

/// A TLS stream that the pool can ask about itself.
pub struct Secure(TlsStream<TcpStream>);

impl Connection for Secure {
    fn connected(&self) -> Connected {
        match self.0.get_ref().1.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl AsyncRead for Secure {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, out)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
