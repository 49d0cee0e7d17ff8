//! The node front of a leader, without its tasks: sessions, what each is told and has acknowledged, who lives.
//!
//! What nodes are told, when a leaving pod is released and what a report amounts to is decided by the real code
//! (`copepod_nodes::rules`); the order of things is that of `control-plane/nodes/src/service.rs` and `silence.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use copepod_api::{Request, Revision, Timestamp, User, resource::NODES, time::rfc3339};
use copepod_nodes::rules::{Feed, Leaving, Peers, Readiness, of_node, of_pod, ready};
use copepod_proto::nodes::{Delta, PodStatus};
use copepod_replica::{Replica, ReplicaCursor};
use copepod_store::{Cursor, View};
use serde_json::Value;

use crate::{
    Mutation,
    leading::drain,
    plan::{MS, SECOND},
};

/// As `hub.rs` has them.
const SILENCE_MAX: u64 = 4 * SECOND;
const RECONNECT_MAX: u64 = 4 * SECOND;

/// Between two looks at who is silent.
pub const LOOK_EVERY: u64 = 500 * MS;

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
    Delta(Delta),
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
    Ready {
        node: String,
        link: u64,
    },
    Silence {
        node: String,
    },
    /// Reports, which are tried one by one if they are refused together.
    Reports(Vec<Request>),
}

type Asking = Vec<(Asked, Vec<Request>)>;

/// An agent that has said who it is, and about whose Node requests are under way.
struct Guest {
    revision: u64,
    requests: VecDeque<Request>,
}

struct Session {
    link: u64,
    feed: Feed,
    cursor: ReplicaCursor,
    leaving: Leaving,
    /// Every event up to here has been looked at for the node.
    position: Revision,
    /// The newest delta that changed the node's data path, and the newest that it contains.
    sent: u64,
    acknowledged: u64,
}

impl Session {
    fn contained(&self) -> Revision {
        let acknowledged = Revision(self.acknowledged);
        if self.acknowledged >= self.sent { acknowledged.max(self.position) } else { acknowledged }
    }
}

pub struct Front {
    guests: BTreeMap<(String, u64), Guest>,
    /// Introduced, and not told anything yet.
    arrived: Vec<(String, u64, u64)>,
    sessions: BTreeMap<String, Session>,
    /// When each node was heard last.
    seen: BTreeMap<String, u64>,
    /// Nodes about whose silence a request is under way.
    judging: BTreeMap<String, u64>,
    peers: Arc<Peers>,
    mutation: Option<Mutation>,
}

impl Front {
    pub fn begin(view: &View, now: u64, mutation: Option<Mutation>) -> Front {
        // A new leader has heard nobody yet.
        let nodes = view.objects(&NODES, None).map(|node| (node.key.name().to_owned(), now + RECONNECT_MAX));
        Front {
            guests: BTreeMap::new(),
            arrived: Vec::new(),
            sessions: BTreeMap::new(),
            seen: nodes.collect(),
            judging: BTreeMap::new(),
            peers: Arc::default(),
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
                let requests = of_node(view, &user(&node), &node, &told).into();
                self.guests.insert((node.clone(), link), Guest { revision, requests });
                self.introduce(node, link, view, clock)
            }
            Heard::Over { node, link } => {
                self.guests.remove(&(node.clone(), link));
                if self.sessions.get(&node).is_some_and(|session| session.link == link) {
                    self.sessions.remove(&node);
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
                let user = user(&node);
                let requests: Vec<Request> = pods.iter().filter_map(|pod| of_pod(view, &user, &node, pod)).collect();
                if requests.is_empty() { Vec::new() } else { vec![(Asked::Reports(requests.clone()), requests)] }
            }
        }
    }

    fn is_heard(&mut self, node: &str, link: u64, now: u64) -> Option<&mut Session> {
        let session = self.sessions.get_mut(node).filter(|session| session.link == link)?;
        self.seen.insert(node.to_owned(), now);
        Some(session)
    }

    /// The next step on the way from a hello to a session.
    fn introduce(&mut self, node: String, link: u64, view: &View, clock: Timestamp) -> Asking {
        let Some(guest) = self.guests.get_mut(&(node.clone(), link)) else { return Vec::new() };
        if let Some(request) = guest.requests.pop_front() {
            return vec![(Asked::Introduction { node, link }, vec![request])];
        }
        match ready(view, &user(&node), &node, Readiness::Alive, &rfc3339(clock)) {
            Some(request) => vec![(Asked::Ready { node, link }, vec![request])],
            None => {
                self.open(node, link);
                Vec::new()
            }
        }
    }

    fn open(&mut self, node: String, link: u64) {
        let Some(guest) = self.guests.remove(&(node.clone(), link)) else { return };
        self.arrived.push((node, link, guest.revision));
    }

