//! What a loop wants to happen.

use crate::{Request, Timestamp};

/// The result of one look at the world: what to change, when to look again, and why nothing (more) happens now.
///
/// A plan is complete (it names every node, address and object; nothing is left to choose when it is carried out) and
/// conditional (its requests state the revisions they rest on, and it is carried out whole or refused whole; a refused
/// plan is computed again from a newer view).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub requests: Vec<Request>,
    pub look_again: Option<Timestamp>,
    /// Sentences for `why`: what this loop is waiting for.
    pub reasons: Vec<String>,
}

impl Plan {
    pub fn nothing() -> Plan {
        Plan::default()
    }

    pub fn is_nothing(&self) -> bool {
        self.requests.is_empty() && self.look_again.is_none()
    }

    pub fn push(&mut self, request: Request) {
        self.requests.push(request);
    }

    /// Asks to be called again at `at`, or earlier where an earlier time was asked for already.
    pub fn look_again_at(&mut self, at: impl Into<Option<Timestamp>>) {
        if let Some(at) = at.into() {
            self.look_again = Some(self.look_again.map_or(at, |known| known.min(at)));
        }
    }

    pub fn because(&mut self, reason: impl Into<String>) {
        self.reasons.push(reason.into());
    }
}
