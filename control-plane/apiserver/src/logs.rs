//! `pods/log`: what a container wrote, from the node that runs it, or that ran it: nodes keep the logs of pods that are
//! gone for a while, and which node it was the pod's events tell.

use std::pin::Pin;

use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use copepod_api::{
    Key, Object, Status, StatusResult, User,
    resource::{EVENTS, PODS},
};
use copepod_store::{View, door::Async};
use futures::{Stream, StreamExt};
use serde_json::Value;

use crate::{
    answer,
    forward::{self, ForLeader},
    front::Front,
    path::Asked,
    query::Query,
    read,
    streams::{ExecQuery, ForwardQuery, Link},
    who,
};

/// The container to show where the client names none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Streams to and from nodes.
pub trait Tunnels: Send + Sync + 'static {
    /// What a container wrote. Fails at once where the node cannot be reached or has no such container; the stream ends
    /// when the node has no more, or the container ends that is followed.
    fn logs(&self, query: LogQuery) -> Async<'_, Result<LogStream, Status>>;

    /// A command in a container, or the streams of the one that runs. Fails where the node cannot be reached or the
    /// container does not run; how the command ended comes last, on the error channel.
    fn exec(&self, query: ExecQuery) -> Async<'_, Result<Link, Status>>;

    /// A connection to a port of a pod. Fails where none comes about.
    fn forward(&self, query: ForwardQuery) -> Async<'_, Result<Link, Status>>;
}

pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Which lines of which container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub node: String,
    pub container: String,
    pub follow: bool,
    /// Of the run before this one.
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<i64>,
    pub since_seconds: Option<i64>,
    /// RFC 3339.
    pub since_time: Option<String>,
    pub limit_bytes: Option<i64>,
}

pub async fn answer(
    front: &Front,
    request: Request,
    user: &User,
    asked: &Asked,
    query: &Query,
) -> StatusResult<Response> {
    let key = Key::new(PODS, asked.namespace.as_str(), asked.name.as_str());
    let view = read::view(&*front.door, None).await?;
    let (wish, gone) = match view.object(&key) {
        Some(pod) => (wish(pod, query)?, None),
        None => {
            let place = last_place(&view, &key).ok_or_else(|| Status::not_found(&key.resource, &asked.name))?;
            let words = format!("pod {} is gone; this is what node {} has kept of its logs", asked.name, place.node);
            (wish_for(&key, place, query.text("container").unwrap_or_default().to_owned(), query)?, Some(words))
        }
    };

    // The nodes hold their sessions to the leader.
    let for_leader = ForLeader {
        user,
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        body: &Bytes::new(),
        is_forwarded: who::is_forwarded(&request),
    };
    let forwarder = front.config.forwarder.as_ref();
    if let forward::Place::Done(response) = forward::to_leader(&*front.door, forwarder, &for_leader).await? {
        return Ok(response);
    }

    let lines = front.tunnels.logs(wish).await?;
    // The answer has begun when something breaks, so the end of the stream is all that can tell.
    let lines = lines.map(|piece| piece.map_err(std::io::Error::other));
    let mut response = answer::typed(200, "text/plain", Body::from_stream(lines));
    answer::warn(&mut response, gone.iter().map(String::as_str));
    Ok(response)
}

/// Where a pod runs or ran.
struct Place {
    node: String,
    uid: String,
}

/// Where the last pod of this name ran, by the events that its node reported.
fn last_place(view: &View, key: &Key) -> Option<Place> {
    let told = view.objects(&EVENTS, Some(key.namespace())).filter_map(|event| {
        // Decoded for this request only.
        let event: Value = serde_json::from_slice(&event.bytes()).ok()?;
        let (about, text) = (&event["involvedObject"], |value: &Value| value.as_str().map(str::to_owned));
        let is_its = about["kind"] == "Pod" && about["name"] == key.name();
        let node = text(&event["source"]["host"]).filter(|node| is_its && !node.is_empty())?;
        Some((text(&event["lastTimestamp"])?, Place { node, uid: text(&about["uid"])? }))
    });
    told.max_by(|(left, _), (right, _)| left.cmp(right)).map(|(_, place)| place)
}

fn wish(pod: &Object, query: &Query) -> StatusResult<LogQuery> {
    let node = pod.node.as_deref().ok_or_else(|| {
        let name = pod.key.name();
        Status::bad_request(format!("pod {name} does not have a host assigned: it has not been scheduled yet"))
    })?;
    let place = Place { node: node.to_owned(), uid: pod.meta.uid.clone() };
    wish_for(&pod.key, place, container(pod, query.text("container"))?, query)
}

fn wish_for(pod: &Key, place: Place, container: String, query: &Query) -> StatusResult<LogQuery> {
    let not_negative = |field: &str, least: i64| match query.number(field)? {
        Some(number) if number < least => {
            Err(Status::bad_request(format!("{field}: Invalid value: {number}: must be at least {least}")))
        }
        number => Ok(number),
    };
    let (since_seconds, since_time) = (not_negative("sinceSeconds", 1)?, query.text("sinceTime"));
    if since_seconds.is_some() && since_time.is_some() {
        return Err(Status::bad_request("at most one of sinceTime and sinceSeconds may be specified"));
    }
    if let Some(text) = since_time
        && text.parse::<copepod_api::Timestamp>().is_err()
    {
        return Err(Status::bad_request(format!("sinceTime: must be a time like 2026-11-23T10:00:00Z, not {text:?}")));
    }
    Ok(LogQuery {
        namespace: pod.namespace().to_owned(),
        pod: pod.name().to_owned(),
        uid: place.uid,
        node: place.node,
        container,
        follow: query.flag("follow")?,
        previous: query.flag("previous")?,
        timestamps: query.flag("timestamps")?,
        tail_lines: not_negative("tailLines", 0)?,
        since_seconds,
        since_time: since_time.map(str::to_owned),
        limit_bytes: not_negative("limitBytes", 1)?,
    })
}

/// The container asked for, or the only one that can be meant.
pub fn container(pod: &Object, asked: Option<&str>) -> StatusResult<String> {
    // Decoded for this request only: the stored object stays bytes.
    let value: Value = serde_json::from_slice(&pod.bytes()).map_err(Status::internal)?;
    let names = |field: &str| -> Vec<&str> {
        let containers = value.pointer(field).and_then(Value::as_array);
        containers.into_iter().flatten().filter_map(|container| container.get("name")?.as_str()).collect()
    };
    let (mains, inits) = (names("/spec/containers"), names("/spec/initContainers"));
    let ephemerals = names("/spec/ephemeralContainers");
    let name = pod.key.name();
    let default = pod.meta.annotations.get(DEFAULT_CONTAINER);
    let is_known = |asked: &str| [&mains, &inits, &ephemerals].iter().any(|names| names.contains(&asked));
    match (asked, mains.as_slice()) {
        (Some(asked), _) if is_known(asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(Status::bad_request(format!(
            "container {asked} is not valid for pod {name}: choose one of: [{}]",
            [mains, inits, ephemerals].concat().join(" ")
        ))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) if default.is_some_and(is_known) => Ok(default.unwrap_or_default().to_owned()),
        (None, _) => {
            let hint = match inits.is_empty() {
                true => String::new(),
                false => format!(" or one of the init containers: [{}]", inits.join(" ")),
            };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{hint}",
                mains.join(" ")
            )))
        }
    }
}
