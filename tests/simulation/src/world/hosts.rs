//! Servers on their hosts: they start, act, say things and end.

use super::*;

impl World {
    /// Lets a server do what is to be done, and carries on what it says.
    pub(super) fn act(&mut self, id: u64) {
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
            if call != NOBODY && call >= OWN_CALLS {
                self.own_answer(id, call, &outcome);
            } else if call != NOBODY {
                for delay in self.network.carry(id, CLIENT, self.now, &mut self.dice) {
                    self.after(took + delay, Event::Answer { call, outcome: outcome.clone() });
                }
            }
        }
        match settled {
            Ok(Settled::Done) => {
                self.observe(id);
                self.lead(id);
            }
            Ok(Settled::DiskFull) => self.after(DISK_RETRY, Event::Retry { to: id, life }),
            Err(error) => {
                self.tell(format!("s{id} ends: {error}"));
                let loses_power = self.dice.chance(500);
                self.crash(id, loses_power, SECOND);
            }
        }
    }

    pub(super) fn carry(&mut self, from: u64, life: u64, took: u64, output: Out) {
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
                        let failed = Event::SnapshotSent { to: from, life, about: to, sent: Sent::Lost };
                        self.after(SECOND, failed);
                    }
                }
            }
            Out::Write(work) => {
                let takes = self.dice.between(1, 500) * MS;
                self.after(takes, Event::SnapshotWritten { to: from, life, work: Box::new(work) });
            }
        }
    }

    /// Takes down what a server shows: whether it leads, and what it has applied.
    pub(super) fn observe(&mut self, id: u64) {
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
        (host.shown, host.shown_at) = (view.revision(), self.now);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let next = cursor.next().as_mut().poll(&mut context);
            match next {
                Poll::Ready(Ok(events)) => {
                    events.iter().for_each(|event| self.facts.applied(id, event));
                    if !self.nodes.is_empty() {
                        events.iter().for_each(|event| self.laws.saw(event, self.now));
                    }
                }
                // It was sent a snapshot.
                Poll::Ready(Err(_)) => *cursor = server.replica.watch(None, view.revision()),
                Poll::Pending => break,
            }
        }
        Loop::ALL.iter().for_each(|which| self.wake(id, *which));
    }

    pub(super) fn start(&mut self, id: u64) {
        let mutation = self.plan.mutation;
        let dice = Dice::of(self.dice.next(), 5);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if host.server.is_some() || host.is_given_up() {
            return;
        }
        host.life += 1;
        let life = host.life;
        if host.first.is_none() || mutation != Some(Mutation::Amnesia) {
            host.first = Some(host.disk.copy());
        }
        if mutation == Some(Mutation::ForgetSynced) {
            host.disk.lose("synced");
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
                if self.hosts[&id].disk.is_rotten() {
                    return self.facts.fail(format!("s{id} has started on a disk that had rotted"));
                }
                let first = self.dice.below(TICK.as_micros() as u64);
                self.after(first, Event::Tick { to: id, life });
                self.act(id);
            }
            Err(error) if rot::is_damage(&error) && host.disk.is_rotten() => {
                host.refuses = true;
                self.tell(format!("s{id} refuses to start: {error}"));
                self.after(SECOND, Event::Replace { id });
            }
            Err(error) if rot::is_damage(&error) => self.facts.fail(format!("s{id} cannot start: {error}")),
            Err(error) => {
                host.disk.lose_power();
                self.tell(format!("s{id} cannot start yet: {error}"));
                self.after(SECOND, Event::Start { to: id });
            }
        }
    }

    pub(super) fn crash(&mut self, id: u64, loses_power: bool, for_: u64) {
        let mutation = self.plan.mutation;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if host.server.take().is_none() {
            return;
        }
        (host.cursor, host.leading) = (None, None);
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
    pub(super) fn enroll(&mut self, id: u64) {
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

    pub(super) fn time(&self, id: u64) -> Timestamp {
        let ahead = self.hosts.get(&id).map_or(0, |host| host.clock_ahead);
        let passed = SignedDuration::from_micros(self.now as i64) + SignedDuration::from_secs(ahead);
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000) + passed
    }
}
