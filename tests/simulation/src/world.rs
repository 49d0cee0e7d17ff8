//! Servers, clients and what lies between them, in one thread: the next event is taken, whoever it is for acts, and what
//! follows is put into the queue. Time passes between events and nowhere else.

mod clients;
mod cluster;
mod converged;
mod event;
mod faults;
mod hosts;
mod judge;
mod machines;
mod rot;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use copepod_api::{
    Action, Key, Request, Revision, Timestamp, User,
    k8s_openapi::api::core::v1::{ConfigMap, Namespace},
    resource::CONFIG_MAPS,
    time::SignedDuration,
};
use copepod_replica::{Member, OpenError, ReplicaCursor, Sent, Settled, TICK};
use copepod_store::{Cursor, View};
use serde_json::json;

use self::event::Event;
use crate::{
    Mutation,
    calls::{Clients, Made},
    chores::Chores,
    dice::Dice,
    disk::{Copied, SimDisk},
    facts::Facts,
    front::Heard,
    laws::Laws,
    leading::{Leading, Loop, OWN_CALLS},
    network::{CLIENT, Network, Storm},
    node::{Node, NodeEvent},
    plan::{Fault, MS, Plan, SECOND},
    server::{Out, Outcome, Server, name},
};

/// When the namespace and the objects of the clients are made: by then there are all servers.
const FOUNDED_AT: u64 = 11 * SECOND;

/// How long clients go on after the last fault, and how long after it all must be well.
const CLIENTS_END: u64 = 20 * SECOND;
const WELL_AFTER: u64 = 30 * SECOND;

/// A client waits no longer for an answer.
const PATIENCE: u64 = 3 * SECOND;

/// So many seconds in a row somebody may write when it is to be quiet.
const POSTPONED_MAX: u32 = 60;

/// A full disk is tried again after so long, as the thread does it.
const DISK_RETRY: u64 = 500 * MS;

/// Between two calls of a client in the calm.
const CALM_THINK: u64 = 300 * SECOND;

/// Lines of a trace that are kept.
const LINES_MAX: usize = 1000;

/// A call that no client waits for.
const NOBODY: u64 = u64::MAX;

/// A machine on which a server runs, or does not.
struct Host {
    disk: SimDisk,
    server: Option<Server>,
    /// How often it was started and stopped: what was meant for an earlier life is void.
    life: u64,
    contacts: Vec<Member>,
    /// Seconds.
    clock_ahead: i64,
    sync_takes: u64,
    slow_until: u64,
    busy_until: u64,
    is_gone: bool,
    cursor: Option<ReplicaCursor>,
    shown: Revision,
    /// When it showed something new.
    shown_at: u64,
    /// What it does while it leads a cluster with nodes.
    leading: Option<Leading>,
    woken: BTreeSet<Loop>,
    timers: BTreeMap<Loop, u64>,
    /// The disk as it was when the server started.
    first: Option<Copied>,
    /// Its server was started on a disk that has rotted, and refused that.
    refuses: bool,
}

/// Somebody who watches the config maps, at one server after the other.
struct Watcher {
    at: Option<(u64, u64, ReplicaCursor)>,
    position: Option<Revision>,
    from: Revision,
    seen: Vec<Revision>,
}

/// How a run went.
pub struct Report {
    pub seed: u64,
    pub failure: Option<String>,
    /// Of all that happened, in order.
    pub hash: u64,
    /// Microseconds.
    pub simulated: u64,
    pub n_calls: u64,
    /// Histories of which nobody knows whether they can be put in order.
    pub n_given_up: u64,
    pub n_bound: u64,
    pub trace: Vec<String>,
}

pub struct World {
    plan: Plan,
    now: u64,
    number: u64,
    queue: BTreeMap<(u64, u64), Event>,
    dice: Dice,
    hosts: BTreeMap<u64, Host>,
    network: Network,
    clients: Clients,
    watchers: Vec<Watcher>,
    facts: Facts,
    laws: Laws,
    nodes: Vec<Node>,
    links: BTreeMap<usize, cluster::Link>,
    n_links: u64,
    /// Where each agent was told to go.
    hints: BTreeMap<usize, u64>,
    chores: Chores,
    chores_made: BTreeMap<u64, (Vec<Request>, String)>,
    /// The newest version that there is, and what of it is to be started.
    version: u64,
    restarts: VecDeque<upgrade::Restart>,
    /// Nothing goes wrong any more.
    is_calmed: bool,
    is_calm: bool,
    /// How often it was too early to judge.
    postponed: u32,
    joining: Option<u64>,
    hash: u64,
    trace: VecDeque<String>,
}

