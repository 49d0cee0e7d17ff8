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
use tokio::sync::{Notify, mpsc, watch};

use crate::{peers::Peers, tunnel::Pending};

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

/// Acknowledgements that come together are counted together. Ten thousand come after each change of a service, and to
/// count is to look at each node: short beside the way of a change to all nodes, and long beside a look.
const GATHER: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Hub {
    sessions: DashMap<Arc<str>, Arc<Session>>,
    /// When each node was last heard, with or without a session.
    seen: DashMap<Arc<str>, Instant>,
    pub(crate) tunnels: Pending,
    /// What nodes are told of each other.
    pub(crate) peers: Arc<Peers>,
    /// Ticks whenever some node's data path may have come further.
    acknowledged: watch::Sender<u64>,
    /// What the data paths of all nodes that count contained when it was last counted.
    contained: watch::Sender<Revision>,
    numbers: AtomicU64,
}

/// One agent's stream, and how far its data path has come.
pub struct Session {
    pub node: Arc<str>,
    number: u64,
    /// Another session of the node has begun, or this server leads no more.
    pub(crate) ended: Notify,
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
            ended: Notify::new(),
            outbox,
            position: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        });
        if let Some(older) = self.sessions.insert(session.node.clone(), session.clone()) {
            older.ended.notify_one();
        }
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
        self.sessions.iter().for_each(|session| session.ended.notify_one());
        self.sessions.clear();
        // Whoever leads next has its own view of who lives; so has this server, should it lead again.
        self.seen.clear();
        self.contained.send_replace(Revision::ZERO);
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
        self.peers.forget(node);
    }

    /// What the data path of every node that lives contains, for those who wait for that to grow.
    pub(crate) fn contained(&self) -> watch::Receiver<Revision> {
        let mut contained = self.contained.subscribe();
        // What was counted for somebody else may be enough, and then it does not change.
        contained.mark_changed();
        // Nothing is counted while nobody waits.
        self.acknowledged.send_modify(|count| *count += 1);
        contained
    }

    /// Counts what all nodes contain whenever that may have grown and somebody waits for it. One for all who wait: if each
    /// counted, the pods that leave a cluster at once would be multiplied by its nodes twice.
    pub(crate) async fn count(&self) {
        let mut acknowledged = self.acknowledged.subscribe();
        loop {
            // A node that falls silent stops counting, and says nothing when it does.
            let _ = tokio::time::timeout(HEARTBEAT, acknowledged.changed()).await;
            tokio::time::sleep(GATHER).await;
            acknowledged.mark_unchanged();
            if self.contained.receiver_count() > 0
                && let Some(revision) = self.least_contained()
            {
                self.contained.send_if_modified(|contained| std::mem::replace(contained, revision) != revision);
            }
        }
    }

    /// What the data path of every node that lives contains: of those that are connected, and of those that have not come
    /// back yet since this server leads. Silent nodes do not count: what they route is lost anyway, and one dead machine
    /// must not hold up the stop of a pod on another. `None` if no node counts.
    fn least_contained(&self) -> Option<Revision> {
        let living = self.seen.iter().filter(|seen| seen.elapsed() <= SILENCE_MAX);
        let contained =
            living.map(|seen| self.sessions.get(seen.key()).map_or(Revision::ZERO, |session| session.contained()));
        contained.min()
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

    /// Every event up to here is in the node's data path, or was none of its business.
    fn contained(&self) -> Revision {
        // In this order: a debt is noted before the position moves beyond it.
        let position = self.position.load(Ordering::Acquire);
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let owes_nothing = acknowledged >= self.sent.load(Ordering::Acquire);
        Revision(if owes_nothing { acknowledged.max(position) } else { acknowledged })
    }

    /// Sends, or says that the agent is gone or hopelessly behind.
    pub(crate) async fn send(&self, message: to_node::Message) -> Result<(), Gone> {
        self.outbox.send(Ok(ToNode { message: Some(message) })).await.map_err(|_| Gone)
    }
}

/// The agent's stream has ended.
#[derive(Debug)]
pub(crate) struct Gone;

#[cfg(test)]
mod tests {
    use super::*;

    fn session(hub: &Hub, node: &str) -> Arc<Session> {
        hub.open(node, mpsc::channel(1).0)
    }

    #[test]
    fn a_node_contains_what_it_acknowledged_and_what_was_none_of_its_business() {
        let hub = Hub::new();
        assert_eq!(hub.least_contained(), None);
        let (a, b) = (session(&hub, "a"), session(&hub, "b"));
        hub.looked_at(&a, Revision(5));
        assert_eq!(hub.least_contained(), Some(Revision::ZERO));
        hub.looked_at(&b, Revision(7));
        assert_eq!(hub.least_contained(), Some(Revision(5)));
        a.sends_data_path(9);
        hub.looked_at(&a, Revision(9));
        assert_eq!(hub.least_contained(), Some(Revision::ZERO), "it owes an acknowledgement");
        hub.acknowledge(&a, 9);
        assert_eq!(hub.least_contained(), Some(Revision(7)));
        hub.close(&b);
        assert_eq!(hub.least_contained(), Some(Revision::ZERO), "it may still route");
        hub.forget("b");
        assert_eq!(hub.least_contained(), Some(Revision(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledgements_of_all_nodes_are_counted_together_and_wake_who_waits_once() {
        let hub = Hub::new();
        let sessions: Vec<Arc<Session>> = (0..1_000).map(|number| session(&hub, &format!("n{number}"))).collect();
        let counting = tokio::spawn({
            let hub = hub.clone();
            async move { hub.count().await }
        });
        let mut contained = hub.contained();
        contained.changed().await.unwrap();
        sessions.iter().for_each(|session| session.sends_data_path(8));
        sessions.iter().for_each(|session| hub.acknowledge(session, 8));
        contained.changed().await.unwrap();
        assert_eq!(*contained.borrow_and_update(), Revision(8));
        tokio::time::sleep(HEARTBEAT * 3).await;
        assert!(!contained.has_changed().unwrap());
        counting.abort();
    }

    #[tokio::test]
    async fn a_session_ends_when_a_newer_one_begins_or_the_server_leads_no_more() {
        let hub = Hub::new();
        let older = session(&hub, "a");
        let newer = session(&hub, "a");
        older.ended.notified().await;
        hub.close_all();
        newer.ended.notified().await;
    }
}
