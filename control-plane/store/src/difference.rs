//! What has come of one view in a later one, as events.
//!
//! The log of events goes back a few seconds on a busy server. Whoever falls behind it but knows how things were where it was
//! need not begin anew: views share what has not changed, so what has is found by comparing places. Of each object there
//! is the last change only, as if those between had been one.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::{Key, Object, Resource, Revision};

use crate::{Event, EventKind, View};

/// A place in the log of events that is not lost when the log no longer reaches back to it.
///
/// It has a view from before the place and the events since; together they say how each object was at the place.
pub struct Place {
    before: View,
    /// Read after `before`, up to the place.
    since: Vec<Event>,
    /// To take the place of `before` when everything in it has been read.
    next: View,
}

impl Place {
    /// The end of a view.
    pub fn new(view: View) -> Place {
        Place { before: view.clone(), since: Vec::new(), next: view }
    }

    /// These events follow; `view` contains them, and `position` is where the place is now.
    pub fn read(&mut self, events: &[Event], position: Revision, view: &View) {
        self.since.extend(events.iter().cloned());
        if position >= self.next.revision() {
            self.before = std::mem::replace(&mut self.next, view.clone());
            self.since.retain(|event| event.revision > self.before.revision());
        }
    }

    /// The events that lead from the place to `now` in these resources: first what is gone, then the rest in the order in
    /// which it was written. An object that took the name of another is a deletion and an addition.
    pub fn missed(&self, now: &View, resources: &[Resource]) -> Vec<Event> {
        let mut since: BTreeMap<&Key, &Event> = BTreeMap::new();
        since.extend(self.since.iter().map(|event| (&event.object.key, event)));
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for resource in resources {
            let mut before = self.before.objects(resource, None).peekable();
            let mut now_there = now.objects(resource, None).peekable();
            let mut read = since.iter().filter(|(key, _)| key.resource == *resource).peekable();
            loop {
                let names = [before.peek(), now_there.peek()].into_iter().flatten().map(|object| &object.key.name);
                let Some(name) = names.chain(read.peek().map(|(key, _)| &key.name)).min().cloned() else { break };
                let is_it = |object: &&Arc<Object>| object.key.name == name;
                let (old, new) = (before.next_if(is_it), now_there.next_if(is_it));
                let old = match read.next_if(|(key, _)| key.name == name) {
                    Some((_, event)) if event.kind == EventKind::Deleted => None,
                    Some((_, event)) => Some(&event.object),
                    None => old,
                };
                change(old, new, now.revision(), &mut gone, &mut changed);
            }
        }
        changed.sort_by_key(|event: &Event| event.revision);
        gone.append(&mut changed);
        gone
    }
}

fn change(
    old: Option<&Arc<Object>>,
    new: Option<&Arc<Object>>,
    now: Revision,
    gone: &mut Vec<Event>,
    changed: &mut Vec<Event>,
) {
    let is_same = matches!((old, new), (Some(old), Some(new)) if old.meta.uid == new.meta.uid);
    if let Some(old) = old.filter(|_| !is_same) {
        // Before the one that took its name was written: whoever has heard of that has heard of this.
        gone.push(deleted(old, new.map_or(now, |new| Revision(new.revision.0 - 1))));
    }
    let previous = old.filter(|_| is_same).cloned();
    let kind = if is_same { EventKind::Modified } else { EventKind::Added };
    let news = new.filter(|new| previous.as_ref().is_none_or(|old| old.revision != new.revision)).cloned();
    changed.extend(news.map(|object| Event { revision: object.revision, kind, object, previous }));
}

