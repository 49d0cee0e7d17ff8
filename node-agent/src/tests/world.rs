//! The world of the agent's tests.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_proto::nodes::{
    Change, Delta, FromNode, JoinReply, JoinRequest, LogRequest, OpenTunnel, Redirect, Released, RenewRequest, ToNode,
    TokenReply, TokenRequest, TunnelData, Welcome, from_node,
    nodes_server::{Nodes, NodesServer},
    open_tunnel, to_node,
};
use futures::{Stream, StreamExt};
use prost::Message;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::{
    assemble::drive,
    config::{AgentConfig, RuntimeChoice},
    connect::{Dial, endpoint},
    hollow::{HollowImages, HollowNetwork, HollowRuntime},
    surface::Rooms,
};

/// Nothing here takes long; a test that waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    dir: tempfile::TempDir,
    pub runtime: Arc<HollowRuntime>,
    network: Arc<HollowNetwork>,
    dial: Arc<PlainDial>,
    front: Front,
    sessions: mpsc::UnboundedReceiver<Cluster>,
    agent: Option<(CancellationToken, JoinHandle<()>)>,
    listener: Option<std::net::TcpListener>,
}

impl World {
    /// With an agent that runs.
    pub async fn new() -> World {
        let mut world = World::empty().await;
        world.start_agent().await;
        world
    }

    pub async fn empty() -> World {
        let (sender, sessions) = mpsc::unbounded_channel();
        let front = Front { sessions: sender, tunnels: Arc::default(), redirect: None };
        let server = serve(front.clone()).await;
        let dial = Arc::new(PlainDial {
            servers: Mutex::new(vec![server.to_string()]),
            cut: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
        });
        World {
            dir: tempfile::tempdir().unwrap(),
            runtime: Arc::default(),
            network: Arc::new(HollowNetwork::new(Ipv4Addr::new(10, 0, 0, 5), None)),
            dial,
            front,
            sessions,
            agent: None,
            listener: None,
        }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Files are not watched; this looks until one is gone.
    pub async fn until_absent(&self, path: &str) {
        let wait = async {
            while self.path(path).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{path} is still there"));
    }

    pub async fn add_redirecting_server(&mut self) {
        let leader = self.dial.servers.lock().unwrap()[0].clone();
        let server = serve(Front { redirect: Some(leader), ..self.front.clone() }).await;
        *self.dial.servers.lock().unwrap() = vec![server.to_string()];
    }

    pub async fn start_agent(&mut self) {
        let config = AgentConfig {
            name: "n1".into(),
            cgroup: "n1".into(),
            data_dir: self.dir.path().into(),
            run_dir: self.dir.path().join("run"),
            images_dir: self.dir.path().join("images"),
            server: None,
            token: None,
            address: None,
            labels: BTreeMap::new(),
            runtime: RuntimeChoice::Embedded,
            mirrors: Vec::new(),
        };
        let rooms =
            Rooms { runtime: self.runtime.clone(), network: self.network.clone(), images: Arc::new(HollowImages) };
        let stop = CancellationToken::new();
        let (dial, stopped) = (self.dial.clone(), stop.clone());
        let task = tokio::spawn(async move {
            drive(&config, rooms, dial, "PEM".into(), IpAddr::from([127, 0, 0, 1]), stopped).await.unwrap();
        });
        self.agent = Some((stop, task));
    }

    pub async fn stop_agent(&mut self) {
        let (stop, task) = self.agent.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    /// The control plane cannot be reached.
    pub fn cut(&self) {
        self.dial.cut.store(true, Ordering::SeqCst);
        self.front.tunnels.cut.send_modify(|cuts| *cuts += 1);
        self.dial.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub fn heal(&self) {
        self.dial.cut.store(false, Ordering::SeqCst);
    }

    /// The next session that the agent opens.
    pub async fn session(&mut self) -> Cluster {
        tokio::time::timeout(PATIENCE, self.sessions.recv()).await.expect("no session").unwrap()
    }

    pub fn pod(&self, name: &str, uid: &str, spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "d", "uid": uid, "resourceVersion": "1"}, "spec": spec})
    }

    pub fn open_port(&mut self) -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        self.listener = Some(listener);
        port
    }

    pub fn write_log(&self, path: &str, text: &str) {
        fs::write(self.path(path), format!("2026-01-01T00:00:01Z stdout F {text}\n")).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.agent {
            stop.cancel();
        }
    }
}

pub fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

async fn serve(front: Front) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(NodesServer::new(front));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

struct PlainDial {
    servers: Mutex<Vec<String>>,
    cut: AtomicBool,
    cuts: watch::Sender<u32>,
}

#[tonic::async_trait]
impl Dial for PlainDial {
    fn servers(&self) -> Vec<String> {
        self.servers.lock().unwrap().clone()
    }

    fn learn(&self, _: &[String]) {}

    async fn dial(&self, server: &str) -> Result<Channel, String> {
        if self.cut.load(Ordering::SeqCst) {
            return Err("cut".into());
        }
        endpoint(server)?.connect().await.map_err(|error| error.to_string())
    }
}

/// The control plane of a test: it hands every session to the test.
#[derive(Clone)]
struct Front {
    sessions: mpsc::UnboundedSender<Cluster>,
    tunnels: Arc<Tunnels>,
    redirect: Option<String>,
}

struct Tunnels {
    opened: Mutex<BTreeMap<String, mpsc::UnboundedSender<TunnelData>>>,
    cut: watch::Sender<u32>,
}

