//! The log of recent events.
//!
//! A watch is a place in the log, not a queue. With a queue per watcher, one slow reader costs memory or gets cut off. So
//! the log of events is kept once, per resource, and a watcher is a number: the revision it has seen. Reading is a range
//! over the log; falling behind costs nothing until the log is compacted, and then the answer is 410 and a fresh list.

use std::collections::{BTreeMap, VecDeque};

use copepod_api::{Resource, Revision};

use crate::Event;

/// How many bytes of superseded objects the log may hold. A resumed watch needs the last seconds; clients that come back
/// after longer list again, which is cheap here.
pub const HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How many events the log may hold, so that small objects do not make it long.
pub const HISTORY_EVENTS_MAX: usize = 200_000;

#[derive(Default)]
pub struct History {
    logs: BTreeMap<Resource, VecDeque<Event>>,
    /// The resources of all events in order, to drop the oldest first.
    order: VecDeque<(Resource, usize)>,
    bytes: usize,
    /// Everything up to here is gone.
    compacted: Revision,
}

/// The events asked for are no longer kept; list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Compacted {
    pub asked: Revision,
    pub oldest: Revision,
}

impl History {
    /// A history that begins after `revision`: what came before was never seen here (a snapshot).
    pub fn beginning(revision: Revision) -> History {
        History { compacted: revision, ..History::default() }
    }

    pub fn push(&mut self, event: Event) {
        let bytes = event.object.bytes().len();
        self.bytes += bytes;
        self.order.push_back((event.object.key.resource.clone(), bytes));
        self.logs.entry(event.object.key.resource.clone()).or_default().push_back(event);
        while self.bytes > HISTORY_BYTES_MAX || self.order.len() > HISTORY_EVENTS_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((resource, bytes)) = self.order.pop_front() else {
            return;
        };
        self.bytes -= bytes;
        if let Some(event) = self.logs.get_mut(&resource).and_then(VecDeque::pop_front) {
            self.compacted = event.revision;
        }
    }

    /// Up to `limit` events of a resource after `revision`.
    pub fn after(&self, resource: &Resource, revision: Revision, limit: usize) -> Result<Vec<Event>, Compacted> {
        if revision < self.compacted {
            return Err(Compacted { asked: revision, oldest: self.compacted });
        }
        let Some(log) = self.logs.get(resource) else {
            return Ok(Vec::new());
        };
        let start = log.partition_point(|event| event.revision <= revision);
        Ok(log.range(start..).take(limit).cloned().collect())
    }

    /// Up to `limit` events of all resources after `revision`, in order.
    pub fn after_any(&self, revision: Revision, limit: usize) -> Result<Vec<Event>, Compacted> {
        if revision < self.compacted {
            return Err(Compacted { asked: revision, oldest: self.compacted });
        }
        let mut events: Vec<Event> = Vec::new();
        for log in self.logs.values() {
            let start = log.partition_point(|event| event.revision <= revision);
            events.extend(log.range(start..).take(limit).cloned());
        }
        events.sort_by_key(|event| event.revision);
        events.truncate(limit);
        Ok(events)
    }

    pub fn oldest(&self) -> Revision {
        self.compacted
    }
}
