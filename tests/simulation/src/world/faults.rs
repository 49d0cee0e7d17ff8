//! What goes wrong, and that it ends.

use super::*;

/// No more servers than that are brought in.
const HOSTS_MAX: usize = 9;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
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
            Fault::Rot { server, what, is_down, for_ } => self.rot(pick(server), what, is_down, for_),
            Fault::Join if self.joining.is_none() && self.hosts.len() < HOSTS_MAX => self.join(),
            Fault::Join => (),
            Fault::Upgrade { for_ } => self.upgrade(for_),
            Fault::AgentCrash { .. }
            | Fault::NodeOff { .. }
            | Fault::NodeDead { .. }
            | Fault::NodeCut { .. }
            | Fault::NodeClock { .. } => self.node_fault(fault),
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

    /// A server that is not there yet becomes a member.
    pub(super) fn join(&mut self) {
        let id = self.hosts.len() as u64 + 1;
        self.joining = Some(id);
        self.add_host(id);
        self.enroll(id);
    }

    /// A server that is no member any more is taken away.
    pub(super) fn retired(&mut self, id: u64) {
        let Some(leader) = self.leader() else { return };
        let Some(server) = self.running(leader) else { return };
        if server.replica.members().iter().any(|member| member.id == id) {
            return;
        }
        self.tell(format!("s{id} is gone"));
        if let Some(host) = self.hosts.get_mut(&id) {
            (host.is_gone, host.server, host.cursor, host.leading) = (true, None, None, None);
            host.life += 1;
        }
    }

    pub(super) fn free(&mut self, id: u64) {
        if let Some(host) = self.hosts.get(&id) {
            host.disk.with(|platter| platter.is_full = false);
        }
    }

    /// From here on everything works.
    pub(super) fn calm(&mut self) {
        self.tell("calm".to_owned());
        self.is_calmed = true;
        self.network.heal();
        self.calm_nodes();
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            self.free(id);
            if let Some(host) = self.hosts.get_mut(&id) {
                (host.slow_until, host.clock_ahead) = (0, 0);
                host.disk.with(|platter| platter.fails_after = None);
            }
            if self.hosts[&id].disk.is_rotten() {
                self.crash(id, false, MS);
            }
            if self.hosts[&id].server.is_none() && !self.hosts[&id].contacts.is_empty() || id == 1 {
                self.start(id);
            }
        }
    }
}
