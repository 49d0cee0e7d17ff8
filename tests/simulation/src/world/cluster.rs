//! What there is beside the log: the loops of the leader, nodes with their sessions, people at work.

use super::*;
use crate::{
    front::{Down, Message},
    leading::Wishes,
    node::Up,
};

/// Nodes' ends of the network are numbered from here on.
const FIRST_NODE: u64 = 1000;

/// How long after the last fault all must be as it shall be, unless clocks were ahead: the longest back-off of a container
/// that had bad luck twice, and room for what begins only then.
const CONVERGED_AFTER: u64 = 100 * SECOND;

/// People go on for a while after the last fault.
const CHORES_END: u64 = 10 * SECOND;

/// Who is cut off without a word is noticed after so long.
pub(super) const NOTICED: (u64, u64) = (SECOND, 4 * SECOND);

/// A session as the network sees it.
pub struct Link {
    pub(super) number: u64,
    server: u64,
    begun_at: u64,
    /// When what was said last arrives: what is said later arrives later.
    up_at: u64,
    down_at: u64,
    /// When the server last heard it.
    heard_at: u64,
}

impl World {
    /// Puts the nodes there, if there are any; how much longer than a log such a cluster needs until all is well.
    pub(super) fn begin_cluster(&mut self) -> u64 {
        if self.plan.n_nodes == 0 {
            return 0;
        }
        for number in 1..=self.plan.n_nodes {
            let dice = Dice::of(self.plan.seed, 1000 + number);
            self.nodes.push(Node::new(number, FIRST_NODE + number, dice, self.plan.mutation));
            let place = self.nodes.len() - 1;
            self.after(FOUNDED_AT + SECOND + number, Event::StartNode { place });
        }
        self.after(FOUNDED_AT + 2 * SECOND, Event::Chore);
        // What was said to be at a time that has not come is waited for.
        let clocks = self.plan.faults.iter().map(|(_, fault)| match fault {
            Fault::Clock { by, .. } | Fault::NodeClock { by, .. } if *by > 0 => *by as u64 * SECOND,
            _ => 0,
        });
        let longer = CONVERGED_AFTER + clocks.sum::<u64>();
        self.after(self.plan.calm_from + longer, Event::JudgeCluster);
        longer
    }

    pub(super) fn start_node(&mut self, place: usize) {
        let now = self.node_time(place);
        self.nodes[place].start(now);
        self.flush(place);
    }

    pub(super) fn node_time(&self, place: usize) -> Timestamp {
        self.time(0) + SignedDuration::from_secs(self.nodes[place].clock_ahead)
    }

    // The leader.

    /// Begins and ends what only the leader does.
    pub(super) fn lead(&mut self, id: u64) {
        if self.nodes.is_empty() {
            return;
        }
        let dice = Dice::of(self.plan.seed, 8);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(server) = &host.server else { return };
        let (leads, term) = {
            let role = server.replica.role();
            let role = role.borrow();
            (role.leading, role.term)
        };
        let has_led = host.leading.as_ref().map(|leading| leading.term);
        if !leads {
            host.leading = None;
        } else if has_led != Some(term) {
            let mutation = self.plan.mutation;
            host.leading = Some(Leading::begin(term, &server.replica, self.now, dice, mutation));
            // Those of a life that is over wake nobody, and must not stand in for its own.
            host.timers.clear();
            Loop::ALL.iter().for_each(|which| self.wake(id, *which));
        }
    }

