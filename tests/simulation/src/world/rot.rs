//! Disks that rot, and what people do about them: what `docs/operations.md` tells them to.

use copepod_replica::SnapshotError;

use super::*;
use crate::disk::Rot;

impl Host {
    /// It has been started, and has refused: nobody tries again.
    pub(super) fn is_given_up(&self) -> bool {
        self.refuses || self.is_gone
    }
}

impl World {
    pub(super) fn rot(&mut self, id: u64, what: Rot, is_down: bool, for_: u64) {
        // A majority must be whole, and one who joins has nothing yet that could rot.
        let is_busy = self.joining.is_some() || self.hosts.values().any(|host| host.disk.is_rotten() && !host.is_gone);
        let members = self.leader().and_then(|leader| self.running(leader)).map(|server| server.replica.members());
        let n_voters = members.map_or(0, |members| members.iter().filter(|member| !member.learner).count());
        if is_busy || n_voters < 3 || self.hosts[&id].server.is_none() {
            return;
        }
        if is_down {
            self.hosts[&id].disk.write_back();
            let loses_power = self.dice.chance(500);
            self.crash(id, loses_power, for_);
        }
        let Some(host) = self.hosts.get(&id) else { return };
        let (life, rotten) = (host.life, host.disk.rot(what));
        if let Some(file) = rotten {
            self.tell(format!("s{id} rots in {file}"));
            self.after(for_, Event::Rotted { to: id, life });
        }
    }

    pub(super) fn rotted(&mut self, id: u64, life: u64) {
        if self.alive(id, life).is_some() {
            self.crash(id, false, MS);
        }
    }

    /// A server that refuses its disk is removed, and another one joins.
    pub(super) fn replace(&mut self, id: u64) {
        let leader = self.leader().filter(|_| self.joining.is_none());
        let Some(server) = leader.and_then(|leader| self.running(leader)) else {
            return self.after(500 * MS, Event::Replace { id });
        };
        if server.replica.members().iter().any(|member| member.id == id) {
            server.leave(NOBODY, id);
            leader.into_iter().for_each(|leader| self.act(leader));
            return self.after(500 * MS, Event::Replace { id });
        }
        self.tell(format!("s{id} is given up"));
        if let Some(host) = self.hosts.get_mut(&id) {
            host.is_gone = true;
        }
        self.join();
    }
}

/// Whether a server does not start because of what is on its disk.
pub(super) fn is_damage(error: &OpenError) -> bool {
    match error {
        OpenError::Log(error) => !format!("{error:?}").starts_with("Io"),
        OpenError::Snapshot { error, .. } => !matches!(error, SnapshotError::Io(_)),
        _ => false,
    }
}
