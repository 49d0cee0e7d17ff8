//! Servers, clients and what lies between them, in one thread: the next event is taken, whoever it is for acts, and what
//! follows is put into the queue. Time passes between events and nowhere else.

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use copepod_api::{
    Action, Key, Request, Revision, Timestamp, User,
    k8s_openapi::api::core::v1::{ConfigMap, Namespace},
    resource::CONFIG_MAPS,
    time::SignedDuration,
};
use copepod_replica::{Member, OpenError, ReplicaCursor, Settled, SnapshotWork, TICK};
use copepod_store::{Cursor, View};
use serde_json::json;

use crate::{
    Mutation,
    calls::{Clients, Made},
    dice::Dice,
    disk::{Copied, SimDisk},
    facts::Facts,
    network::{CLIENT, Network, Storm},
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

/// A full disk is tried again after so long, as the thread does it.
const DISK_RETRY: u64 = 500 * MS;

/// Between two calls of a client in the calm.
const CALM_THINK: u64 = 300 * SECOND;

/// Lines of a trace that are kept.
const LINES_MAX: usize = 200;

/// A call that no client waits for.
const NOBODY: u64 = u64::MAX;

enum Event {
    Tick { to: u64, life: u64 },
    Messages { to: u64, messages: Vec<Bytes> },
    Snapshot { from: u64, life: u64, to: u64, message: Bytes, data: Vec<u8> },
    SnapshotSent { to: u64, life: u64, about: u64, arrived: bool },
    SnapshotWritten { to: u64, life: u64, work: SnapshotWork },
    Retry { to: u64, life: u64 },
    Start { to: u64 },
    Enroll { id: u64 },
    Found,
    Think { client: usize },
    Arrive { call: u64, to: u64, hops: u32 },
    Answer { call: u64, outcome: Outcome },
    GiveUp { call: u64 },
    Look { watcher: usize },
    Fault(usize),
    DiskFree { to: u64 },
    Retired { id: u64 },
    Calm,
    Judge,
    End,
}

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
    /// The disk as it was when the server started.
    first: Option<Copied>,
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
    is_calm: bool,
    joining: Option<u64>,
    hash: u64,
    trace: VecDeque<String>,
}

