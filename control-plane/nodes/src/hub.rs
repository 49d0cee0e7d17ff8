//! What is known of the nodes right now, and is nobody's desired state: their sessions, heartbeats and acknowledgements.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use copepod_api::Revision;
use copepod_proto::nodes::to_node;
use dashmap::{DashMap, Entry};
use tokio::sync::{Mutex, Notify, mpsc, watch};

use crate::{
    pace::{self, HEARTBEAT_MIN, SILENCE_MAX},
    tunnel::Pending,
};

/// How many messages may wait for a slow agent: all that there is to be told (`everybody.rs`) thrice. One that is further
/// behind is told the difference when it has caught up.
pub const SESSION_QUEUE: usize = 512;

/// Acknowledgements that come together are counted together. Ten thousand come after each change of a service, and to
/// count is to look at each node: short beside the way of a change to all nodes, and long beside a look.
const GATHER: Duration = Duration::from_millis(5);

/// What is counted at most takes so small a part of the time.
const COUNTING_SHARE: u32 = 20;

pub struct Hub {
    sessions: DashMap<Arc<str>, Arc<Session>>,
    /// When each node without a session was last heard.
    seen: DashMap<Arc<str>, Instant>,
    pub(crate) tunnels: Pending,
    /// Everything that concerns all nodes has been told to all sessions up to here.
    told: AtomicU64,
    /// Ticks whenever some node's data path may have come further.
    acknowledged: watch::Sender<u64>,
    /// What the data paths of all nodes that count contained when it was last counted.
    contained: watch::Sender<Revision>,
    numbers: AtomicU64,
    /// Wakes who watches over silence: a session is over.
    pub(crate) closed: Notify,
    /// How often nodes are to say that they live, in milliseconds.
    heartbeat: AtomicU64,
    /// Sessions that begin, and where their nodes are, for the one who tells them.
    arrivals: mpsc::UnboundedSender<Arrival>,
    pub(crate) arriving: Mutex<mpsc::UnboundedReceiver<Arrival>>,
    began: Instant,
}

/// A session that is to be told what its node misses.
pub(crate) struct Arrival {
    pub session: Arc<Session>,
    /// Zero for a node that has nothing.
    pub from: Revision,
}

/// One agent's stream, and how far its data path has come.
pub struct Session {
    pub node: Arc<str>,
    number: u64,
    /// Another session of the node has begun, or this server leads no more.
    pub(crate) ended: Notify,
    /// In boxes: a queue has room for dozens of messages as long as it lives, and is empty most of the time.
    outbox: mpsc::Sender<Box<to_node::Message>>,
    /// The newest delta that changed the node's data path.
    sent: AtomicU64,
    /// The newest delta that the node's data path contains.
    acknowledged: AtomicU64,
    /// Milliseconds since the hub began.
    heard: AtomicU64,
    /// Held by the session that writes down what the node says; each session of a node waits for the one before it. What a
    /// report changes is seen against what stands, and so what was heard before has to stand first.
    pub(crate) pen: Arc<Mutex<()>>,
}

impl Hub {
    pub fn new() -> Arc<Hub> {
        let (arrivals, arriving) = mpsc::unbounded_channel();
        Arc::new(Hub {
            sessions: DashMap::new(),
            seen: DashMap::new(),
            tunnels: Pending::default(),
            told: AtomicU64::new(0),
            acknowledged: watch::Sender::default(),
            contained: watch::Sender::default(),
            numbers: AtomicU64::new(0),
            closed: Notify::new(),
            heartbeat: AtomicU64::new(HEARTBEAT_MIN.as_millis() as u64),
            arrivals,
            arriving: Mutex::new(arriving),
            began: Instant::now(),
        })
    }

    /// Begins a session. An older one of the same node ends: it wakes, and finds that it is not current.
    pub(crate) fn open(&self, node: &str, outbox: mpsc::Sender<Box<to_node::Message>>) -> Arc<Session> {
        let name: Arc<str> = node.into();
        let mut older = None;
        let place = self.sessions.entry(name.clone());
        if let Entry::Occupied(place) = &place {
            older = Some(place.get().clone());
        }
        let session = Arc::new(Session {
            node: name,
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            ended: Notify::new(),
            outbox,
            // It contains nothing until it has been told everything.
            sent: AtomicU64::new(u64::MAX),
            acknowledged: AtomicU64::new(0),
            heard: AtomicU64::new(self.now()),
            pen: older.as_ref().map(|older| older.pen.clone()).unwrap_or_default(),
        });
        // Whoever else opens one meanwhile waits, or two would think themselves the first.
        place.insert(session.clone());
        if let Some(older) = older {
            older.ended.notify_one();
        }
        self.tick();
        session
    }

    /// A session is to be told everything since a revision.
    pub(crate) fn arrives(&self, session: Arc<Session>, from: Revision) {
        // The hub holds the other end.
        let _ = self.arrivals.send(Arrival { session, from });
    }

