//! What is known of the nodes right now, and is nobody's desired state: their sessions, heartbeats and acknowledgements.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use copepod_api::Revision;
use copepod_proto::nodes::{ToNode, to_node};
use dashmap::DashMap;
use tokio::sync::{mpsc, watch};

use crate::tunnel::Pending;

/// How often an agent says that it lives. Cheap, because it is written nowhere.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a node may be silent before its pods are replaced elsewhere. Shorter, and a rebooting switch restarts half
/// the cluster; longer, and users wait for an answer that will not come. Three missed heartbeats must fit in.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);
const _: () = assert!(SILENCE_MAX.as_millis() > 3 * HEARTBEAT.as_millis());

/// How long agents may take, after a change of leader, to notice that the old one is gone and to find the new one. A
/// machine that loses its power says nothing to those who listen to it, so this is the time of their keep-alives.
pub const RECONNECT_MAX: Duration = Duration::from_secs(4);

/// How many messages may wait for a slow agent before its session is ended; it comes back and starts from a reset.
pub const SESSION_QUEUE: usize = 256;

#[derive(Default)]
pub struct Hub {
    sessions: DashMap<Arc<str>, Arc<Session>>,
    /// When each node was last heard, with or without a session.
    seen: DashMap<Arc<str>, Instant>,
    pub(crate) tunnels: Pending,
    acknowledged: watch::Sender<u64>,
    numbers: AtomicU64,
}

/// One agent's stream, and how far its data path has come.
pub struct Session {
    pub node: Arc<str>,
    number: u64,
    pub(crate) outbox: mpsc::Sender<Result<ToNode, tonic::Status>>,
    /// Every event up to here has been looked at for this node.
    position: AtomicU64,
    /// The newest delta that changed the node's data path.
    sent: AtomicU64,
    /// The newest delta that the node's data path contains.
    acknowledged: AtomicU64,
}

impl Hub {
    pub fn new() -> Arc<Hub> {
        Arc::new(Hub::default())
    }

    /// Begins a session. An older one of the same node ends: it wakes, and finds that it is not current.
    pub(crate) fn open(&self, node: &str, outbox: mpsc::Sender<Result<ToNode, tonic::Status>>) -> Arc<Session> {
        let session = Arc::new(Session {
            node: node.into(),
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            outbox,
            position: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        });
        self.sessions.insert(session.node.clone(), session.clone());
        self.acknowledged.send_modify(|count| *count += 1);
        self.beat(node);
        session
    }

    pub(crate) fn close(&self, session: &Session) {
        self.sessions.remove_if(&session.node, |_, current| current.number == session.number);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// Ends all sessions: this server leads no more, and the agents find the one that does.
    pub fn close_all(&self) {
        self.sessions.clear();
        // Whoever leads next has its own view of who lives; so has this server, should it lead again.
        self.seen.clear();
        self.acknowledged.send_modify(|count| *count += 1);
    }

    pub(crate) fn is_current(&self, session: &Session) -> bool {
        self.sessions.get(&session.node).is_some_and(|current| current.number == session.number)
    }

    pub(crate) fn session(&self, node: &str) -> Option<Arc<Session>> {
        self.sessions.get(node).map(|session| session.clone())
    }

    pub fn beat(&self, node: &str) {
        self.seen.insert(node.into(), Instant::now());
    }

    pub(crate) fn last_seen(&self, node: &str) -> Option<Instant> {
        self.seen.get(node).map(|at| *at)
    }

    /// Gives a node the benefit of the doubt: a new leader has heard nobody yet. Until it has been silent for too long,
    /// what it routes counts.
    pub(crate) fn assume_alive(&self, node: &str) {
        self.seen.entry(node.into()).or_insert_with(|| Instant::now() + RECONNECT_MAX);
    }

    pub(crate) fn forget(&self, node: &str) {
        self.seen.remove(node);
    }

    /// Ticks whenever some node's data path has come further, or a session has begun or ended.
    pub(crate) fn acknowledgements(&self) -> watch::Receiver<u64> {
        self.acknowledged.subscribe()
    }

    /// Whether the data path of every node that lives contains `revision`: of those that are connected, and of those that
    /// have not come back yet since this server leads. Silent nodes do not count: what they route is lost anyway, and one
    /// dead machine must not hold up the stop of a pod on another.
    pub(crate) fn all_contain(&self, revision: Revision) -> bool {
        self.seen
            .iter()
            .filter(|seen| seen.elapsed() <= SILENCE_MAX)
            .all(|seen| self.sessions.get(seen.key()).is_some_and(|session| session.contains(revision)))
    }

    pub(crate) fn acknowledge(&self, session: &Session, revision: u64) {
        session.acknowledged.fetch_max(revision, Ordering::AcqRel);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    pub(crate) fn looked_at(&self, session: &Session, position: Revision) {
        session.position.store(position.0, Ordering::Release);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    pub fn connected(&self) -> usize {
        self.sessions.len()
    }
}

impl Session {
    pub(crate) fn sends_data_path(&self, revision: u64) {
        self.sent.fetch_max(revision, Ordering::AcqRel);
    }

    fn contains(&self, revision: Revision) -> bool {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        acknowledged >= revision.0
            || (self.position.load(Ordering::Acquire) >= revision.0
                && acknowledged >= self.sent.load(Ordering::Acquire))
    }

    /// Sends, or says that the agent is gone or hopelessly behind.
    pub(crate) async fn send(&self, message: to_node::Message) -> Result<(), Gone> {
        self.outbox.send(Ok(ToNode { message: Some(message) })).await.map_err(|_| Gone)
    }
}

/// The agent's stream has ended.
#[derive(Debug)]
pub(crate) struct Gone;
