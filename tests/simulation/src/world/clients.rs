//! Clients of the config maps, and watchers.

use super::*;

impl World {
    /// What the clients need to be there.
    pub(super) fn found(&mut self) {
        let Some(leader) = self.leader() else { return self.after(SECOND, Event::Found) };
        let user = User::system("admin");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        let action = Action::Create { object: namespace };
        let mut requests = vec![Request::of::<Namespace>(&user, "", "default", "", action)];
        requests.extend(self.clients.pair(&user));
        if !self.nodes.is_empty() {
            requests.push(crate::chores::quota(&user));
        }
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

    pub(super) fn think(&mut self, client: usize) {
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

    pub(super) fn arrive(&mut self, call: u64, to: u64, hops: u32) {
        let now = self.time(to);
        let made = self.clients.made(call).map(|Made { requests, .. }| requests);
        let Some(requests) = made.or(self.chores_made.get(&call).map(|(requests, _)| requests)).cloned() else {
            return;
        };
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

    pub(super) fn answer(&mut self, call: u64, outcome: Outcome) {
        let Some(client) = self.clients.client_of(call) else { return self.chore_done(call, &outcome) };
        self.number += 1;
        let line = self.clients.answer(call, &outcome, self.number, &mut self.facts);
        self.tell(line);
        self.hosts.values_mut().filter_map(|host| host.server.as_mut()).for_each(|server| server.forget(call));
        let think = if self.is_calm { CALM_THINK } else { self.plan.think };
        let pause = self.dice.between(MS, think);
        self.after(pause, Event::Think { client });
    }

    /// A watcher takes what is new, and now and then goes elsewhere.
    pub(super) fn look(&mut self, place: usize) {
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
}