    /// A session is over. `lost`: its machine does not answer, and has not for as long as nodes may be silent.
    pub(crate) fn close(&self, session: &Session, lost: bool) {
        if self.sessions.remove_if(&session.node, |_, current| current.number == session.number).is_some() {
            let now = Instant::now();
            let long_ago = now.checked_sub(pace::absence_max(self.heartbeat()) * 2).unwrap_or(now);
            let at = if lost { long_ago } else { now };
            self.seen.insert(session.node.clone(), at);
            self.closed.notify_one();
        }
        self.tick();
    }

    /// Ends all sessions: this server leads no more, and the agents find the one that does.
    pub(crate) fn close_all(&self) {
        let closed = self.sessions();
        self.sessions.clear();
        // Whoever is woken before that finds its session current, and is not woken again.
        closed.iter().for_each(|session| session.ended.notify_one());
        // Whoever leads next has its own view of who lives; so has this server, should it lead again.
        self.seen.clear();
        self.contained.send_replace(Revision::ZERO);
        self.heartbeat.store(HEARTBEAT_MIN.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_current(&self, session: &Session) -> bool {
        self.sessions.get(&session.node).is_some_and(|current| current.number == session.number)
    }

    pub(crate) fn session(&self, node: &str) -> Option<Arc<Session>> {
        self.sessions.get(node).map(|session| session.clone())
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.iter().map(|session| session.clone()).collect()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn tick(&self) {
        self.acknowledged.send_modify(|count| *count += 1);
    }

    pub(crate) fn beat(&self, session: &Session) {
        session.heard.store(self.now(), Ordering::Relaxed);
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat.load(Ordering::Relaxed))
    }

    /// There are so many nodes. True if they are to beat more slowly from now on. Never faster again while this server leads:
    /// it would take those for silent that have not heard of it yet.
    pub(crate) fn has_nodes(&self, n_nodes: usize) -> bool {
        let wanted = pace::heartbeat(n_nodes).as_millis() as u64;
        self.heartbeat.fetch_max(wanted, Ordering::Relaxed) < wanted
    }

    /// How much longer a node may be silent; zero if it is taken for dead. `None` if it was never heard.
    pub(crate) fn patience(&self, node: &str) -> Option<Duration> {
        if let Some(session) = self.sessions.get(node) {
            let silent = Duration::from_millis(self.now().saturating_sub(session.heard.load(Ordering::Relaxed)));
            return Some(pace::silence_max(self.heartbeat()).saturating_sub(silent));
        }
        let at = *self.seen.get(node)?;
        Some((at + pace::absence_max(self.heartbeat())).saturating_duration_since(Instant::now()))
    }

    /// Gives a node the benefit of the doubt: a new leader has heard nobody yet. Until it has been silent for too long,
    /// what it routes counts.
    pub(crate) fn assume_alive(&self, node: &str) {
        let heartbeat = self.heartbeat();
        let more = pace::reconnect_max(heartbeat).saturating_sub(pace::absence_max(heartbeat));
        self.seen.entry(node.into()).or_insert(Instant::now() + more);
    }

    pub(crate) fn forget(&self, node: &str) {
        self.seen.remove(node);
    }

    /// What the data path of every node that lives contains, for those who wait for that to grow.
    pub(crate) fn contained(&self) -> watch::Receiver<Revision> {
        let mut contained = self.contained.subscribe();
        // What was counted for somebody else may be enough, and then it does not change.
        contained.mark_changed();
        // Nothing is counted while nobody waits.
        self.tick();
        contained
    }

    /// Counts what all nodes contain whenever that may have grown and somebody waits for it.
    pub(crate) async fn count(&self) {
        let mut acknowledged = self.acknowledged.subscribe();
        let mut rest = GATHER;
        loop {
            // A node that falls silent stops counting, and says nothing when it does.
            let _ = tokio::time::timeout(HEARTBEAT_MIN, acknowledged.changed()).await;
            tokio::time::sleep(rest).await;
            acknowledged.mark_unchanged();
            if self.contained.receiver_count() == 0 {
                continue;
            }
            let begin = Instant::now();
            if let Some(revision) = self.least_contained() {
                self.contained.send_if_modified(|contained| std::mem::replace(contained, revision) != revision);
            }
            rest = GATHER.max(begin.elapsed() * COUNTING_SHARE);
        }
    }

    /// What the data path of every node that lives contains: of those that are connected, and of those that have not come
    /// back yet since this server leads. Silent nodes do not count: what they route is lost anyway, and one dead machine
    /// must not hold up the stop of a pod on another. `None` if no node counts.
    fn least_contained(&self) -> Option<Revision> {
        let silence_max = pace::silence_max(self.heartbeat()).as_millis() as u64;
        let (told, now) = (self.told.load(Ordering::Acquire), self.now());
        let connected = self.sessions.iter().filter_map(|session| {
            let is_silent = now.saturating_sub(session.heard.load(Ordering::Relaxed)) > silence_max;
            (!is_silent).then(|| session.contained(told))
        });
        let is_away = |seen: &Instant| seen.elapsed() <= SILENCE_MAX;
        let away = self.seen.iter().any(|seen| is_away(&seen) && !self.sessions.contains_key(seen.key()));
        connected.chain(away.then_some(Revision::ZERO)).min()
    }

    pub(crate) fn acknowledge(&self, session: &Session, revision: u64) {
        session.acknowledged.fetch_max(revision, Ordering::AcqRel);
        self.tick();
    }

    /// All sessions have been told of everything that concerns all, or owe the acknowledgement of what they are to be told.
    pub(crate) fn has_told(&self, revision: Revision) {
        self.told.store(revision.0, Ordering::Release);
        self.tick();
    }
}

impl Session {
    /// The node's debt is noted before the delta leaves, so that nobody believes the node is up to date meanwhile.
    pub(crate) fn owes(&self, revision: Revision) {
        self.sent.store(revision.0, Ordering::Release);
    }

    /// Nothing more can be told, and what the node misses is not known here.
    pub(crate) fn is_behind(&self) {
        self.sent.store(u64::MAX, Ordering::Release);
    }

    pub(crate) fn acknowledged(&self) -> Revision {
        Revision(self.acknowledged.load(Ordering::Acquire))
    }

    /// Every event up to here is in the node's data path, or was none of its business.
    fn contained(&self, told: u64) -> Revision {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let owes_nothing = acknowledged >= self.sent.load(Ordering::Acquire);
        Revision(if owes_nothing { acknowledged.max(told) } else { acknowledged })
    }

    /// Sends, or says that the agent is gone or hopelessly behind.
    pub(crate) async fn send(&self, message: to_node::Message) -> Result<(), Gone> {
        self.outbox.send(Box::new(message)).await.map_err(|_| Gone)
    }

    /// Sends if there is room.
    pub(crate) fn try_send(&self, message: to_node::Message) -> Result<(), Full> {
        self.outbox.try_send(Box::new(message)).map_err(|_| Full)
    }

    /// Waits until most of what waited for the agent has left.
    pub(crate) async fn has_room(&self) -> Result<(), Gone> {
        self.outbox.reserve_many(SESSION_QUEUE / 2).await.map(drop).map_err(|_| Gone)
    }
}

/// The agent's stream has ended.
#[derive(Debug)]
pub(crate) struct Gone;

/// Too much waits for the agent, or it is gone.
#[derive(Debug)]
pub(crate) struct Full;

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
        hub.has_told(Revision(5));
        assert_eq!(hub.least_contained(), Some(Revision::ZERO), "neither has been told anything");
        for session in [&a, &b] {
            session.owes(Revision(5));
            hub.acknowledge(session, 5);
        }
        hub.has_told(Revision(7));
        assert_eq!(hub.least_contained(), Some(Revision(7)));
        a.owes(Revision(9));
        hub.has_told(Revision(9));
        assert_eq!(hub.least_contained(), Some(Revision(5)), "it owes an acknowledgement");
        hub.acknowledge(&a, 9);
        assert_eq!(hub.least_contained(), Some(Revision(9)));
        b.is_behind();
        assert_eq!(hub.least_contained(), Some(Revision(5)), "what it misses is not known");
        hub.close(&b, false);
        assert_eq!(hub.least_contained(), Some(Revision::ZERO), "it may still route");
        hub.forget("b");
        assert_eq!(hub.least_contained(), Some(Revision(9)));
    }