    pub fn answer(
        &mut self,
        asked: Asked,
        is_done: bool,
        view: &View,
        clock: Timestamp,
        messages: &mut Vec<Message>,
    ) -> Asking {
        match asked {
            Asked::Introduction { node, link } | Asked::Ready { node, link } if !is_done => {
                if self.guests.remove(&(node.clone(), link)).is_some() {
                    messages.push(Message { node, link, what: Down::Elsewhere(None) });
                }
                Vec::new()
            }
            Asked::Introduction { node, link } => self.introduce(node, link, view, clock),
            Asked::Ready { node, link } => {
                self.open(node, link);
                Vec::new()
            }
            Asked::Silence { node } => {
                self.judging.remove(&node);
                Vec::new()
            }
            Asked::Reports(requests) if !is_done && requests.len() > 1 => {
                requests.into_iter().map(|request| (Asked::Reports(Vec::new()), vec![request])).collect()
            }
            Asked::Reports(_) => Vec::new(),
        }
    }

    /// Tells agents what concerns them, and looks who is silent.
    pub fn look(&mut self, replica: &Replica, now: u64, clock: Timestamp, messages: &mut Vec<Message>) -> Asking {
        let view = replica.view();
        for (node, link, revision) in std::mem::take(&mut self.arrived) {
            self.seen.insert(node.clone(), now);
            let (session, delta) = self.session(&node, link, Revision(revision), replica);
            messages.push(Message { node: node.clone(), link, what: Down::Delta(delta) });
            self.sessions.insert(node, session);
        }
        self.tell(replica, &view, messages);
        let contained = match self.mutation {
            Some(Mutation::EarlyRelease) => Revision(u64::MAX),
            _ => self.least_contained(now),
        };
        for (node, session) in &mut self.sessions {
            for uid in session.leaving.released(&view, contained) {
                messages.push(Message { node: node.clone(), link: session.link, what: Down::Released(uid) });
            }
        }
        self.judge(&view, now, clock)
    }

    /// From where the node is, if the log still reaches back to there.
    fn session(&self, node: &str, link: u64, from: Revision, replica: &Replica) -> (Session, Delta) {
        let view = replica.view();
        let leaving = Leaving::of(node, &view);
        let position = view.revision();
        if from > Revision::ZERO && from <= position {
            let mut cursor = replica.watch(None, from);
            if let Some(events) = drain(&mut cursor) {
                let (mut feed, held) = Feed::resume(node, &self.peers, &view);
                let fed = feed.after(&events, &view, position);
                let is_path = fed.as_ref().is_some_and(|fed| fed.data_path);
                let mut changes = held.delta.changes;
                changes.extend(fed.into_iter().flat_map(|fed| fed.delta.changes));
                let sent = if is_path { position.0 } else { 0 };
                let session = Session { link, feed, cursor, leaving, position, sent, acknowledged: 0 };
                return (session, Delta { revision: position.0, reset: false, changes });
            }
        }
        let (feed, fed) = Feed::reset(node, &self.peers, &view);
        let cursor = replica.watch(None, position);
        let session = Session { link, feed, cursor, leaving, position, sent: position.0, acknowledged: 0 };
        (session, fed.delta)
    }

    fn tell(&mut self, replica: &Replica, view: &View, messages: &mut Vec<Message>) {
        let mut lost = Vec::new();
        for (node, session) in &mut self.sessions {
            let Some(events) = drain(&mut session.cursor) else {
                lost.push((node.clone(), session.link));
                continue;
            };
            if events.is_empty() {
                continue;
            }
            let position = session.cursor.position();
            session.leaving.after(node, &events);
            if let Some(fed) = session.feed.after(&events, view, position) {
                if fed.data_path {
                    session.sent = session.sent.max(fed.delta.revision);
                }
                messages.push(Message { node: node.clone(), link: session.link, what: Down::Delta(fed.delta) });
            }
            session.position = position;
        }
        for (node, link) in lost {
            let (session, delta) = self.session(&node, link, Revision::ZERO, replica);
            messages.push(Message { node: node.clone(), link, what: Down::Delta(delta) });
            self.sessions.insert(node, session);
        }
    }

    /// What the data paths of all nodes contain that have not been silent for too long.
    fn least_contained(&self, now: u64) -> Revision {
        let living = self.seen.iter().filter(|(_, at)| now.saturating_sub(**at) <= SILENCE_MAX);
        let contained = living.map(|(node, _)| self.sessions.get(node).map_or(Revision::ZERO, Session::contained));
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
            let is_alive = self.seen.get(name).is_some_and(|at| now.saturating_sub(*at) <= SILENCE_MAX);
            let readiness = if is_alive { Readiness::Alive } else { Readiness::Silent };
            if !self.judging.contains_key(name)
                && let Some(request) = ready(view, &front, name, readiness, &rfc3339(clock))
            {
                self.judging.insert(name.to_owned(), now);
                asking.push((Asked::Silence { node: name.to_owned() }, vec![request]));
            }
        }
        asking
    }
}

fn user(node: &str) -> User {
    User { name: format!("system:node:{node}").into(), groups: vec!["system:nodes".into()], ..User::default() }
}