/// Runs a plan to its end, or to the first thing that must not be.
pub fn run(plan: &Plan) -> Report {
    let mut world = World::new(plan.clone());
    while world.facts.failure.is_none()
        && world.laws.failure.is_none()
        && let Some(((at, _), event)) = world.queue.pop_first()
    {
        world.now = at;
        if matches!(event, Event::End) {
            if world.postponed == 0 {
                break;
            }
            world.after(2 * SECOND, Event::End);
            continue;
        }
        // A promise of ours that is broken ends a process: that is found like anything else.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.happens(event))) {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            world.facts.fail(format!("a panic: {}", text.unwrap_or("without a word")));
        }
    }
    Report {
        seed: plan.seed,
        failure: world.facts.failure.or(world.laws.failure),
        hash: world.hash,
        simulated: world.now,
        n_calls: world.facts.n_calls,
        n_given_up: world.facts.n_given_up,
        n_bound: world.laws.n_bound,
        trace: world.trace.into(),
    }
}

impl World {
    fn new(plan: Plan) -> World {
        let mut world = World {
            now: 0,
            number: 0,
            queue: BTreeMap::new(),
            dice: Dice::of(plan.seed, 3),
            hosts: BTreeMap::new(),
            network: Network::default(),
            clients: Clients::new(plan.n_clients, Dice::of(plan.seed, 4)),
            watchers: (0..2)
                .map(|_| Watcher { at: None, position: None, from: Revision::ZERO, seen: Vec::new() })
                .collect(),
            facts: Facts::default(),
            laws: Laws::default(),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            n_links: 0,
            hints: BTreeMap::new(),
            chores: Chores::new(plan.n_nodes, Dice::of(plan.seed, 7), plan.mutation),
            chores_made: BTreeMap::new(),
            version: 0,
            restarts: VecDeque::new(),
            is_calmed: false,
            is_calm: false,
            postponed: 0,
            joining: None,
            hash: 0,
            trace: VecDeque::new(),
            plan,
        };
        for id in 1..=world.plan.n_servers {
            world.add_host(id);
            if id > 1 {
                world.after(id * SECOND, Event::Enroll { id });
            }
        }
        world.after(0, Event::Start { to: 1 });
        world.after(FOUNDED_AT, Event::Found);
        for (place, (at, _)) in world.plan.faults.clone().into_iter().enumerate() {
            world.after(at, Event::Fault(place));
        }
        let calm_from = world.plan.calm_from;
        world.after(calm_from, Event::Calm);
        let well_at = calm_from + WELL_AFTER + world.begin_cluster();
        world.after(well_at, Event::Judge);
        let calm = world.plan.calm;
        if calm > 0 {
            world.after(well_at + calm, Event::Judge);
        }
        world.after(well_at + calm + 1, Event::End);
        world
    }

    fn add_host(&mut self, id: u64) {
        let disk = SimDisk::new(Dice::of(self.plan.seed, 100 + id));
        disk.with(|platter| platter.lies = self.plan.mutation == Some(Mutation::SkipSync));
        self.hosts.insert(
            id,
            Host {
                disk,
                server: None,
                life: 0,
                contacts: Vec::new(),
                clock_ahead: 0,
                sync_takes: 0,
                slow_until: 0,
                busy_until: 0,
                is_gone: false,
                cursor: None,
                shown: Revision::ZERO,
                shown_at: 0,
                leading: None,
                woken: BTreeSet::new(),
                timers: BTreeMap::new(),
                first: None,
                refuses: false,
            },
        );
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.number += 1;
        self.queue.insert((self.now + delay, self.number), event);
    }