    #[test]
    fn a_machine_that_does_not_answer_is_dead_at_once_and_one_that_closed_its_session_is_not() {
        let hub = Hub::new();
        let (a, b) = (session(&hub, "a"), session(&hub, "b"));
        assert!(hub.patience("a").unwrap() > Duration::from_secs(9));
        hub.close(&a, true);
        hub.close(&b, false);
        assert_eq!(hub.patience("a"), Some(Duration::ZERO));
        assert!(hub.patience("b").unwrap() > Duration::from_secs(3));
        assert_eq!(hub.patience("c"), None);
        let again = session(&hub, "a");
        hub.close(&a, true);
        assert!(
            hub.patience("a").unwrap() > Duration::from_secs(3) && hub.is_current(&again),
            "that was the older one"
        );
    }

    #[test]
    fn with_many_nodes_each_beats_more_slowly_and_never_faster_again() {
        let hub = Hub::new();
        assert!(!hub.has_nodes(650) && hub.has_nodes(651) && !hub.has_nodes(1_300));
        assert_eq!(hub.heartbeat(), Duration::from_secs(2));
        assert!(hub.has_nodes(10_000) && !hub.has_nodes(3));
        session(&hub, "a");
        assert!(hub.patience("a").unwrap() > Duration::from_secs(30));
        hub.close_all();
        assert_eq!(hub.heartbeat(), HEARTBEAT_MIN);
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
        sessions.iter().for_each(|session| session.owes(Revision(8)));
        sessions.iter().for_each(|session| hub.acknowledge(session, 8));
        contained.changed().await.unwrap();
        assert_eq!(*contained.borrow_and_update(), Revision(8));
        tokio::time::sleep(HEARTBEAT_MIN * 3).await;
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