    pub(super) fn wake(&mut self, id: u64, which: Loop) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if host.leading.is_some() && host.woken.insert(which) {
            let life = host.life;
            let delay = self.dice.between(50, 2 * MS);
            self.after(delay, Event::Loop { to: id, life, which });
        }
    }

    pub(super) fn look_at(&mut self, id: u64, life: u64, which: Loop) {
        let clock = self.time(id);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.woken.remove(&which);
        let (Some(server), Some(leading)) = (&host.server, &mut host.leading) else { return };
        if host.life != life {
            return;
        }
        let wishes = leading.look(which, &server.replica, self.now, clock);
        self.grant(id, which, wishes);
        self.act(id);
    }

    fn grant(&mut self, id: u64, which: Loop, wishes: Wishes) {
        let clock = self.time(id);
        for (call, requests) in wishes.submissions {
            let Some(server) = self.running(id) else { return };
            if server.submit(call, &requests, clock).is_err() {
                self.own_answer(id, call, &Outcome::Never);
            }
        }
        for message in wishes.messages {
            self.say_down(id, message);
        }
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if let Some(again) = wishes.again {
            let at = self.now + again;
            if host.timers.get(&which).is_none_or(|other| at < *other || *other < self.now) {
                host.timers.insert(which, at);
                let life = host.life;
                self.after(again, Event::Timer { to: id, life, which, at });
            }
        }
    }

    pub(super) fn ring(&mut self, id: u64, life: u64, which: Loop, at: u64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        // One of a life that is over must not stand in for one of this life that is due at the same time.
        if host.life == life && host.timers.get(&which) == Some(&at) {
            host.timers.remove(&which);
            self.wake(id, which);
        }
    }

    pub(super) fn own_answer(&mut self, id: u64, call: u64, outcome: &Outcome) {
        let clock = self.time(id);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (Some(server), Some(leading)) = (&host.server, &mut host.leading) else { return };
        let view = server.replica.view();
        let (which, wishes) = leading.answer(call, outcome, &view, self.now, clock);
        let life = host.life;
        self.wake(id, which);
        if !wishes.submissions.is_empty() {
            self.after(1, Event::Retry { to: id, life });
        }
        self.grant(id, which, wishes);
    }

    // Sessions.

    /// An agent is heard at a server.
    pub(super) fn heard(&mut self, id: u64, heard: Heard) {
        let (node, link, is_hello) = match &heard {
            Heard::Hello { node, link, .. } => (node.clone(), *link, true),
            Heard::Over { node, link } => (node.clone(), *link, false),
            Heard::Beat { node, link }
            | Heard::Acknowledged { node, link, .. }
            | Heard::Statuses { node, link, .. } => (node.clone(), *link, false),
        };
        let (clock, now) = (self.time(id), self.now);
        let Some(place) = self.nodes.iter().position(|other| other.name == node) else { return };
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(server) = &host.server else {
            return self.sever(place, link, (MS, 5 * MS));
        };
        let Some(leading) = &mut host.leading else {
            if is_hello {
                let leader = server.replica.role().borrow().leader.as_ref().map(|leader| leader.id);
                return self.say_down(id, Message { node, link, what: Down::Elsewhere(leader.filter(|it| *it != id)) });
            }
            return self.sever(place, link, (MS, 5 * MS));
        };
        let is_over = matches!(heard, Heard::Over { .. });
        if !is_hello && !is_over && !leading.front.knows(&node, link) {
            return self.sever(place, link, (MS, 5 * MS));
        }
        if !is_over && let Some(link) = self.links.get_mut(&place).filter(|it| it.number == link) {
            link.heard_at = now;
        }
        // A beat changes nothing but when the node was heard, which is looked at now and then.
        let is_beat = matches!(heard, Heard::Beat { .. });
        let line = is_hello.then(|| format!("{node} says hello to s{id}, number {link}"));
        let wishes = leading.hear(heard, &server.replica.view(), now, clock);
        line.into_iter().for_each(|line| self.tell(line));
        if is_beat {
            return;
        }
        self.grant(id, Loop::Front, wishes);
        self.wake(id, Loop::Front);
        self.act(id);
    }

    fn say_down(&mut self, id: u64, Message { node, link, what }: Message) {
        let Some(place) = self.nodes.iter().position(|other| other.name == node) else { return };
        if self.links.get(&place).is_none_or(|it| it.number != link) {
            return;
        }
        let Some(delay) = self.network.stream(id, self.nodes[place].id, self.now, &mut self.dice) else {
            return self.sever(place, link, NOTICED);
        };
        if let Down::Elsewhere(leader) = &what {
            self.hints.remove(&place);
            leader.map(|leader| self.hints.insert(place, leader));
        }
        let Some(held) = self.links.get_mut(&place) else { return };
        held.down_at = held.down_at.max(self.now + delay) + 1;
        let delay = held.down_at - self.now;
        self.at_node(place, delay, NodeEvent::Down { link, what });
    }

    fn say_up(&mut self, place: usize, what: Up) {
        let node = self.nodes[place].name.clone();
        if let Up::Dial { .. } = what {
            let there: Vec<u64> = self.hosts.iter().filter(|(_, host)| !host.is_gone).map(|(id, _)| *id).collect();
            let any = there[self.dice.below(there.len() as u64) as usize];
            let server = self.hints.remove(&place).filter(|hint| there.contains(hint)).unwrap_or(any);
            self.n_links += 1;
            let (number, now) = (self.n_links, self.now);
            let link = Link { number, server, begun_at: now, up_at: now, down_at: now, heard_at: 0 };
            self.links.insert(place, link);
            self.nodes[place].linked(number);
        }
        let Some(Link { number, server, .. }) = self.links.get(&place) else { return };
        let (link, server) = (*number, *server);
        let heard = match what {
            Up::Dial { revision } => Heard::Hello { node, link, revision, told: self.nodes[place].told() },
            Up::Beat => Heard::Beat { node, link },
            Up::Acknowledged(revision) => Heard::Acknowledged { node, link, revision },
            Up::Statuses(pods) => Heard::Statuses { node, link, pods },
        };
        let Some(delay) = self.network.stream(self.nodes[place].id, server, self.now, &mut self.dice) else {
            return self.sever(place, link, NOTICED);
        };
        let Some(held) = self.links.get_mut(&place) else { return };
        held.up_at = held.up_at.max(self.now + delay) + 1;
        let delay = held.up_at - self.now;
        self.after(delay, Event::Hear { to: server, heard });
    }

    /// A connection does not hold any more, which both ends notice some time.
    pub(super) fn sever(&mut self, place: usize, link: u64, noticed: (u64, u64)) {
        let Some(held) = self.links.get(&place).filter(|held| held.number == link) else { return };
        let server = held.server;
        self.links.remove(&place);
        let (up, down) = (self.dice.between(noticed.0, noticed.1), self.dice.between(noticed.0, noticed.1));
        let node = self.nodes[place].name.clone();
        self.at_node(place, down, NodeEvent::Severed { link });
        self.after(up, Event::Hear { to: server, heard: Heard::Over { node, link } });
    }

    // Nodes.

    fn at_node(&mut self, place: usize, delay: u64, event: NodeEvent) {
        let (life, boot) = (self.nodes[place].life, self.nodes[place].boot);
        self.after(delay, Event::Node { place, life, boot, event });
    }

    pub(super) fn on_node(&mut self, place: usize, life: u64, boot: u64, event: NodeEvent) {
        let now = self.node_time(place);
        let node = &mut self.nodes[place];
        let is_of_machine = matches!(event, NodeEvent::Exit { .. });
        if node.boot != boot || (!is_of_machine && node.life != life) {
            return;
        }
        node.happens(event, now);
        self.flush(place);
    }

    /// Lets what a node has begun happen, and carries on what it says.
    fn flush(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let (events, says) = (std::mem::take(&mut node.events), std::mem::take(&mut node.says));
        let released = std::mem::take(&mut node.machine.released);
        if let Some(failure) = node.failure.take() {
            return self.facts.fail(failure);
        }
        for (delay, event) in events {
            self.at_node(place, delay, event);
        }
        for what in says {
            self.say_up(place, what);
        }
        released.iter().for_each(|uid| self.is_stopped(place, uid));
        let running = |node: &'_ Node| node.machine.running().map(|process| process.uid.clone()).collect::<Vec<_>>();
        let here = running(&self.nodes[place]);
        if !here.is_empty() {
            let all: Vec<String> = self.nodes.iter().flat_map(running).collect();
            self.laws.run(here.iter().map(String::as_str), all.iter().map(String::as_str));
        }
    }

    /// A pod gets its signal because it was released: no node that the leader hears may still send it requests.
    fn is_stopped(&mut self, place: usize, uid: &str) {
        let Some(link) = self.links.get(&place) else { return };
        let (leader, since) = (link.server, link.begun_at);
        let Some(withdrawn) = self.laws.withdrawn(uid) else {
            if self.laws.is_offered(uid) {
                self.facts.fail(format!("pod {uid} is stopped and still offered"));
            }
            return;
        };
        for (other, node) in self.nodes.iter().enumerate() {
            let Some(agent) = &node.agent else { continue };
            let Some(link) = self.links.get(&other) else { continue };
            let is_heard = link.server == leader && self.now < link.heard_at + 3 * SECOND;
            // It may have been away when the pod was released.
            let is_old = link.begun_at + 5 * SECOND < self.now && since + 5 * SECOND < self.now;
            if is_heard && is_old && agent.contained < withdrawn.0 {
                let (has, name) = (agent.contained, &node.name);
                let what = format!("pod {uid} is stopped, and {name} is at {has} and not at {withdrawn} yet");
                return self.facts.fail(what);
            }
        }
    }

    // People.

    pub(super) fn chore(&mut self) {
        let is_over = self.now > self.plan.calm_from + CHORES_END;
        let there: Vec<u64> = self.hosts.iter().filter(|(_, host)| !host.is_gone).map(|(id, _)| *id).collect();
        let to = there[self.dice.below(there.len() as u64) as usize];
        let view = self.hosts[&to].server.as_ref().map(|server| server.replica.view());
        let next = match &view {
            Some(view) if is_over => self.chores.tidy(view),
            Some(view) => self.chores.next(view, self.now),
            None => None,
        };
        let Some((requests, line)) = next else {
            if !is_over || view.is_none() {
                let pause = self.dice.between(100 * MS, 2 * SECOND);
                self.after(pause, Event::Chore);
            }
            return;
        };
        self.number += 1;
        let call = self.number;
        self.chores_made.insert(call, (requests, line));
        self.facts.n_calls += 1;
        for delay in self.network.carry(CLIENT, to, self.now, &mut self.dice) {
            self.after(delay, Event::Arrive { call, to, hops: 0 });
        }
        self.after(PATIENCE, Event::GiveUp { call });
    }

    pub(super) fn chore_done(&mut self, call: u64, outcome: &Outcome) {
        let Some((_, line)) = self.chores_made.remove(&call) else { return };
        let answer = match outcome {
            Outcome::Written(revision) => format!("revision {revision}"),
            Outcome::Refused(status) => format!("refused: {status}"),
            Outcome::Seen(_) | Outcome::Same => "nothing to do".to_owned(),
            Outcome::Never => "no".to_owned(),
            Outcome::Unknown => "no answer".to_owned(),
        };
        self.tell(format!("somebody: {line}: {answer}"));
        self.hosts.values_mut().filter_map(|host| host.server.as_mut()).for_each(|server| server.forget(call));
        let pause = self.dice.between(50 * MS, 2 * SECOND);
        self.after(pause, Event::Chore);
    }
}