    fn tell(&mut self, line: String) {
        self.note(crate::facts::hash(line.as_bytes()));
        if self.trace.len() >= LINES_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>10.3} {line}", self.now as f64 / SECOND as f64));
    }

    fn note(&mut self, what: u64) {
        for word in [self.now, what] {
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn happens(&mut self, event: Event) {
        let target = match &event {
            Event::Tick { to, .. }
            | Event::Messages { to, .. }
            | Event::Snapshot { to, .. }
            | Event::SnapshotSent { to, .. }
            | Event::SnapshotWritten { to, .. }
            | Event::Retry { to, .. }
            | Event::Loop { to, .. }
            | Event::Hear { to, .. }
            | Event::Arrive { to, .. } => Some(*to),
            _ => None,
        };
        self.note(target.unwrap_or(99));
        if let Some(to) = target {
            let busy = self.hosts.get(&to).map_or(0, |host| host.busy_until);
            if busy > self.now {
                return self.after(busy - self.now, event);
            }
        }
        match event {
            Event::Tick { to, life } => {
                if let Some(server) = self.alive(to, life) {
                    server.tick();
                    self.act(to);
                    self.after(TICK.as_micros() as u64, Event::Tick { to, life });
                }
            }
            Event::Messages { to, messages } => {
                if let Some(server) = self.running(to) {
                    server.receive(messages);
                    self.act(to);
                }
            }
            Event::Snapshot { from, life, to, message, data } => {
                let sent = match self.running(to) {
                    Some(server) => Sent::of(&server.replica.receive_snapshot(message, &mut &data[..])),
                    None => Sent::Lost,
                };
                self.tell(format!("a snapshot from s{from} to s{to}: {sent:?}"));
                self.act(to);
                let delay = self.dice.between(1, 10) * MS;
                self.after(delay, Event::SnapshotSent { to: from, life, about: to, sent });
            }
            Event::SnapshotSent { to, life, about, sent } => {
                if let Some(server) = self.alive(to, life) {
                    server.snapshot_sent(about, sent);
                    self.act(to);
                }
            }
            Event::SnapshotWritten { to, life, work } => {
                if let Some(server) = self.alive(to, life) {
                    server.write_snapshot(&work);
                    self.act(to);
                }
            }
            Event::Retry { to, life } => {
                if self.alive(to, life).is_some() {
                    self.act(to);
                }
            }
            Event::Start { to } => self.start(to),
            Event::Enroll { id } => self.enroll(id),
            Event::Found => self.found(),
            Event::Think { client } => self.think(client),
            Event::Arrive { call, to, hops } => self.arrive(call, to, hops),
            Event::Answer { call, outcome } => self.answer(call, outcome),
            Event::GiveUp { call } => self.answer(call, Outcome::Unknown),
            Event::Look { watcher } => self.look(watcher),
            Event::Fault(place) => self.fault(self.plan.faults[place].1),
            Event::DiskFree { to } => self.free(to),
            Event::Retired { id } => self.retired(id),
            Event::Rotted { to, life } => self.rotted(to, life),
            Event::Replace { id } => self.replace(id),
            Event::Restart { for_, is_told } => self.restart(for_, is_told),
            Event::Loop { to, life, which } => self.look_at(to, life, which),
            Event::Timer { to, life, which, at } => self.ring(to, life, which, at),
            Event::Hear { to, heard } => self.heard(to, heard),
            Event::Node { place, life, boot, event } => self.on_node(place, life, boot, event),
            Event::StartNode { place } => self.start_node(place),
            Event::Chore => self.chore(),
            Event::Calm => self.calm(),
            Event::Judge => self.judge(),
            Event::JudgeCluster => self.judge_cluster(),
            Event::End => (),
        }
    }

    fn running(&mut self, id: u64) -> Option<&mut Server> {
        self.hosts.get_mut(&id)?.server.as_mut()
    }

    fn alive(&mut self, id: u64, life: u64) -> Option<&mut Server> {
        let host = self.hosts.get_mut(&id)?;
        if host.life == life { host.server.as_mut() } else { None }
    }

    fn leader(&self) -> Option<u64> {
        let leads = |host: &Host| host.server.as_ref().is_some_and(|server| server.replica.role().borrow().leading);
        self.hosts.iter().find(|(_, host)| leads(host)).map(|(id, _)| *id)
    }
}

fn contents(view: &View) -> Vec<(Key, Revision, Bytes)> {
    let objects = view.resources().flat_map(|resource| view.objects(resource, None));
    objects.map(|object| (object.key.clone(), object.revision, object.bytes())).collect()
}

/// The key of a client's object.
pub fn key(name: &str) -> Key {
    Key::new(CONFIG_MAPS, "default", name.to_owned())
}

/// A request to make one.
pub fn create(user: &User, name: &str, value: u64) -> Request {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value.to_string()},
    });
    Request::of::<ConfigMap>(user, "default", name, "", Action::Create { object })
}
