//! Streams between clients and pods: commands, terminals, ports.
//!
//! A client switches its connection to WebSocket or SPDY/3.1; a tunnel to the pod's node carries the same bytes as
//! frames of numbered channels. What stands here decides who is meant and may be meant, opens the tunnel, and only then
//! switches, so that a refusal is an ordinary answer.

mod connection;
pub mod link;
mod options;
mod ports;
mod remote;
mod websocket;

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequestParts, Request, ws::WebSocketUpgrade},
    response::Response,
};
use bytes::Bytes;
use copepod_api::{Key, Status, StatusResult, User, resource::PODS};
use futures::{Sink, Stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    answer,
    forward::{self, Switched},
    front::Front,
    path::Asked,
    query::Query,
    read,
    spdy::Session,
};

pub use connection::ask as ask_webhooks;
pub use options::{ExecQuery, ForwardQuery, forward as forward_query};

/// How many clients may hold streams at once. Each costs a connection and some hundred kilobytes at most.
const STREAMS_MAX: usize = 2_000;

/// A piece of a stream: the channels of Kubernetes' remote command protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub channel: u8,
    pub data: Bytes,
}

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// How it ended: JSON of a `meta/v1 Status`.
pub const ERROR: u8 = 3;
/// JSON of width and height.
pub const RESIZE: u8 = 4;
/// Nothing more follows in this direction. In tunnels only: each protocol says this in its own way.
pub const ENDS: u8 = 5;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Both directions of a tunnel to a node. It ends when either is dropped.
pub struct Link {
    pub from_node: Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>,
    pub to_node: Pin<Box<dyn Sink<Frame, Error = Status> + Send>>,
}

