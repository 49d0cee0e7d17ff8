//! The node front of a leader, without its tasks: sessions, what each is told and has acknowledged, who lives.
//!
//! What nodes are told, when a leaving pod is released and what a report amounts to is decided by the real code
//! (`copepod_nodes::rules`); the order of things is that of `control-plane/nodes/src/dispatch.rs`, `hub.rs`, `hearing.rs` and
//! `silence.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use copepod_api::{Request, Revision, Timestamp, User, resource::NODES, time::rfc3339};
use copepod_nodes::rules::{Backlog, Board, Leaving, Name, Parts, Readiness, Told, introduction, ready};
use copepod_proto::nodes::{PodStatus, StatusBatch};
use copepod_replica::{Replica, ReplicaCursor};
use copepod_store::{Cursor, Event, View};
use serde_json::Value;

use crate::{
    Mutation,
    dice::Dice,
    leading::drain,
    plan::{MS, SECOND},
};

/// As `pace.rs` has them, for a session that is open, for a node that has none, and for one that a new leader has not heard.
const HANG_MAX: u64 = 10 * SECOND;
const SILENCE_MAX: u64 = 4 * SECOND;
const RECONNECT_MAX: u64 = 8 * SECOND - SILENCE_MAX;

/// Between two looks at who is silent.
pub const LOOK_EVERY: u64 = 500 * MS;

/// Telling all something keeps a server busy for so long for each of them, at most.
const COST_MAX: u64 = 100 * MS;

/// What an agent says.
#[derive(Clone)]
pub enum Heard {
    Hello {
        node: String,
        link: u64,
        revision: u64,
        told: Value,
    },
    Beat {
        node: String,
        link: u64,
    },
    Acknowledged {
        node: String,
        link: u64,
        revision: u64,
    },
    Statuses {
        node: String,
        link: u64,
        pods: Vec<PodStatus>,
    },
    /// Nothing comes any more.
    Over {
        node: String,
        link: u64,
    },
}

/// What an agent is told.
#[derive(Clone)]
pub enum Down {
    Delta(Parts),
    Released(String),
    /// This server cannot serve it; perhaps that one.
    Elsewhere(Option<u64>),
}

pub struct Message {
    pub node: String,
    pub link: u64,
    pub what: Down,
}

/// Requests of the front that are under way.
pub enum Asked {
    Introduction {
        node: String,
        link: u64,
    },
    Silence {
        node: String,
    },
    /// Reports of a node, which are tried one by one if they are refused together.
    Reports {
        node: String,
        requests: Vec<Request>,
    },
    /// One of them, and those that are to be tried after it.
    Report {
        node: String,
        rest: Vec<Request>,
    },
}

type Asking = Vec<(Asked, Vec<Request>)>;

struct Session {
    link: u64,
    /// The newest delta that changed the node's data path, and the newest that it contains.
    sent: u64,
    acknowledged: u64,
}

impl Session {
    fn contained(&self, told: Revision) -> Revision {
        let acknowledged = Revision(self.acknowledged);
        if self.acknowledged >= self.sent { acknowledged.max(told) } else { acknowledged }
    }
}

pub struct Front {
    /// Agents that have said who they are and what they know, and about whose Nodes requests are under way.
    guests: BTreeMap<(String, u64), u64>,
    /// Introduced, and not told anything yet.
    arrived: Vec<(String, u64, u64)>,
    sessions: BTreeMap<String, Session>,
    /// What each node has said and nobody has asked to be written, and the nodes of whom something is being written.
    said: BTreeMap<String, Backlog>,
    writing: BTreeSet<String>,
    /// When each node was heard last.
    seen: BTreeMap<String, u64>,
    /// Nodes about whose silence a request is under way.
    judging: BTreeMap<String, u64>,
    /// Nodes that are as this server thinks of them, so that they need not be read again.
    noted: BTreeMap<String, (Revision, Readiness)>,
    board: Board,
    cursor: ReplicaCursor,
    /// Events since the oldest view of a newcomer.
    recent: Vec<Event>,
    leaving: Leaving,
    /// When all were told something last, and how long that took.
    told: (u64, u64),
    /// How long telling it takes for each of them: what thousands of nodes cost shows with a few.
    cost: u64,
    mutation: Option<Mutation>,
}

impl Front {
    pub fn begin(replica: &Replica, now: u64, dice: &mut Dice, mutation: Option<Mutation>) -> Front {
        let view = &replica.view();
        // A new leader has heard nobody yet.
        let nodes = view.objects(&NODES, None).map(|node| (node.key.name().to_owned(), now + RECONNECT_MAX));
        Front {
            guests: BTreeMap::new(),
            arrived: Vec::new(),
            sessions: BTreeMap::new(),
            said: BTreeMap::new(),
            writing: BTreeSet::new(),
            seen: nodes.collect(),
            judging: BTreeMap::new(),
            noted: BTreeMap::new(),
            board: Board::new(view),
            cursor: replica.watch(None, view.revision()),
            recent: Vec::new(),
            leaving: Leaving::default(),
            told: (now, 0),
            cost: if dice.chance(500) { 0 } else { dice.below(COST_MAX) },
            mutation,
        }
    }

