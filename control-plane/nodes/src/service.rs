//! The gRPC service that agents speak to.

use std::{pin::Pin, sync::Arc};

use copepod_api::{
    Key, Object, Revision, Timestamp, User,
    resource::{ENDPOINT_SLICES, PODS},
    time::rfc3339,
};
use copepod_proto::nodes::{
    FromNode, JoinReply, JoinRequest, Redirect, Released, RenewRequest, ToNode, TokenReply, TokenRequest, TunnelData,
    Welcome, from_node, nodes_server::Nodes, to_node,
};
use copepod_store::{Cursor, Door, Event, Leader};
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Hub, Issue,
    feed::{Fed, Feed},
    hub::{HEARTBEAT, SESSION_QUEUE, Session},
    join, references,
    release::Leaving,
    silence,
    status::{self, Readiness},
};

pub const NODE_USER_PREFIX: &str = "system:node:";
pub const NODES_GROUP: &str = "system:nodes";

/// The node front of one server.
#[derive(Clone)]
pub struct NodeFront {
    door: Arc<dyn Door>,
    hub: Arc<Hub>,
    issue: Arc<dyn Issue>,
}

impl NodeFront {
    pub fn new(door: Arc<dyn Door>, hub: Arc<Hub>, issue: Arc<dyn Issue>) -> NodeFront {
        NodeFront { door, hub, issue }
    }
}

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Nodes for NodeFront {
    type SessionStream = Outbound<ToNode>;
    type TunnelStream = Outbound<TunnelData>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let view = self.door.fresh().await.map_err(unavailable)?;
        let node = request.node_name;
        join::admit(&view, &*self.issue, &request.token, &node)?;
        let signed = self.issue.sign_node(&request.certificate_request, &user_of(&node));
        let certificate = signed.map_err(Status::invalid_argument)?;
        tracing::info!(node, "a node joins");
        Ok(Response::new(self.certified(certificate)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinReply>, Status> {
        let node = node_of(&request)?;
        let certificate = self
            .issue
            .sign_node(&request.get_ref().certificate_request, &user_of(&node))
            .map_err(Status::invalid_argument)?;
        Ok(Response::new(self.certified(certificate)))
    }

    async fn token(&self, request: Request<TokenRequest>) -> Result<Response<TokenReply>, Status> {
        let node = node_of(&request)?;
        let asked = request.into_inner();
        let view = self.door.fresh().await.map_err(unavailable)?;
        let key = Key::new(PODS, asked.namespace.as_str(), asked.pod.as_str());
        let own = |pod: &&Arc<Object>| pod.meta.uid == asked.uid && pod.node.as_deref() == Some(node.as_str());
        let pod = view.object(&key).filter(own).ok_or_else(|| Status::not_found("no such pod runs on this node"))?;
        if !references::shows_token(pod, &asked.audience) {
            return Err(Status::permission_denied("the pod has no volume that shows such a token"));
        }
        let issued = self.issue.pod_token(&view, pod, &asked.audience, asked.expiration_seconds);
        let (token, expires_at) = issued.map_err(Status::failed_precondition)?;
        Ok(Response::new(TokenReply { token, expires_at }))
    }

    async fn session(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Outbound<ToNode>>, Status> {
        let node = node_of(&request)?;
        match self.door.leader() {
            Leader::Here => (),
            Leader::At(leader) => {
                let redirect = ToNode { message: Some(to_node::Message::Redirect(Redirect { leader })) };
                return Ok(Response::new(Box::pin(tokio_stream::once(Ok(redirect)))));
            }
            Leader::Unknown => return Err(Status::unavailable("no server leads at the moment; try again")),
        }
        let mut inbound = request.into_inner();
        let hello = match inbound.message().await?.and_then(|message| message.message) {
            Some(from_node::Message::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the first message of a session is Hello")),
        };
        let told: Value = serde_json::from_slice(&hello.node)
            .map_err(|error| Status::invalid_argument(format!("hello.node is no JSON: {error}")))?;
        self.introduce(&node, &told).await?;

        silence::assume_alive(&self.hub, &self.door.view());
        let (outbox, outbound) = mpsc::channel(SESSION_QUEUE);
        let session = self.hub.open(&node, outbox);
        tracing::info!(node, "session begins");
        tokio::spawn(self.clone().carry(session, hello.revision, inbound));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelData>>) -> Result<Response<Outbound<TunnelData>>, Status> {
        node_of(&request)?;
        let outbox = self.hub.opened(request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outbox))))
    }
}

impl NodeFront {
    fn certified(&self, certificate: String) -> JoinReply {
        JoinReply { certificate, authority: self.issue.authority(), servers: self.issue.servers() }
    }

    /// Makes the Node object say what the agent says, and that it lives.
    async fn introduce(&self, node: &str, told: &Value) -> Result<(), Status> {
        let user = user_of(node);
        self.hub.beat(node);
        let view = self.door.fresh().await.map_err(unavailable)?;
        for request in status::of_node(&view, &user, node, told) {
            self.door.submit(vec![request]).await.map_err(refused)?;
        }
        let view = self.door.view();
        if let Some(request) = status::ready(&view, &user, node, Readiness::Alive, &rfc3339(Timestamp::now())) {
            self.door.submit(vec![request]).await.map_err(refused)?;
        }
        Ok(())
    }

    /// Both directions of a session until either ends.
    async fn carry(self, session: Arc<Session>, from: u64, inbound: Streaming<FromNode>) {
        let up = self.listen(&session, inbound);
        let down = self.feed(&session, from);
        tokio::select! {
            () = up => (),
            _ = down => (),
        }
        self.hub.close(&session);
        tracing::info!(node = &*session.node, "session ends");
    }

    async fn listen(&self, session: &Session, mut inbound: Streaming<FromNode>) {
        let user = user_of(&session.node);
        while let Some(Ok(message)) = inbound.next().await {
            if !self.hub.is_current(session) {
                return;
            }
            self.hub.beat(&session.node);
            match message.message {
                Some(from_node::Message::Acknowledged(acknowledged)) => {
                    self.hub.acknowledge(session, acknowledged.revision)
                }
                Some(from_node::Message::Statuses(batch)) => {
                    let view = self.door.view();
                    let mut requests: Vec<_> = batch
                        .pods
                        .iter()
                        .filter_map(|report| status::of_pod(&view, &user, &session.node, report))
                        .collect();
                    if let Ok(status) = serde_json::from_slice::<Value>(&batch.node_status) {
                        let told = serde_json::json!({ "status": status });
                        requests.extend(status::of_node(&view, &user, &session.node, &told));
                    }
                    self.submit(requests).await;
                }
                Some(from_node::Message::Event(event)) => {
                    let request = status::of_event(&self.door.view(), &user, &event);
                    self.submit(request.into_iter().collect()).await;
                }
                Some(from_node::Message::Heartbeat(_) | from_node::Message::Hello(_)) | None => (),
            }
        }
    }

    /// All in one transaction; where one of them is refused, each alone, so that one deleted pod does not hide the
    /// status of the others.
    async fn submit(&self, requests: Vec<copepod_api::Request>) {
        if requests.is_empty() || self.door.submit(requests.clone()).await.is_ok() {
            return;
        }
        for request in requests {
            let target = request.target.key();
            if let Err(status) = self.door.submit(vec![request]).await
                && status.code() != 404
            {
                tracing::warn!(%target, %status, "a report was refused");
            }
        }
    }

    async fn feed(&self, session: &Session, from: u64) -> Option<()> {
        self.welcome(session).await?;
        // Only those whose pods leave have to know how far the others are.
        let mut others: Option<watch::Receiver<Revision>> = None;
        let (mut feed, mut cursor) = self.begin(session, Revision(from)).await?;
        let mut leaving = Leaving::of(&session.node, &self.door.view());
        while self.hub.is_current(session) {
            if !leaving.is_waiting() {
                others = None;
            }
            let contained = others.as_mut().map_or(Revision::ZERO, |others| *others.borrow_and_update());
            for uid in leaving.released(&self.door.view(), contained) {
                session.send(to_node::Message::Released(Released { uid })).await.ok()?;
            }
            tokio::select! {
                events = cursor.next() => match events {
                    Ok(events) => {
                        let position = cursor.position();
                        let view = self.door.view();
                        leaving.after(&session.node, &events);
                        if events.iter().any(is_about_servers) {
                            self.welcome(session).await?;
                        }
                        if let Some(fed) = feed.after(&events, &view, position) {
                            send(session, fed).await?;
                        }
                        self.hub.looked_at(session, position);
                    }
                    Err(_) => {
                        (feed, cursor) = self.reset(session).await?;
                        leaving = Leaving::of(&session.node, &self.door.view());
                    }
                },
                changed = further(&mut others, &self.hub), if leaving.is_waiting() => changed?,
                () = session.ended.notified() => (),
            }
        }
        None
    }

    /// Tells the agent which servers there are: at first, and whenever that has changed, so that it knows where to go when
    /// this one is gone.
    async fn welcome(&self, session: &Session) -> Option<()> {
        let heartbeat_milliseconds = HEARTBEAT.as_millis() as u32;
        let welcome = Welcome { heartbeat_milliseconds, servers: self.issue.servers() };
        session.send(to_node::Message::Welcome(welcome)).await.ok()
    }

    /// From where the node is, when the log still reaches back to there and the node is not ahead of this cluster.
    async fn begin(&self, session: &Session, from: Revision) -> Option<(Feed, Box<dyn Cursor>)> {
        let view = self.door.view();
        if from == Revision::ZERO || from > view.revision() {
            return self.reset(session).await;
        }
        let mut cursor = self.door.watch(None, from);
        if from < view.revision() {
            // A first look tells whether the log reaches back; what it finds is fed like anything later.
            let Ok(events) = cursor.next().await else { return self.reset(session).await };
            let (mut feed, held) = Feed::resume(&session.node, &self.hub.peers, &view);
            let position = cursor.position();
            let fed = feed.after(&events, &self.door.view(), position);
            let mut changes = held.delta.changes;
            let data_path = fed.as_ref().is_some_and(|fed| fed.data_path);
            changes.extend(fed.into_iter().flat_map(|fed| fed.delta.changes));
            let delta = copepod_proto::nodes::Delta { revision: position.0, reset: false, changes };
            send(session, Fed { delta, data_path }).await?;
            self.hub.looked_at(session, position);
            return Some((feed, cursor));
        }
        let (feed, mut held) = Feed::resume(&session.node, &self.hub.peers, &view);
        held.delta.revision = from.0;
        send(session, held).await?;
        self.hub.looked_at(session, from);
        Some((feed, cursor))
    }

    async fn reset(&self, session: &Session) -> Option<(Feed, Box<dyn Cursor>)> {
        let view = self.door.view();
        let (feed, fed) = Feed::reset(&session.node, &self.hub.peers, &view);
        send(session, fed).await?;
        self.hub.looked_at(session, view.revision());
        Some((feed, self.door.watch(None, view.revision())))
    }
}

/// Waits until the other nodes contain more.
async fn further(others: &mut Option<watch::Receiver<Revision>>, hub: &Hub) -> Option<()> {
    others.get_or_insert_with(|| hub.contained()).changed().await.ok()
}

/// The servers stand as the endpoints of `kubernetes`, which change with every change of the members.
fn is_about_servers(event: &Event) -> bool {
    let key = &event.object.key;
    key.resource == ENDPOINT_SLICES && key.namespace() == "default" && key.name() == "kubernetes"
}

/// The data path's debt is noted before the delta leaves, so that nobody believes the node is up to date meanwhile.
async fn send(session: &Session, fed: Fed) -> Option<()> {
    if fed.data_path {
        session.sends_data_path(fed.delta.revision);
    }
    session.send(to_node::Message::Delta(fed.delta)).await.ok()
}

fn user_of(node: &str) -> User {
    User { name: format!("{NODE_USER_PREFIX}{node}").into(), groups: vec![NODES_GROUP.into()], ..User::default() }
}

/// The node that the caller's certificate names.
fn node_of<T>(request: &Request<T>) -> Result<String, Status> {
    request
        .extensions()
        .get::<User>()
        .filter(|user| user.is_in(NODES_GROUP))
        .and_then(|user| user.name.strip_prefix(NODE_USER_PREFIX))
        .map(str::to_owned)
        .ok_or_else(|| Status::unauthenticated("a node's certificate is needed; join with a token to get one"))
}

fn unavailable(status: copepod_api::Status) -> Status {
    Status::unavailable(status.message().to_owned())
}

fn refused(status: copepod_api::Status) -> Status {
    match status.code() {
        503 => Status::unavailable(status.message().to_owned()),
        _ => Status::failed_precondition(status.message().to_owned()),
    }
}
