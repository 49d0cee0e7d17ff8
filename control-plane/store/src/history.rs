//! The log of recent events.
//!
//! A watch is a place in the log, not a queue. With a queue per watcher, one slow reader costs memory or gets cut off. So
//! the log of events is kept once and a watcher is a number: the revision it has seen. Reading is a range over the log;
//! falling behind costs nothing until the log is compacted, and then the answer is 410 and a fresh list.
//!
//! All events stand in one line, in order. Most watches ask for one resource, and its events are few among those of busy
//! ones, so for each resource there is a list of the places of its events.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use copepod_api::{Object, Resource, Revision};

use crate::{Event, EventKind};

/// How much memory the log may hold in superseded objects. A resumed watch needs the last seconds; clients that come back
/// after longer list again, which is cheap here.
pub const HISTORY_BYTES_MAX: usize = 48 * 1024 * 1024;

/// What a superseded object takes beside its bytes, about: its names, labels and places.
const OBJECT_COST_BYTES: usize = 384;

/// How many events the log may hold, so that small objects do not make it long.
pub const HISTORY_EVENTS_MAX: usize = 200_000;

#[derive(Default)]
pub struct History {
    events: VecDeque<Event>,
    /// How many events were dropped before the first: a place is a number that stays when others are dropped.
    n_dropped: usize,
    /// The places of each resource's events.
    places: BTreeMap<Resource, VecDeque<usize>>,
    /// Of the objects that only this log holds: those that were replaced or deleted since.
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
        // What was decoded of the former state was of use while it was the present one.
        let bare = |object: Arc<Object>| if object.is_decoded() { Arc::new(object.apart()) } else { object };
        let event = Event { previous: event.previous.map(bare), ..event };
        self.bytes += superseded(&event);
        let place = self.n_dropped + self.events.len();
        let resource = &event.object.key.resource;
        match self.places.get_mut(resource) {
            Some(places) => places.push_back(place),
            None => drop(self.places.insert(resource.clone(), VecDeque::from([place]))),
        }
        self.events.push_back(event);
        while self.bytes > HISTORY_BYTES_MAX || self.events.len() > HISTORY_EVENTS_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.n_dropped += 1;
        self.bytes -= superseded(&event);
        if let Some(places) = self.places.get_mut(&event.object.key.resource) {
            places.pop_front();
        }
        self.compacted = event.revision;
    }

    /// Up to `limit` events of a resource after `revision`.
    pub fn after(&self, resource: &Resource, revision: Revision, limit: usize) -> Result<Vec<Event>, Compacted> {
        self.check(revision)?;
        let Some(places) = self.places.get(resource) else {
            return Ok(Vec::new());
        };
        let start = self.n_dropped + self.start(revision);
        let first = places.partition_point(|place| *place < start);
        let events = places.range(first..).take(limit).filter_map(|place| self.events.get(place - self.n_dropped));
        Ok(events.cloned().collect())
    }

    /// Up to `limit` events of all resources after `revision`, in order.
    pub fn after_any(&self, revision: Revision, limit: usize) -> Result<Vec<Event>, Compacted> {
        self.check(revision)?;
        Ok(self.events.range(self.start(revision)..).take(limit).cloned().collect())
    }

    pub fn oldest(&self) -> Revision {
        self.compacted
    }

    fn check(&self, revision: Revision) -> Result<(), Compacted> {
        if revision < self.compacted {
            return Err(Compacted { asked: revision, oldest: self.compacted });
        }
        Ok(())
    }

    /// Where the events after `revision` begin.
    fn start(&self, revision: Revision) -> usize {
        self.events.partition_point(|event| event.revision <= revision)
    }
}

/// What an event alone keeps in memory: the object that it replaced. The one it brought is in the view, until a later
/// event accounts for it.
fn superseded(event: &Event) -> usize {
    let deleted = Some(&event.object).filter(|_| event.kind == EventKind::Deleted);
    deleted.into_iter().chain(&event.previous).map(|object| object.size() + OBJECT_COST_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use copepod_api::{
        Body, Expect, Key, Op, Timestamp, Txn,
        resource::{CONFIG_MAPS, PODS},
    };
    use serde_json::json;

    use crate::View;

    /// Writes to `a` of each resource in turn, and keeps the events.
    fn written(resources: &[Resource], payload: &str) -> History {
        let (mut view, mut history) = (View::default(), History::default());
        for resource in resources {
            let body = Body::encode(&json!({"metadata": {"name": "a"}, "data": payload}));
            let op = Op::Put { key: Key::new(resource.clone(), "", "a"), body, expect: Expect::Any };
            let (next, events) = view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap();
            view = next;
            events.into_iter().for_each(|event| history.push(event));
        }
        history
    }

    fn revisions(events: Result<Vec<Event>, Compacted>) -> Vec<u64> {
        events.unwrap().iter().map(|event| event.revision.0).collect()
    }

    #[test]
    fn a_watch_sees_its_resource_and_a_watch_of_everything_sees_all_in_order() {
        let history = written(&[PODS, CONFIG_MAPS, PODS, PODS, CONFIG_MAPS], "");
        assert_eq!(revisions(history.after(&PODS, Revision(1), 9)), [3, 4]);
        assert_eq!(revisions(history.after(&CONFIG_MAPS, Revision(0), 1)), [2]);
        assert_eq!(revisions(history.after_any(Revision(1), 3)), [2, 3, 4]);
        assert!(revisions(history.after_any(Revision(5), 3)).is_empty());
    }

    #[test]
    fn what_is_dropped_is_told() {
        // Ten of them are too many.
        let payload = "x".repeat(HISTORY_BYTES_MAX / 8);
        let history = written(&vec![[PODS, PODS, CONFIG_MAPS]; 5].concat(), &payload);
        let oldest = history.oldest();
        assert!(oldest > Revision(3) && oldest < Revision(12));
        assert_eq!(history.after(&PODS, Revision(3), 9).unwrap_err(), Compacted { asked: Revision(3), oldest });
        let all = revisions(history.after_any(oldest, 99));
        assert_eq!(all, (oldest.0 + 1..=15).collect::<Vec<_>>());
        let mut two = revisions(history.after(&PODS, oldest, 99));
        two.extend(revisions(history.after(&CONFIG_MAPS, oldest, 99)));
        two.sort_unstable();
        assert_eq!(two, all);
    }

    #[test]
    fn a_former_state_is_not_kept_decoded() {
        let (view, mut history) = (View::default(), History::default());
        let put = |view: &View, text: &str| {
            let body = Body::encode(&json!({"metadata": {"name": "a"}, "text": text}));
            let op = Op::Put { key: Key::new(CONFIG_MAPS, "d", "a"), body, expect: Expect::Any };
            view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap()
        };
        let (view, _) = put(&view, "one");
        let former = view.object(&Key::new(CONFIG_MAPS, "d", "a")).unwrap().clone();
        assert_eq!(former.value()["text"], "one");
        put(&view, "two").1.into_iter().for_each(|event| history.push(event));
        let kept = history.after(&CONFIG_MAPS, Revision(1), 1).unwrap().remove(0).previous.unwrap();
        assert!(former.is_decoded() && !kept.is_decoded());
        assert_eq!((kept.bytes(), kept.revision), (former.bytes(), former.revision));
    }

    #[test]
    fn what_the_view_holds_anyway_is_not_counted() {
        let payload = "x".repeat(HISTORY_BYTES_MAX / 2);
        let kinds: Vec<Resource> = (0..5).map(|number| Resource::new("", format!("kind{number}"))).collect();
        assert_eq!(written(&kinds, &payload).oldest(), Revision::ZERO);
    }
}