    /// Whether such a session is here. Those of an earlier leadership are over.
    pub fn knows(&self, node: &str, link: u64) -> bool {
        self.sessions.get(node).is_some_and(|session| session.link == link)
            || self.guests.keys().any(|(guest, number)| guest == node && *number == link)
            || self.arrived.iter().any(|(guest, number, _)| guest == node && *number == link)
    }

    pub fn hear(&mut self, heard: Heard, view: &View, now: u64, clock: Timestamp) -> Asking {
        match heard {
            Heard::Hello { node, link, revision, told } => {
                self.seen.insert(node.clone(), now);
                let requests = introduction(view, &user(&node), &node, &told, &rfc3339(clock));
                if requests.is_empty() {
                    self.arrived.push((node, link, revision));
                    return Vec::new();
                }
                self.guests.insert((node.clone(), link), revision);
                vec![(Asked::Introduction { node, link }, requests)]
            }
            Heard::Over { node, link } => {
                self.guests.remove(&(node.clone(), link));
                if self.sessions.get(&node).is_some_and(|session| session.link == link) {
                    self.sessions.remove(&node);
                    self.board.leave(&node.as_str().into());
                    self.leaving.end(&node);
                }
                Vec::new()
            }
            Heard::Beat { node, link } => {
                self.is_heard(&node, link, now);
                Vec::new()
            }
            Heard::Acknowledged { node, link, revision } => {
                if let Some(session) = self.is_heard(&node, link, now) {
                    session.acknowledged = session.acknowledged.max(revision);
                }
                Vec::new()
            }
            Heard::Statuses { node, link, pods } => {
                if self.is_heard(&node, link, now).is_none() {
                    return Vec::new();
                }
                self.said.entry(node.clone()).or_default().add(StatusBatch { pods, ..StatusBatch::default() });
                self.write(node, view)
            }
        }
    }

    /// Has what a node said written down, unless something else of it is under way.
    fn write(&mut self, node: String, view: &View) -> Asking {
        if self.writing.contains(&node) {
            return Vec::new();
        }
        let Some(said) = self.said.get_mut(&node) else { return Vec::new() };
        while !said.is_empty() {
            let requests = said.take(view, &user(&node), &node);
            if !requests.is_empty() {
                self.writing.insert(node.clone());
                return vec![(Asked::Reports { node, requests: requests.clone() }, requests)];
            }
        }
        self.said.remove(&node);
        Vec::new()
    }

    fn is_heard(&mut self, node: &str, link: u64, now: u64) -> Option<&mut Session> {
        let session = self.sessions.get_mut(node).filter(|session| session.link == link)?;
        self.seen.insert(node.to_owned(), now);
        Some(session)
    }

    pub fn answer(&mut self, asked: Asked, is_done: bool, view: &View, messages: &mut Vec<Message>) -> Asking {
        match asked {
            Asked::Introduction { node, link } => {
                match self.guests.remove(&(node.clone(), link)) {
                    Some(revision) if is_done => self.arrived.push((node, link, revision)),
                    Some(_) => messages.push(Message { node, link, what: Down::Elsewhere(None) }),
                    None => (),
                }
                Vec::new()
            }
            Asked::Silence { node } => {
                self.judging.remove(&node);
                Vec::new()
            }
            Asked::Reports { node, requests } if !is_done && requests.len() > 1 => {
                self.write_alone(node, requests, view)
            }
            Asked::Report { node, rest } => self.write_alone(node, rest, view),
            Asked::Reports { node, .. } => self.write_alone(node, Vec::new(), view),
        }
    }

    /// The next of those that are tried one by one; after the last, what the node has said meanwhile.
    fn write_alone(&mut self, node: String, mut requests: Vec<Request>, view: &View) -> Asking {
        if requests.is_empty() {
            self.writing.remove(&node);
            return self.write(node, view);
        }
        let request = requests.remove(0);
        vec![(Asked::Report { node, rest: requests }, vec![request])]
    }

    /// Tells agents what concerns them, and looks who is silent.
    pub fn look(&mut self, replica: &Replica, now: u64, clock: Timestamp, messages: &mut Vec<Message>) -> Asking {
        let view = replica.view();
        for (node, link, revision) in std::mem::take(&mut self.arrived) {
            self.seen.insert(node.clone(), now);
            // It says everything again.
            self.said.remove(&node);
            self.welcome(&node, link, Revision(revision), replica, messages);
        }
        self.tell(replica, now, messages);
        let contained = match self.mutation {
            Some(Mutation::EarlyRelease) => Revision(u64::MAX),
            _ => self.least_contained(now),
        };
        for release in self.leaving.released(&view, contained) {
            if let Some(session) = self.sessions.get(&*release.node) {
                let (node, what) = (release.node.to_string(), Down::Released(release.uid));
                messages.push(Message { node, link: session.link, what });
            }
        }
        self.judge(&view, now, clock)
    }

