//! The gRPC service that agents speak to.

use std::{pin::Pin, sync::Arc};

use copepod_api::{Key, Object, Revision, Timestamp, User, resource::PODS, time::rfc3339};
use copepod_identity::NODES_GROUP;
use copepod_proto::nodes::{
    FromNode, JoinReply, JoinRequest, Redirect, RenewRequest, ToNode, TokenReply, TokenRequest, TunnelData, from_node,
    nodes_server::Nodes, to_node,
};
use copepod_store::{Door, Leader};
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Hub, Issue,
    dispatch::{self, dispatch},
    hearing,
    hub::{SESSION_QUEUE, Session},
    join, references, silence, status,
};

pub const NODE_USER_PREFIX: &str = "system:node:";

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

    /// What only the leader does: tells all nodes what concerns them, and watches over who lives. Until dropped; then call
    /// `stop_leading`.
    pub async fn lead(&self) {
        silence::assume_alive(&self.hub, &self.door.view());
        tokio::select! {
            () = dispatch(self.door.clone(), self.hub.clone(), self.issue.clone()) => (),
            () = silence::watch(self.door.clone(), self.hub.clone()) => (),
            () = self.hub.count() => (),
        }
    }

    /// Agents are sent on to whoever leads.
    pub fn stop_leading(&self) {
        self.hub.close_all();
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

        let (outbox, outbound) = mpsc::channel(SESSION_QUEUE);
        let session = self.hub.open(&node, outbox);
        tracing::info!(node, "session begins");
        tokio::spawn(self.clone().carry(session, Revision(hello.revision), inbound));
        let outbound = ReceiverStream::new(outbound).map(|message| Ok(ToNode { message: Some(*message) }));
        Ok(Response::new(Box::pin(outbound)))
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
        let view = self.door.fresh().await.map_err(unavailable)?;
        let now = rfc3339(Timestamp::now());
        let requests = status::introduction(&view, &user_of(node), node, told, &now);
        if !requests.is_empty() {
            self.door.submit(requests).await.map_err(refused)?;
        }
        Ok(())
    }

    /// A session from its beginning to its end. What it is told comes from `dispatch`.
    async fn carry(self, session: Arc<Session>, from: Revision, inbound: Streaming<FromNode>) {
        let welcome = dispatch::welcome(&self.hub, &*self.issue);
        let mut is_lost = false;
        if session.send(to_node::Message::Welcome(welcome)).await.is_ok() {
            self.hub.arrives(session.clone(), from);
            is_lost = hearing::listen(&*self.door, &self.hub, &session, inbound).await;
        }
        self.hub.close(&session, is_lost);
        tracing::info!(node = &*session.node, is_lost, "session ends");
    }
}

pub(crate) fn user_of(node: &str) -> User {
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
