//! Tells all nodes what the board says they have to be told, while this server leads.
//!
//! One task reads the log of events and puts messages into the queues of sessions; nothing is done for a node that has
//! nothing to be told. What concerns all nodes is told at once where it can, and else with what comes meanwhile: a message
//! to ten thousand nodes keeps a processor busy for a while, and endpoints change all the time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use copepod_api::{
    Resource, Revision,
    resource::{CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, NETWORK_POLICIES, NODES, PODS, SECRETS, SERVICES},
};
use copepod_proto::nodes::{Released, Welcome, to_node};
use copepod_store::{Cursor, Door, Event, EventKind, View, difference::Place};

use crate::{
    Hub, Issue,
    board::{Board, Name, Told},
    hub::{Arrival, Session},
    release::Leaving,
};

/// What a message to one node takes a server, with the acknowledgement (docs/performance.md). So long nothing is told to all
/// again: while endpoints change all the time, telling takes a core at most.
const COST: Duration = Duration::from_micros(75);

/// What nodes are told of.
pub(crate) const TOLD: [Resource; 8] =
    [PODS, NODES, SERVICES, ENDPOINT_SLICES, NETWORK_POLICIES, NAMESPACES, CONFIG_MAPS, SECRETS];

/// How many nodes that come together are told everything at once; each holds all of it until it has left.
const ARRIVALS_MAX: usize = 64;

