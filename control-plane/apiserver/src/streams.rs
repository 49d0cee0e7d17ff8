//! Streams between clients and pods: commands, terminals, ports.
//!
//! A client switches its connection to WebSocket or SPDY/3.1; a tunnel to the pod's node carries the same bytes as
//! frames of numbered channels. What stands here decides who is meant and may be meant, opens the tunnel, and only then
//! switches, so that a refusal is an ordinary answer.

mod options;
mod remote;
mod websocket;

use std::{pin::Pin, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, ws::WebSocketUpgrade},
    response::Response,
};
use bytes::Bytes;
use copepod_api::{Key, Status, StatusResult, User, resource::PODS};
use futures::{Sink, Stream};
use http::header::UPGRADE;
use tokio::sync::Semaphore;

use crate::{
    forward::{self, Switched},
    front::Front,
    path::Asked,
    query::Query,
    read,
};

pub use options::ExecQuery;

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
/// Standard input has ended. In tunnels only: each protocol says this in its own way.
pub const STDIN_ENDS: u8 = 5;

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

/// Whether a part of a pod is a stream to its node.
pub fn is_stream(asked: &Asked) -> bool {
    asked.row.kind.resource() == PODS && ["exec", "attach"].contains(&&*asked.subresource)
}

/// Runs a command in a container, or attaches to the one that runs.
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
    let wish = options::exec(pod, query, asked.subresource == "attach")?;
    if !request.headers().contains_key(UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    // The nodes hold their sessions to the leader.
    let forwarder = front.config.forwarder.as_ref();
    let request = match forward::switch(&*front.door, forwarder, user, request).await? {
        Switched::Here(request) => request,
        Switched::Done(response) => return Ok(response),
    };
    let place = front.places.0.clone().try_acquire_owned();
    let place = place.map_err(|_| Status::too_many_requests("too many streams are open on this server", 1))?;
    let streams = remote::Streams::of(&wish);
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|error| Status::bad_request(format!("the connection cannot be switched: {error}")))?;
    let upgrade = websocket::choose(upgrade, &parts.headers, websocket::REMOTE_COMMAND)?;
    let link = front.tunnels.exec(wish).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        remote::over_websocket(socket, link, streams).await;
        drop(place);
    }))
}
