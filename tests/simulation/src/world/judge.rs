//! Whether all is well.

use super::*;

impl World {
    /// All is well by now: one leads, all have the same, and what clients were told fits.
    pub(super) fn judge(&mut self) {
        self.is_calm = true;
        self.tell("judged".to_owned());
        let Some(leader) = self.leader() else { return self.facts.fail("nobody leads".to_owned()) };
        if self.now < self.hosts[&leader].shown_at + SECOND && !self.nodes.is_empty() {
            // Somebody writes just now: the others may be behind by that.
            self.postponed += 1;
            if self.postponed > POSTPONED_MAX {
                return self.facts.fail("somebody writes all the time".to_owned());
            }
            return self.after(SECOND, Event::Judge);
        }
        self.postponed = 0;
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