impl Default for Tunnels {
    fn default() -> Tunnels {
        Tunnels { opened: Mutex::default(), cut: watch::Sender::new(0) }
    }
}

/// One session, from the control plane's end.
pub struct Cluster {
    pub hello: Value,
    pub revision: u64,
    down: mpsc::Sender<Result<ToNode, Status>>,
    up: mpsc::UnboundedReceiver<FromNode>,
    statuses: BTreeMap<String, (Value, bool)>,
    contained: u64,
    tunnels: Arc<Tunnels>,
}

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Nodes for Front {
    type SessionStream = Outbound<ToNode>;
    type TunnelStream = Outbound<TunnelData>;

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<JoinReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn token(&self, request: Request<TokenRequest>) -> Result<Response<TokenReply>, Status> {
        let asked = request.into_inner();
        let token = format!("token of {} for {:?}", asked.pod, asked.audience);
        let expires_at = Timestamp::now().as_second() + asked.expiration_seconds;
        Ok(Response::new(TokenReply { token, expires_at }))
    }

    async fn session(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Outbound<ToNode>>, Status> {
        let mut inbound = request.into_inner();
        let Some(from_node::Message::Hello(hello)) = inbound.message().await?.unwrap().message else {
            panic!("no hello")
        };
        if let Some(leader) = self.redirect.clone() {
            let message = ToNode { message: Some(to_node::Message::Redirect(Redirect { leader })) };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(message)))));
        }
        let (down, outbound) = mpsc::channel(16);
        let welcome = Welcome { heartbeat_milliseconds: 100, servers: Vec::new() };
        down.send(Ok(ToNode { message: Some(to_node::Message::Welcome(welcome)) })).await.unwrap();
        let (sender, up) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = inbound.next().await {
                let _ = sender.send(message);
            }
        });
        let cluster = Cluster {
            hello: serde_json::from_slice(&hello.node).unwrap(),
            revision: hello.revision,
            down,
            up,
            statuses: BTreeMap::new(),
            contained: 0,
            tunnels: self.tunnels.clone(),
        };
        self.sessions.send(cluster).ok().unwrap();
        // A cut ends the stream, as a broken connection would.
        let mut cut = self.tunnels.cut.subscribe();
        let until = async move { cut.changed().await.unwrap_or(()) };
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound).take_until(Box::pin(until)))))
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelData>>) -> Result<Response<Outbound<TunnelData>>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.unwrap();
        let sender = self.tunnels.opened.lock().unwrap().remove(&first.id).unwrap();
        tokio::spawn(async move {
            while let Some(Ok(data)) = inbound.next().await {
                let _ = sender.send(data);
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

impl Cluster {
    /// Sends objects, each with its place taken from its metadata.
    pub async fn tell(&mut self, revision: u64, reset: bool, objects: &[Value]) {
        let changes = objects.iter().map(|object| Change {
            group: String::new(),
            plural: format!("{}s", object["kind"].as_str().unwrap().to_lowercase()),
            namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().into(),
            name: object["metadata"]["name"].as_str().unwrap().into(),
            object: Some(object.to_string().into_bytes().into()),
        });
        let delta = Delta { revision, reset, changes: changes.collect(), ..Delta::default() };
        self.say(to_node::Message::Delta(delta.encode_to_vec().into())).await;
    }

    async fn say(&self, message: to_node::Message) {
        self.down.send(Ok(ToNode { message: Some(message) })).await.unwrap();
    }

    pub async fn release(&self, uid: &str) {
        self.say(to_node::Message::Released(Released { uid: uid.into() })).await;
    }

    async fn hear(&mut self) {
        let message = tokio::time::timeout(PATIENCE, self.up.recv()).await;
        let message = message.unwrap_or_else(|_| panic!("nothing more was said after {:#?}", self.statuses));
        match message.expect("the session ended").message.unwrap() {
            from_node::Message::Statuses(batch) => {
                for pod in batch.pods {
                    self.statuses.insert(pod.uid, (serde_json::from_slice(&pod.status).unwrap(), pod.gone));
                }
            }
            from_node::Message::Acknowledged(acknowledged) => self.contained = acknowledged.revision,
            _ => (),
        }
    }

    pub async fn until(&mut self, uid: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some((status, _)) = self.statuses.get(uid).filter(|(status, _)| holds(status)) {
                return status.clone();
            }
            self.hear().await;
        }
    }

    pub async fn until_gone(&mut self, uid: &str) {
        while !self.statuses.get(uid).is_some_and(|(_, gone)| *gone) {
            self.hear().await;
        }
    }

    pub async fn acknowledged(&mut self, revision: u64) {
        while self.contained < revision {
            self.hear().await;
        }
    }

    pub async fn logs(&mut self, uid: &str, ask: impl FnOnce(&mut LogRequest)) -> String {
        let mut asked = LogRequest {
            namespace: "d".into(),
            pod: "web".into(),
            uid: uid.into(),
            container: "a".into(),
            ..LogRequest::default()
        };
        ask(&mut asked);
        let (sender, mut data) = mpsc::unbounded_channel();
        self.tunnels.opened.lock().unwrap().insert("t".into(), sender);
        let request = Some(open_tunnel::Request::Logs(asked));
        self.say(to_node::Message::OpenTunnel(OpenTunnel { id: "t".into(), request })).await;
        let mut text = Vec::new();
        while let Some(part) = tokio::time::timeout(PATIENCE, data.recv()).await.unwrap() {
            text.extend(part.data);
        }
        String::from_utf8(text).unwrap()
    }
}