fn deleted(object: &Arc<Object>, revision: Revision) -> Event {
    let last = Arc::new(object.at(revision));
    Event { revision, kind: EventKind::Deleted, object: last, previous: Some(object.clone()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use copepod_api::{
        Body, Expect, Op, Timestamp, Txn,
        resource::{CONFIG_MAPS, PODS},
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn put(resource: &Resource, name: &str, uid: &str, data: usize) -> Op {
        let body = Body::encode(&json!({"metadata": {"name": name, "uid": uid}, "data": data}));
        Op::Put { key: Key::new(resource.clone(), "d", name), body, expect: Expect::Any }
    }

    fn delete(resource: &Resource, name: &str) -> Op {
        Op::Delete { key: Key::new(resource.clone(), "d", name), expect: Expect::Any }
    }

    fn after(view: &View, ops: Vec<Op>) -> (View, Vec<Event>) {
        view.apply(&Txn { ops }, Timestamp::UNIX_EPOCH).unwrap()
    }

    fn told(events: &[Event]) -> Vec<(EventKind, &str)> {
        events.iter().map(|event| (event.kind, event.object.key.name())).collect()
    }

    #[test]
    fn each_change_is_told_once_and_as_what_it_came_to() {
        let before = ["gone", "again", "same", "changed"].map(|name| put(&PODS, name, name, 0));
        let (before, _) = after(&View::default(), before.into());
        let (now, _) = after(
            &before,
            vec![
                put(&PODS, "changed", "changed", 1),
                put(&PODS, "new", "new", 1),
                delete(&PODS, "gone"),
                delete(&PODS, "again"),
                put(&PODS, "again", "other", 1),
                put(&CONFIG_MAPS, "unasked", "", 1),
                put(&PODS, "changed", "changed", 2),
            ],
        );
        let events = Place::new(before).missed(&now, &[PODS]);
        assert_eq!(
            told(&events),
            [
                (EventKind::Deleted, "again"),
                (EventKind::Deleted, "gone"),
                (EventKind::Added, "new"),
                (EventKind::Added, "again"),
                (EventKind::Modified, "changed"),
            ]
        );
        assert!(events[0].revision < events[3].revision);
        assert_eq!(events[4].object.value()["data"], 2);
        assert_eq!(events[4].previous.as_ref().unwrap().value()["data"], 0);
        assert!(Place::new(now.clone()).missed(&now, &[PODS, CONFIG_MAPS]).is_empty());
    }

    #[test]
    fn what_was_read_since_is_not_missed() {
        let (begin, _) = after(&View::default(), vec![put(&PODS, "a", "a", 0), put(&PODS, "b", "b", 0)]);
        let mut place = Place::new(begin.clone());
        // Nothing has been read to the end since, so the place still counts from the beginning.
        let (later, read) = after(&begin, vec![put(&PODS, "a", "a", 1), put(&PODS, "c", "c", 0), delete(&PODS, "b")]);
        let (ahead, _) = after(&later, vec![put(&PODS, "d", "d", 0)]);
        place.read(&read[..1], read[0].revision, &ahead);
        place.read(&read[1..], later.revision(), &ahead);
        assert_eq!(told(&place.missed(&ahead, &[PODS])), [(EventKind::Added, "d")]);
        let (now, _) = after(&ahead, vec![delete(&PODS, "c"), put(&PODS, "a", "a", 2)]);
        let missed = place.missed(&now, &[PODS]);
        assert_eq!(told(&missed), [(EventKind::Deleted, "c"), (EventKind::Added, "d"), (EventKind::Modified, "a")]);
        assert_eq!(missed[2].previous.as_ref().unwrap().value()["data"], 1, "as it was read last");
    }

    fn changes() -> impl Strategy<Value = Vec<(u8, bool, usize)>> {
        prop::collection::vec((0u8..9, any::<bool>(), 0usize..3), 0..20)
    }

    proptest! {
        /// Whoever reads some events and misses the rest holds the later view all the same.
        #[test]
        fn the_events_lead_from_the_place_to_the_view(first in changes(), rounds in prop::collection::vec(changes(), 0..5), last in changes()) {
            let write = |changes: &[(u8, bool, usize)], view: View| {
                changes.iter().fold((view, Vec::new()), |(view, mut log), (name, goes, data)| {
                    let (name, uid) = (format!("p{name}"), format!("{data}"));
                    let is_there = view.object(&Key::new(PODS, "d", &*name)).is_some();
                    let op = match (goes, is_there) {
                        (true, true) => delete(&PODS, &name),
                        (true, false) => return (view, log),
                        _ => put(&PODS, &name, &uid, *data),
                    };
                    let (view, events) = after(&view, vec![op]);
                    log.extend(events);
                    (view, log)
                })
            };
            let (mut view, _) = write(&first, View::default());
            let mut place = Place::new(view.clone());
            let mut held: BTreeSet<String> = view.objects(&PODS, None).map(|object| format!("{object:?}")).collect();
            let mut hold = |events: &[Event]| {
                for event in events {
                    if let Some(previous) = &event.previous {
                        assert!(held.remove(&format!("{previous:?}")), "{previous:?} is replaced");
                    }
                    if event.kind != EventKind::Deleted {
                        held.insert(format!("{:?}", event.object));
                    }
                }
                held.clone()
            };
            for round in rounds {
                let (next, log) = write(&round, view.clone());
                // What is read is behind the view.
                let n_read = log.len() - log.len() / 3;
                let position = log[..n_read].last().map_or(view.revision(), |event| event.revision);
                place.read(&log[..n_read], position, &next);
                hold(&log[..n_read]);
                if n_read < log.len() {
                    hold(&place.missed(&next, &[PODS]));
                    place = Place::new(next.clone());
                }
                view = next;
            }
            let (now, _) = write(&last, view);
            let all: BTreeSet<String> = now.objects(&PODS, None).map(|object| format!("{object:?}")).collect();
            prop_assert_eq!(hold(&place.missed(&now, &[PODS])), all);
        }
    }
}