/// Tells nodes what concerns them until dropped.
pub async fn dispatch(door: Arc<dyn Door>, hub: Arc<Hub>, issue: Arc<dyn Issue>) {
    let mut arriving = hub.arriving.lock().await;
    // Those of a former life as the leader are over.
    while arriving.try_recv().is_ok() {}
    // A session that was opened meanwhile is told all the same.
    for session in hub.sessions() {
        hub.arrives(session, Revision::ZERO);
    }
    let mut dispatcher = Dispatcher::new(door.clone(), hub.clone(), issue);
    let mut cursor = dispatcher.begin();
    let mut contained = None;
    loop {
        let due = dispatcher.due();
        tokio::select! {
            Some(arrival) = arriving.recv() => {
                let more = std::iter::from_fn(|| arriving.try_recv().ok()).take(ARRIVALS_MAX - 1);
                let arrivals: Vec<Arrival> = std::iter::once(arrival).chain(more).collect();
                dispatcher.welcome(arrivals).await;
            }
            events = cursor.next() => match events {
                Ok(events) => dispatcher.after(&events, cursor.position()),
                // Too far behind, or the state did not come event by event.
                Err(_) => {
                    let view = door.view();
                    tracing::debug!(revision = view.revision().0, "nodes are told what views differ in");
                    cursor = door.watch(None, view.revision());
                    dispatcher.catch_up(view);
                }
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => (),
            () = further(&mut contained, &hub), if dispatcher.leaving.is_waiting() => (),
        }
        if dispatcher.due().is_some_and(|due| due <= Instant::now()) {
            dispatcher.tell();
        }
        dispatcher.release(&mut contained);
    }
}

/// Waits until all nodes contain more.
async fn further(contained: &mut Option<tokio::sync::watch::Receiver<Revision>>, hub: &Hub) {
    // The hub holds the other end.
    let _ = contained.get_or_insert_with(|| hub.contained()).changed().await;
}

struct Dispatcher {
    door: Arc<dyn Door>,
    hub: Arc<Hub>,
    issue: Arc<dyn Issue>,
    board: Board,
    leaving: Leaving,
    sessions: BTreeMap<Name, Arc<Session>>,
    /// Events since the oldest view of a newcomer.
    recent: Vec<Event>,
    /// How far the log of events has been read.
    place: Place,
    /// When all were told something last, and how long that took them.
    told: (Instant, Duration),
}

impl Dispatcher {
    fn new(door: Arc<dyn Door>, hub: Arc<Hub>, issue: Arc<dyn Issue>) -> Dispatcher {
        let view = door.view();
        let (board, told) = (Board::new(&view), (Instant::now(), Duration::ZERO));
        let (leaving, sessions, recent) = (Leaving::default(), BTreeMap::new(), Vec::new());
        Dispatcher { door, hub, issue, board, leaving, sessions, recent, place: Place::new(view), told }
    }

    fn begin(&self) -> Box<dyn Cursor> {
        self.hub.has_told(self.board.told());
        self.door.watch(None, self.board.position())
    }

    /// When what concerns all is to be told.
    fn due(&self) -> Option<Instant> {
        let (at, took) = self.told;
        let pause = self.board.haste().pause(took, self.leaving.is_waiting());
        self.board.has_to_tell().then_some(at + pause)
    }

    async fn welcome(&mut self, arrivals: Vec<Arrival>) {
        let arrivals: Vec<Arrival> =
            arrivals.into_iter().filter(|arrival| self.hub.is_current(&arrival.session)).collect();
        let view = self.door.view();
        // Those who have been told the same share the work.
        let mut by_place: BTreeMap<Revision, Vec<Arc<Session>>> = BTreeMap::new();
        arrivals.into_iter().for_each(|Arrival { session, from }| by_place.entry(from).or_default().push(session));
        for (from, sessions) in by_place {
            let since = self.since(from, &view).await;
            self.welcome_to(&sessions, &view, since.as_deref());
        }
        if self.hub.has_nodes(view.count(&NODES)) {
            self.welcome_all();
        }
    }

    /// What has happened between a revision and a view; `None` if the log does not reach back, or the node is ahead of this
    /// cluster.
    async fn since(&self, from: Revision, view: &View) -> Option<Vec<Event>> {
        if from == Revision::ZERO || from > view.revision() {
            return None;
        }
        let mut events = Vec::new();
        if from < view.revision() {
            let mut cursor = self.door.watch(None, from);
            while cursor.position() < view.revision() {
                events.extend(cursor.next().await.ok()?);
            }
            events.retain(|event| event.revision <= view.revision());
        }
        Some(events)
    }

    fn welcome_to(&mut self, sessions: &[Arc<Session>], view: &View, since: Option<&[Event]>) {
        let names: Vec<Name> = sessions.iter().map(|session| session.node.clone()).collect();
        let deltas = self.board.welcome(&names, view, since);
        for (session, delta) in sessions.iter().zip(deltas) {
            self.sessions.insert(session.node.clone(), session.clone());
            self.leaving.begin(&session.node, view);
            session.owes(view.revision());
            self.send_all(session, &delta);
        }
    }

    fn after(&mut self, events: &[Event], position: Revision) {
        let view = self.door.view();
        self.take(events, &view, position);
        self.place.read(events, position, &view);
    }

    /// Nodes are told what they have missed where the log of events no longer says it. Telling all of them everything
    /// would take a busy server so long that it would be behind again.
    fn catch_up(&mut self, view: View) {
        // They have been told of views beyond the place, of which nobody knows any more what became of them.
        for node in self.board.newcomers().cloned().collect::<Vec<_>>() {
            if let Some(session) = self.part(&node) {
                self.hub.arrives(session, Revision::ZERO);
            }
        }
        let missed = self.place.missed(&view, &TOLD);
        self.take(&missed, &view, view.revision());
        self.place = Place::new(view);
    }

    fn take(&mut self, events: &[Event], view: &View, position: Revision) {
        let told = self.board.after(events, view, position);
        self.leaving.after(events, |node| self.sessions.contains_key(node));
        if self.board.has_newcomers() {
            self.recent.extend(events.iter().cloned());
        }
        for told in told {
            self.say(told);
        }
        self.hub.has_told(self.board.told());
        if events.iter().any(is_about_servers) {
            self.welcome_all();
        }
        let is_new = |event: &Event| event.object.key.resource == NODES && event.kind == EventKind::Added;
        if events.iter().any(is_new) && self.hub.has_nodes(view.count(&NODES)) {
            self.welcome_all();
        }
    }

    /// Tells all what concerns all, and makes newcomers some of them.
    fn tell(&mut self) {
        let view = self.door.view();
        if let Some(delta) = self.board.tell(&view) {
            let settled: Vec<Name> = self.board.settled().cloned().collect();
            self.told = (Instant::now(), COST * settled.len() as u32);
            for node in settled {
                self.say(Told { node, delta: delta.clone(), data_path: true });
            }
        }
        for told in self.board.settle(&self.recent, &view) {
            self.say(told);
        }
        if !self.board.has_newcomers() {
            self.recent.clear();
        }
        self.hub.has_told(self.board.told());
    }

    fn say(&mut self, told: Told) {
        let Some(session) = self.sessions.get(&told.node).cloned() else { return };
        if told.data_path {
            session.owes(self.board.told());
        }
        self.send_all(&session, &told.delta);
    }

    fn send_all(&mut self, session: &Arc<Session>, delta: &[Bytes]) {
        for part in delta {
            if !self.send(session, to_node::Message::Delta(part.clone())) {
                return;
            }
        }
    }

    /// A session whose queue is full is told the difference when it has room again; one that is over is told nothing more.
    fn send(&mut self, session: &Arc<Session>, message: to_node::Message) -> bool {
        if session.try_send(message).is_ok() {
            return true;
        }
        self.part(&session.node);
        // What it has acknowledged it holds, and more may be on the way.
        let from = session.acknowledged();
        let (hub, session) = (self.hub.clone(), session.clone());
        tokio::spawn(async move {
            if session.has_room().await.is_ok() {
                hub.arrives(session, from);
            }
        });
        false
    }

    /// A node is told nothing until it arrives again.
    fn part(&mut self, node: &Name) -> Option<Arc<Session>> {
        self.leaving.end(node);
        self.board.leave(node);
        let session = self.sessions.remove(node);
        session.iter().for_each(|session| session.is_behind());
        session
    }

    fn release(&mut self, contained: &mut Option<tokio::sync::watch::Receiver<Revision>>) {
        if !self.leaving.is_waiting() {
            *contained = None;
            return;
        }
        let all = contained.as_mut().map_or(Revision::ZERO, |contained| *contained.borrow_and_update());
        for release in self.leaving.released(&self.door.view(), all) {
            if let Some(session) = self.sessions.get(&release.node).cloned() {
                self.send(&session, to_node::Message::Released(Released { uid: release.uid }));
            }
        }
    }

    /// Which servers there are, and how often to beat, have changed.
    fn welcome_all(&mut self) {
        let welcome = welcome(&self.hub, &*self.issue);
        for session in self.sessions.values().cloned().collect::<Vec<_>>() {
            self.send(&session, to_node::Message::Welcome(welcome.clone()));
        }
    }
}

/// Tells an agent which servers there are, so that it knows where to go when this one is gone.
pub fn welcome(hub: &Hub, issue: &dyn Issue) -> Welcome {
    Welcome { heartbeat_milliseconds: hub.heartbeat().as_millis() as u32, servers: issue.servers() }
}

/// The servers stand as the endpoints of `kubernetes`, which change with every change of the members.
fn is_about_servers(event: &Event) -> bool {
    let key = &event.object.key;
    key.resource == ENDPOINT_SLICES && key.namespace() == "default" && key.name() == "kubernetes"
}