    /// From where the node is, if the log still reaches back to there.
    fn welcome(&mut self, node: &str, link: u64, from: Revision, replica: &Replica, messages: &mut Vec<Message>) {
        let view = replica.view();
        let is_known = from > Revision::ZERO && from <= view.revision();
        let missed = is_known.then(|| drain(&mut replica.watch(None, from))).flatten();
        let told = self.board.welcome(&[node.into()], &view, missed.as_deref()).remove(0);
        self.leaving.begin(node, &view);
        self.sessions.insert(node.to_owned(), Session { link, sent: view.revision().0, acknowledged: 0 });
        messages.push(Message { node: node.to_owned(), link, what: Down::Delta(told.into()) });
    }

    fn tell(&mut self, replica: &Replica, now: u64, messages: &mut Vec<Message>) {
        let Some(events) = drain(&mut self.cursor) else {
            let view = replica.view();
            (self.board, self.cursor) = (Board::new(&view), replica.watch(None, view.revision()));
            self.recent.clear();
            let sessions: Vec<(String, u64)> =
                self.sessions.iter().map(|(node, session)| (node.clone(), session.link)).collect();
            for (node, link) in sessions {
                self.welcome(&node, link, Revision::ZERO, replica, messages);
            }
            return;
        };
        let view = replica.view();
        let told = self.board.after(&events, &view, self.cursor.position());
        self.leaving.after(&events, |node| self.sessions.contains_key(node));
        if self.board.has_newcomers() {
            self.recent.extend(events);
        }
        told.into_iter().for_each(|told| self.say(told, messages));
        if self.due().is_some_and(|due| due <= now) {
            self.tell_all(&view, now, messages);
        }
    }

    /// When what concerns all is to be told.
    fn due(&self) -> Option<u64> {
        let (at, took) = self.told;
        let pause = self.board.haste().pause(Duration::from_micros(took), self.leaving.is_waiting());
        self.board.has_to_tell().then_some(at + pause.as_micros() as u64)
    }

    /// How long until it has to look again, if nothing happens.
    pub fn pause(&self, now: u64) -> u64 {
        self.due().map_or(LOOK_EVERY, |due| due.saturating_sub(now).clamp(1, LOOK_EVERY))
    }

    fn tell_all(&mut self, view: &View, now: u64, messages: &mut Vec<Message>) {
        if let Some(delta) = self.board.tell(view) {
            let settled: Vec<Name> = self.board.settled().cloned().collect();
            self.told = (now, self.cost * settled.len() as u64);
            for node in settled {
                self.say(Told { node, delta: delta.clone(), data_path: true }, messages);
            }
        }
        for told in self.board.settle(&self.recent, view) {
            self.say(told, messages);
        }
        if !self.board.has_newcomers() {
            self.recent.clear();
        }
    }

    fn say(&mut self, told: Told, messages: &mut Vec<Message>) {
        let Some(session) = self.sessions.get_mut(&*told.node) else { return };
        if told.data_path {
            session.sent = self.board.told().0;
        }
        let (node, what) = (told.node.to_string(), Down::Delta(told.delta));
        messages.push(Message { node, link: session.link, what });
    }

    /// Whether a node is not taken for dead.
    fn is_alive(&self, node: &str, now: u64) -> bool {
        let max = if self.sessions.contains_key(node) { HANG_MAX } else { SILENCE_MAX };
        self.seen.get(node).is_some_and(|at| now.saturating_sub(*at) <= max)
    }

    /// What the data paths of all nodes contain that have not been silent for too long.
    fn least_contained(&self, now: u64) -> Revision {
        let told = match self.mutation {
            Some(Mutation::CountUntold) => self.board.position(),
            _ => self.board.told(),
        };
        let living = self.seen.keys().filter(|node| self.is_alive(node, now));
        let contained =
            living.map(|node| self.sessions.get(node).map_or(Revision::ZERO, |session| session.contained(told)));
        contained.min().unwrap_or(Revision::ZERO)
    }

    fn judge(&mut self, view: &View, now: u64, clock: Timestamp) -> Asking {
        let front = User::system("system:node-front");
        self.seen.retain(|node, _| {
            self.sessions.contains_key(node) || view.object(&copepod_api::Key::new(NODES, "", node.as_str())).is_some()
        });
        let mut asking = Vec::new();
        for node in view.objects(&NODES, None) {
            let name = node.key.name();
            let is_alive = self.is_alive(name, now);
            let readiness = if is_alive { Readiness::Alive } else { Readiness::Silent };
            if self.judging.contains_key(name) || self.noted.get(name) == Some(&(node.revision, readiness)) {
                continue;
            }
            match ready(view, &front, name, readiness, &rfc3339(clock)) {
                Some(request) => {
                    self.judging.insert(name.to_owned(), now);
                    asking.push((Asked::Silence { node: name.to_owned() }, vec![request]));
                }
                None => drop(self.noted.insert(name.to_owned(), (node.revision, readiness))),
            }
        }
        asking
    }
}

fn user(node: &str) -> User {
    User { name: format!("system:node:{node}").into(), groups: vec!["system:nodes".into()], ..User::default() }
}
