//! Holds packed what nobody has changed for a while, on each server for itself.
//!
//! What has just been written is about to be read: by watchers, controllers, the scheduler, nodes. What has been at rest for
//! a few seconds is mostly read by nobody, and of pods, events and nodes there may be many thousands that say nearly the
//! same. Other resources stay as they are; they are fewer, or say each something else.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use copepod_api::{
    Object, Resource,
    resource::{EVENTS, NODES, PODS},
};
use copepod_store::{Door, Event, Resting};
use tokio::time::{Instant, sleep_until};

const PACKED: [Resource; 3] = [PODS, EVENTS, NODES];

/// How long an object is left as it is after it was written. Readers come within milliseconds; a busy server takes seconds.
const REST: Duration = Duration::from_secs(5);

/// So many are packed in one go, a fraction of a millisecond; then others have their turn.
const TURN: usize = 32;

/// Runs as long as the server does.
pub async fn run(door: Arc<dyn Door>) {
    let mut resting = Resting::default();
    loop {
        session(&door, &mut resting).await;
        tracing::debug!("events came faster than they were looked at; all objects are looked at again");
    }
}

/// Until it falls behind the log of events.
async fn session(door: &Arc<dyn Door>, resting: &mut Resting) {
    let view = door.view();
    let mut events = door.watch(None, view.revision());
    for resource in &PACKED {
        let objects: Vec<_> = view.objects(resource, None).map(Arc::downgrade).collect();
        for turn in objects.chunks(TURN) {
            turn.iter().filter_map(Weak::upgrade).for_each(|object| resting.pack(&object));
            tokio::task::yield_now().await;
        }
    }
    drop(view);
    let mut waiting = Waiting::default();
    loop {
        let due = waiting.due();
        tokio::select! {
            arrived = events.next() => match arrived {
                Ok(arrived) => waiting.note(&arrived, Instant::now()),
                Err(_) => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                for object in waiting.take(Instant::now(), TURN) {
                    resting.pack(&object);
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

/// What was written lately, in order.
#[derive(Default)]
struct Waiting(VecDeque<(Instant, Weak<Object>)>);

impl Waiting {
    fn note(&mut self, events: &[Event], now: Instant) {
        let resting = events.iter().filter(|event| PACKED.contains(&event.object.key.resource));
        self.0.extend(resting.map(|event| (now + REST, Arc::downgrade(&event.object))));
    }

    fn due(&self) -> Option<Instant> {
        self.0.front().map(|(due, _)| *due)
    }

    /// Up to `limit` that have rested long enough. What is gone meanwhile is left out.
    fn take(&mut self, now: Instant, limit: usize) -> Vec<Arc<Object>> {
        let n_due = self.0.iter().take(limit).take_while(|(due, _)| *due <= now).count();
        self.0.drain(..n_due).filter_map(|(_, object)| object.upgrade()).collect()
    }
}

#[cfg(test)]
mod tests {
    use copepod_api::{Body, Expect, Key, Op, Timestamp, Txn};
    use copepod_store::View;
    use serde_json::json;

    use super::*;

    fn events(view: &View, resource: &Resource, name: &str) -> (View, Vec<Event>) {
        let body = Body::encode(&json!({"metadata": {"name": name, "namespace": "default"}}));
        let op = Op::Put { key: Key::new(resource.clone(), "default", name), body, expect: Expect::Any };
        view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn objects_rest_before_they_are_packed_and_those_that_are_gone_are_left_out() {
        let (mut waiting, begin) = (Waiting::default(), Instant::now());
        assert_eq!(waiting.due(), None);
        let mut view = View::default();
        let mut write = |resource: &Resource, name: &str| {
            let (next, events) = events(&view, resource, name);
            view = next;
            events
        };
        let first = write(&PODS, "a");
        waiting.note(&first, begin);
        waiting.note(&write(&copepod_api::resource::CONFIG_MAPS, "m"), begin);
        let later = begin + REST / 2;
        let second = write(&PODS, "a");
        waiting.note(&second, later);
        drop(first);
        // The event of the second write knows what it replaced.
        let second: Vec<_> = second.into_iter().map(|event| event.object).collect();

        assert_eq!(waiting.due(), Some(begin + REST));
        assert!(waiting.take(begin + REST - Duration::from_millis(1), 9).is_empty());
        assert!(waiting.take(begin + REST, 9).is_empty(), "it was replaced, and nobody holds it");
        assert_eq!(waiting.due(), Some(later + REST), "and no other resource is packed");
        let taken = waiting.take(later + REST, 9);
        assert!(taken.len() == 1 && Arc::ptr_eq(&taken[0], &second[0]));
        assert_eq!((waiting.due(), view.count(&PODS)), (None, 1));
    }

    #[test]
    fn no_turn_takes_more_than_its_share() {
        let (mut waiting, now, mut view) = (Waiting::default(), Instant::now(), View::default());
        for number in 0..5 {
            let (next, events) = events(&view, &PODS, &format!("p-{number}"));
            view = next;
            waiting.note(&events, now);
        }
        assert_eq!([2, 2, 2].map(|limit| waiting.take(now + REST, limit).len()), [2, 2, 1]);
    }
}
