//! Another version for all: servers and then agents are restarted, one after the other, while everything goes on.

use super::*;

/// Before a server is stopped it hands over, for which it has so long.
const HANDS_OVER: u64 = 2 * SECOND;

/// Between two of them.
const REST: u64 = 2 * SECOND;

/// What is still to be restarted.
pub enum Restart {
    Server(u64),
    Agent(usize),
}

impl World {
    pub(super) fn upgrade(&mut self, for_: u64) {
        if !self.restarts.is_empty() {
            return;
        }
        self.version += 1;
        let servers = self.hosts.iter().filter(|(_, host)| host.server.is_some()).map(|(id, _)| Restart::Server(*id));
        let agents = (0..self.nodes.len()).map(Restart::Agent);
        self.restarts = servers.chain(agents).collect();
        self.after(0, Event::Restart { for_, is_told: false });
    }

    /// Restarts the next one. A server that leads is told to hand over first, once.
    pub(super) fn restart(&mut self, for_: u64, is_told: bool) {
        if self.is_calmed {
            self.restarts.clear();
        }
        match self.restarts.front() {
            None => return,
            Some(Restart::Server(id)) if !is_told && self.leader() == Some(*id) => {
                let id = *id;
                self.running(id).into_iter().for_each(|server| server.replica.hand_over());
                self.act(id);
                return self.after(HANDS_OVER, Event::Restart { for_, is_told: true });
            }
            Some(Restart::Server(id)) => self.crash(*id, false, for_),
            Some(Restart::Agent(place)) => {
                let place = *place;
                self.nodes[place].version = self.version;
                self.end_agent(place, for_);
            }
        }
        self.restarts.pop_front();
        self.after(for_ + REST, Event::Restart { for_, is_told: false });
    }
}