/// The places for clients with streams.
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Places {
        Places(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

impl Places {
    pub fn take(&self) -> StatusResult<Place> {
        let place = self.0.clone().try_acquire_owned();
        place.map_err(|_| Status::too_many_requests("too many streams are open on this server", 1))
    }
}

/// One of the places; given back when dropped.
pub type Place = OwnedSemaphorePermit;

/// Carries bytes between two connections that were switched to something else, until both have ended.
pub fn splice(near: OnUpgrade, far: OnUpgrade) {
    tokio::spawn(async move {
        let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
    });
}

/// Whether a part of a pod is a stream to its node.
pub fn is_stream(asked: &Asked) -> bool {
    asked.row.kind.resource() == PODS && ["exec", "attach", "portforward"].contains(&&*asked.subresource)
}

/// Runs a command in a container, attaches to the one that runs, or carries connections to ports.
pub async fn answer(
    front: &Front,
    request: Request,
    user: &User,
    asked: &Asked,
    query: &Query,
) -> StatusResult<Response> {
    let key = Key::new(PODS, asked.namespace.as_str(), asked.name.as_str());
    let view = read::view(&*front.door, None).await?;
    let pod = view.object(&key).ok_or_else(|| Status::not_found(&key.resource, &asked.name))?;
    let wish = match &*asked.subresource {
        "portforward" => Wish::Forward(options::forward(pod)?, options::ports(query)?),
        subresource => Wish::Exec(options::exec(pod, query, subresource == "attach")?),
    };
    // The nodes hold their sessions to the leader.
    let forwarder = front.config.forwarder.as_ref();
    let request = match forward::switch(&*front.door, forwarder, user, request).await? {
        Switched::Here(request) => request,
        Switched::Done(response) => return Ok(response),
    };
    let warnings = connection::ask(front, user, asked, query).await?;
    let place = front.places.take()?;
    let mut response = match wish {
        Wish::Exec(wish) => exec(front, request, wish, place).await?,
        Wish::Forward(query, ports) => {
            let target = ports::Target { tunnels: front.tunnels.clone(), query };
            forward(request, target, ports, place).await?
        }
    };
    answer::warn(&mut response, warnings.iter().map(String::as_str));
    Ok(response)
}

enum Wish {
    Exec(ExecQuery),
    Forward(ForwardQuery, Vec<u16>),
}

async fn exec(front: &Front, request: Request, wish: ExecQuery, place: Place) -> StatusResult<Response> {
    let streams = remote::Streams::of(&wish);
    match Switch::of(request).await? {
        Switch::WebSocket(upgrade, headers) => {
            let upgrade = websocket::choose(*upgrade, &headers, websocket::REMOTE_COMMAND)?;
            let link = front.tunnels.exec(wish).await?;
            Ok(upgrade.on_upgrade(move |socket| async move {
                remote::over_websocket(socket, link, streams).await;
                drop(place);
            }))
        }
        Switch::Spdy(upgrade, headers) => {
            let (protocol, version) = spdy_protocol(&headers, &remote::SPDY_PROTOCOLS)?;
            let link = front.tunnels.exec(wish).await?;
            Ok(spdy(upgrade, protocol, move |session| async move {
                remote::over_spdy(session, link, streams, version).await;
                drop(place);
            }))
        }
    }
}

async fn forward(request: Request, target: ports::Target, ports: Vec<u16>, place: Place) -> StatusResult<Response> {
    match Switch::of(request).await? {
        Switch::WebSocket(upgrade, headers) => {
            let upgrade = websocket::choose(*upgrade, &headers, websocket::PORT_FORWARD)?;
            let is_tunnel = upgrade.selected_protocol().is_some_and(|protocol| protocol == websocket::SPDY_INSIDE);
            if !is_tunnel && ports.is_empty() {
                return Err(Status::bad_request("query parameter \"ports\" is required"));
            }
            Ok(upgrade.on_upgrade(move |socket| async move {
                if !is_tunnel {
                    ports::over_websocket(socket, target, ports).await;
                } else if let Ok(session) = Session::new(link::of_websocket(socket)) {
                    ports::over_spdy(session, target).await;
                }
                drop(place);
            }))
        }
        Switch::Spdy(upgrade, headers) => {
            let (protocol, _) = spdy_protocol(&headers, &[("portforward.k8s.io", 1)])?;
            Ok(spdy(upgrade, protocol, move |session| async move {
                ports::over_spdy(session, target).await;
                drop(place);
            }))
        }
    }
}

/// What a client wants to switch its connection to.
enum Switch {
    WebSocket(Box<WebSocketUpgrade>, HeaderMap),
    Spdy(OnUpgrade, HeaderMap),
}

impl Switch {
    async fn of(request: Request) -> StatusResult<Switch> {
        let (mut parts, _) = request.into_parts();
        let wanted = parts.headers.get(UPGRADE).and_then(|name| name.to_str().ok()).unwrap_or_default();
        if wanted.eq_ignore_ascii_case(SPDY) {
            let upgrade = parts.extensions.remove::<OnUpgrade>();
            let upgrade =
                upgrade.ok_or_else(|| Status::bad_request("this connection cannot be switched to SPDY/3.1"))?;
            return Ok(Switch::Spdy(upgrade, parts.headers));
        }
        if !wanted.eq_ignore_ascii_case("websocket") {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
            .await
            .map_err(|error| Status::bad_request(format!("the connection cannot be switched: {error}")))?;
        Ok(Switch::WebSocket(Box::new(upgrade), parts.headers))
    }
}

/// The first of the client's protocols that is one of ours. A client that names none speaks the oldest.
fn spdy_protocol(headers: &HeaderMap, ours: &[(&'static str, u8)]) -> StatusResult<(Option<&'static str>, u8)> {
    let mut wanted = headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .peekable();
    if wanted.peek().is_none() {
        return Ok((None, 1));
    }
    let found = wanted.find_map(|name| ours.iter().find(|(own, _)| *own == name));
    let names = || ours.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let refused =
        || Status::new(403, "Forbidden", format!("unable to upgrade: choose one of the protocols {}", names()));
    found.map(|(name, version)| (Some(*name), *version)).ok_or_else(refused)
}

/// Switches to SPDY/3.1 and serves the session in a task of its own.
fn spdy<F>(
    upgrade: OnUpgrade,
    protocol: Option<&'static str>,
    serve: impl FnOnce(Session) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => match Session::new(TokioIo::new(connection)) {
                Ok(session) => serve(session).await,
                Err(error) => tracing::warn!(%error, "SPDY cannot be spoken"),
            },
            Err(error) => tracing::debug!(%error, "a connection was not switched"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    if let Some(protocol) = protocol {
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}