/// Runs a plan to its end, or to the first thing that must not be.
pub fn run(plan: &Plan) -> Report {
    let mut world = World::new(plan.clone());
    while world.facts.failure.is_none()
        && let Some(((at, _), event)) = world.queue.pop_first()
    {
        world.now = at;
        if matches!(event, Event::End) {
            break;
        }
        world.happens(event);
    }
    Report {
        seed: plan.seed,
        failure: world.facts.failure,
        hash: world.hash,
        simulated: world.now,
        n_calls: world.facts.n_calls,
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
            is_calm: false,
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
        world.after(calm_from + WELL_AFTER, Event::Judge);
        let calm = world.plan.calm;
        if calm > 0 {
            world.after(calm_from + WELL_AFTER + calm, Event::Judge);
        }
        world.after(calm_from + WELL_AFTER + calm + 1, Event::End);
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
                first: None,
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
                    server.replica.receive(messages);
                    self.act(to);
                }
            }
            Event::Snapshot { from, life, to, message, data } => {
                let arrived = match self.running(to) {
                    Some(server) => server.replica.receive_snapshot(message, &mut &data[..]).is_ok(),
                    None => false,
                };
                self.tell(format!("a snapshot from s{from} to s{to}: arrived={arrived}"));
                self.act(to);
                let delay = self.dice.between(1, 10) * MS;
                self.after(delay, Event::SnapshotSent { to: from, life, about: to, arrived });
            }
            Event::SnapshotSent { to, life, about, arrived } => {
                if let Some(server) = self.alive(to, life) {
                    server.snapshot_sent(about, arrived);
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
            Event::Calm => self.calm(),
            Event::Judge => self.judge(),
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

    /// Lets a server do what is to be done, and carries on what it says.
    fn act(&mut self, id: u64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(server) = &mut host.server else { return };
        let n_syncs = host.disk.with(|platter| platter.n_syncs);
        let settled = server.settle();
        let (outputs, ended, life) = (server.outputs(), server.ended(), host.life);
        let n_syncs = host.disk.with(|platter| platter.n_syncs) - n_syncs;
        let takes = if self.now < host.slow_until { host.sync_takes } else { MS / 5 };
        let took = n_syncs * takes;
        host.busy_until = self.now + took;
        for output in outputs {
            self.carry(id, life, took, output);
        }
        for (call, outcome) in ended {
            if call != NOBODY {
                for delay in self.network.carry(id, CLIENT, self.now, &mut self.dice) {
                    self.after(took + delay, Event::Answer { call, outcome: outcome.clone() });
                }
            }
        }
        match settled {
            Ok(Settled::Done) => self.observe(id),
            Ok(Settled::DiskFull) => self.after(DISK_RETRY, Event::Retry { to: id, life }),
            Err(error) => {
                self.tell(format!("s{id} ends: {error}"));
                let loses_power = self.dice.chance(500);
                self.crash(id, loses_power, SECOND);
            }
        }
    }

    fn carry(&mut self, from: u64, life: u64, took: u64, output: Out) {
        match output {
            Out::Messages { to, messages } => {
                for delay in self.network.carry(from, to, self.now, &mut self.dice) {
                    self.after(took + delay, Event::Messages { to, messages: messages.clone() });
                }
            }
            Out::Snapshot { to, message, data } => {
                let arrives = self.network.carry(from, to, self.now, &mut self.dice).first().copied();
                match arrives {
                    Some(delay) => self.after(took + delay, Event::Snapshot { from, life, to, message, data }),
                    None => {
                        let failed = Event::SnapshotSent { to: from, life, about: to, arrived: false };
                        self.after(SECOND, failed);
                    }
                }
            }
            Out::Write(work) => {
                let takes = self.dice.between(1, 500) * MS;
                self.after(takes, Event::SnapshotWritten { to: from, life, work });
            }
        }
    }

    /// Takes down what a server shows: whether it leads, and what it has applied.
    fn observe(&mut self, id: u64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (Some(server), Some(cursor)) = (&host.server, &mut host.cursor) else { return };
        let role = server.replica.role();
        if role.borrow().leading {
            self.facts.leads(id, role.borrow().term);
        }
        let view = server.replica.view();
        if view.revision() < host.shown {
            self.facts.fail(format!("s{id} went back from revision {} to {}", host.shown, view.revision()));
        }
        if view.revision() == host.shown {
            return;
        }
        host.shown = view.revision();
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let next = cursor.next().as_mut().poll(&mut context);
            match next {
                Poll::Ready(Ok(events)) => events.iter().for_each(|event| self.facts.applied(id, event)),
                // It was sent a snapshot.
                Poll::Ready(Err(_)) => *cursor = server.replica.watch(None, view.revision()),
                Poll::Pending => break,
            }
        }
    }

    fn start(&mut self, id: u64) {
        let mutation = self.plan.mutation;
        let dice = Dice::of(self.dice.next(), 5);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if host.server.is_some() || host.is_gone {
            return;
        }
        host.life += 1;
        let life = host.life;
        if host.first.is_none() || mutation != Some(Mutation::Amnesia) {
            host.first = Some(host.disk.copy());
        }
        let opened = Server::open(id, host.disk.clone(), id == 1, host.contacts.clone(), dice, mutation);
        match opened {
            Ok(server) => {
                let view = server.replica.view();
                host.cursor = Some(server.replica.watch(None, view.revision()));
                host.shown = view.revision();
                host.server = Some(server);
                host.busy_until = 0;
                self.tell(format!("s{id} starts at revision {}", view.revision()));
                let first = self.dice.below(TICK.as_micros() as u64);
                self.after(first, Event::Tick { to: id, life });
                self.act(id);
            }
            Err(OpenError::Log(error)) if !format!("{error:?}").starts_with("Io") => {
                self.facts.fail(format!("s{id} cannot start: {error}"));
            }
            Err(error) => {
                host.disk.lose_power();
                self.tell(format!("s{id} cannot start yet: {error}"));
                self.after(SECOND, Event::Start { to: id });
            }
        }
    }

    fn crash(&mut self, id: u64, loses_power: bool, for_: u64) {
        let mutation = self.plan.mutation;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if host.server.take().is_none() {
            return;
        }
        host.cursor = None;
        host.life += 1;
        host.disk.with(|platter| platter.revive());
        if loses_power {
            host.disk.lose_power();
            if mutation == Some(Mutation::Amnesia)
                && let Some(first) = host.first.take()
            {
                host.disk.put_back(first);
            }
        }
        self.tell(format!("s{id} is down, loses_power={loses_power}"));
        self.after(for_, Event::Start { to: id });
    }

    /// A new server becomes a member, and starts once it is one.
    fn enroll(&mut self, id: u64) {
        let leader = self.leader();
        if let Some(leader) = leader
            && let Some(server) = self.running(leader)
        {
            let members = server.replica.members();
            if let Some(member) = members.iter().find(|member| member.name == name(id)) {
                if member.id != id {
                    return self.facts.fail(format!("s{id} was given the id {}", member.id));
                }
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.contacts = members;
                }
                self.joining = None;
                self.tell(format!("s{id} is a member"));
                return self.start(id);
            }
            server.join(NOBODY, id);
            self.act(leader);
        }
        if !self.is_calm {
            self.after(500 * MS, Event::Enroll { id });
        }
    }

    /// What the clients need to be there.
    fn found(&mut self) {
        let Some(leader) = self.leader() else { return self.after(SECOND, Event::Found) };
        let user = User::system("admin");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        let action = Action::Create { object: namespace };
        let mut requests = vec![Request::of::<Namespace>(&user, "", "default", "", action)];
        requests.extend(self.clients.pair(&user));
        let now = self.time(leader);
        if let Some(server) = self.running(leader) {
            let _ = server.submit(NOBODY, &requests, now);
        }
        self.act(leader);
        self.clients.founded(&mut self.facts, self.number);
        for client in 0..self.plan.n_clients {
            self.after(SECOND + client as u64, Event::Think { client });
        }
        for watcher in 0..self.watchers.len() {
            self.after(SECOND, Event::Look { watcher });
        }
    }

    fn time(&self, id: u64) -> Timestamp {
        let ahead = self.hosts.get(&id).map_or(0, |host| host.clock_ahead);
        let passed = SignedDuration::from_micros(self.now as i64) + SignedDuration::from_secs(ahead);
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000) + passed
    }

    fn think(&mut self, client: usize) {
        if !self.is_calm && self.now > self.plan.calm_from + CLIENTS_END {
            return self.after(WELL_AFTER, Event::Think { client });
        }
        let end = self.plan.calm_from + WELL_AFTER + self.plan.calm;
        if self.is_calm && self.now + 2 * PATIENCE > end {
            return;
        }
        let there: Vec<u64> = self.hosts.iter().filter(|(_, host)| !host.is_gone).map(|(id, _)| *id).collect();
        let to = there[self.dice.below(there.len() as u64) as usize];
        self.number += 1;
        let call = self.number;
        self.clients.call(client, call, self.facts.newest(), self.plan.mutation);
        self.facts.n_calls += 1;
        for delay in self.network.carry(CLIENT, to, self.now, &mut self.dice) {
            self.after(delay, Event::Arrive { call, to, hops: 0 });
        }
        self.after(PATIENCE, Event::GiveUp { call });
    }

    fn arrive(&mut self, call: u64, to: u64, hops: u32) {
        let now = self.time(to);
        let Some(Made { requests, .. }) = self.clients.made(call) else { return };
        let requests = requests.clone();
        let Some(server) = self.running(to) else {
            return self.after(MS, Event::Answer { call, outcome: Outcome::Never });
        };
        if requests.is_empty() {
            server.read(call);
        } else if let Err(leader) = server.submit(call, &requests, now) {
            match leader.filter(|leader| hops < 2 && *leader != to) {
                Some(leader) => {
                    for delay in self.network.carry(to, leader, self.now, &mut self.dice).into_iter().take(1) {
                        self.after(delay, Event::Arrive { call, to: leader, hops: hops + 1 });
                    }
                }
                None => self.after(MS, Event::Answer { call, outcome: Outcome::Never }),
            }
        }
        self.act(to);
    }

    fn answer(&mut self, call: u64, outcome: Outcome) {
        let Some(client) = self.clients.client_of(call) else { return };
        self.number += 1;
        let line = self.clients.answer(call, &outcome, self.number, &mut self.facts);
        self.tell(line);
        self.hosts.values_mut().filter_map(|host| host.server.as_mut()).for_each(|server| server.forget(call));
        let think = if self.is_calm { CALM_THINK } else { self.plan.think };
        let pause = self.dice.between(MS, think);
        self.after(pause, Event::Think { client });
    }

    /// A watcher takes what is new, and now and then goes elsewhere.
    fn look(&mut self, place: usize) {
        let pause = if self.is_calm { 60 * SECOND } else { 200 * MS };
        self.after(pause, Event::Look { watcher: place });
        let running: Vec<u64> =
            self.hosts.iter().filter(|(_, host)| host.server.is_some()).map(|(id, _)| *id).collect();
        if running.is_empty() {
            return;
        }
        let leaves = self.dice.chance(30);
        let next = running[self.dice.below(running.len() as u64) as usize];
        let watcher = &mut self.watchers[place];
        let stays = watcher.at.as_ref().is_some_and(|(id, life, _)| {
            !leaves && self.hosts.get(id).is_some_and(|host| host.life == *life && host.server.is_some())
        });
        if !stays {
            let Some(Host { server: Some(server), life, .. }) = self.hosts.get(&next) else { return };
            let mut position = *watcher.position.get_or_insert_with(|| {
                watcher.from = server.replica.view().revision();
                watcher.from
            });
            if self.plan.mutation == Some(Mutation::LoseEvent) && watcher.at.is_some() {
                position = position.next();
            }
            watcher.at = Some((next, *life, server.replica.watch(Some(CONFIG_MAPS), position)));
        }
        let Some((id, _, cursor)) = &mut watcher.at else { return };
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let next = cursor.next().as_mut().poll(&mut context);
            match next {
                Poll::Ready(Ok(events)) => watcher.seen.extend(events.iter().map(|event| event.revision)),
                Poll::Ready(Err(_)) => {
                    // Too old: what is there now is listed, and watched from there.
                    if let Some(position) = watcher.position {
                        self.facts.watched(watcher.from, position, &watcher.seen);
                    }
                    let Some(Host { server: Some(server), .. }) = self.hosts.get(id) else { return };
                    watcher.from = server.replica.view().revision();
                    watcher.seen.clear();
                    *cursor = server.replica.watch(Some(CONFIG_MAPS), watcher.from);
                }
                Poll::Pending => break,
            }
        }
        watcher.position = Some(cursor.position());
    }

    fn fault(&mut self, fault: Fault) {
        // Numbers of servers are meant among those that are there.
        let there: Vec<u64> = self.hosts.iter().filter(|(_, host)| !host.is_gone).map(|(id, _)| *id).collect();
        let pick = |number: u64| there[(number % there.len() as u64) as usize];
        self.tell(format!("{fault:?}"));
        match fault {
            Fault::Crash { server, loses_power, for_ } => self.crash(pick(server), loses_power, for_),
            Fault::Blackout { for_ } => there.iter().for_each(|id| self.crash(*id, true, for_)),
            Fault::BadDisk { server, after } => {
                let disk = &self.hosts[&pick(server)].disk;
                disk.with(|platter| platter.fails_after = Some(after));
            }
            Fault::FullDisk { server, for_ } => {
                self.hosts[&pick(server)].disk.with(|platter| platter.is_full = true);
                self.after(for_, Event::DiskFree { to: pick(server) });
            }
            Fault::SlowDisk { server, sync, for_ } => {
                let until = self.now + for_;
                if let Some(host) = self.hosts.get_mut(&pick(server)) {
                    (host.sync_takes, host.slow_until) = (sync, until);
                }
            }
            Fault::Cut { from, to, for_ } => self.network.cut(pick(from), pick(to), self.now + for_),
            Fault::Isolate { server, for_ } => self.network.isolate(pick(server), self.now + for_),
            Fault::Storm { lost, doubled, late, for_ } => {
                self.network.storm(Storm { lost, doubled, late, until: self.now + for_ });
            }
            Fault::Clock { server, by } => {
                if let Some(host) = self.hosts.get_mut(&pick(server)) {
                    host.clock_ahead += by;
                }
            }
            Fault::Transfer => {
                if let Some(leader) = self.leader()
                    && let Some(server) = self.running(leader)
                {
                    server.replica.hand_over();
                    self.act(leader);
                }
            }
            Fault::Join => {
                let id = self.hosts.len() as u64 + 1;
                if self.joining.is_none() && id <= 9 {
                    self.joining = Some(id);
                    self.add_host(id);
                    self.enroll(id);
                }
            }
            Fault::Leave { server } => {
                let id = pick(server);
                let Some(leader) = self.leader() else { return };
                let Some(server) = self.running(leader) else { return };
                // Three at least stay.
                if server.replica.members().iter().filter(|member| !member.learner && member.id != id).count() >= 3 {
                    server.leave(NOBODY, id);
                    self.act(leader);
                    self.after(2 * SECOND, Event::Retired { id });
                }
            }
        }
    }

    /// A server that is no member any more is taken away.
    fn retired(&mut self, id: u64) {
        let Some(leader) = self.leader() else { return };
        let Some(server) = self.running(leader) else { return };
        if server.replica.members().iter().any(|member| member.id == id) {
            return;
        }
        self.tell(format!("s{id} is gone"));
        if let Some(host) = self.hosts.get_mut(&id) {
            (host.is_gone, host.server, host.cursor) = (true, None, None);
            host.life += 1;
        }
    }

    fn free(&mut self, id: u64) {
        if let Some(host) = self.hosts.get(&id) {
            host.disk.with(|platter| platter.is_full = false);
        }
    }

    /// From here on everything works.
    fn calm(&mut self) {
        self.tell("calm".to_owned());
        self.network.heal();
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            self.free(id);
            if let Some(host) = self.hosts.get_mut(&id) {
                (host.slow_until, host.clock_ahead) = (0, 0);
                host.disk.with(|platter| platter.fails_after = None);
            }
            if self.hosts[&id].server.is_none() && !self.hosts[&id].contacts.is_empty() || id == 1 {
                self.start(id);
            }
        }
    }

    /// All is well by now: one leads, all have the same, and what clients were told fits.
    fn judge(&mut self) {
        self.is_calm = true;
        self.tell("judged".to_owned());
        let Some(leader) = self.leader() else { return self.facts.fail("nobody leads".to_owned()) };
        let Some(server) = self.running(leader) else { return };
        let (view, members) = (server.replica.view(), server.replica.members());
        for member in members {
            if member.learner && self.joining != Some(member.id) {
                self.facts.fail(format!("{} does not vote yet", member.name));
            }
            let Some(server) = self.running(member.id) else { continue };
            let own = server.replica.view();
            if own.revision() != view.revision() || contents(&own) != contents(&view) {
                let (has, leads) = (own.revision(), view.revision());
                self.facts.fail(format!("{} is at {has} and the leader at {leads}, long after the calm", member.name));
            }
        }
        for place in 0..self.watchers.len() {
            self.look(place);
            let watcher = &self.watchers[place];
            if let Some(position) = watcher.position {
                self.facts.watched(watcher.from, position, &watcher.seen);
            }
        }
        self.number += 1;
        self.clients.last_look(&view, self.number, &mut self.facts);
        self.facts.judge(&view);
    }
}

fn contents(view: &View) -> Vec<(Key, Revision, Bytes)> {
    let objects = view.resources().flat_map(|resource| view.objects(resource, None));
    objects.map(|object| (object.key.clone(), object.revision, object.bytes().clone())).collect()
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
