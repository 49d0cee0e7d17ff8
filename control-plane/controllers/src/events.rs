//! Forgets old events.

use std::sync::Arc;

use copepod_api::{DeleteOptions, Key, Object, Plan, Timestamp, User, resource};
use copepod_store::{Event, EventKind, View};
use serde_json::Value;

use crate::{Controller, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "event-ttl-controller", wakes, all, reconcile, refused: crate::SILENT };

/// A week: an incident of Friday evening can still be understood on Monday. Elsewhere it is an hour, because there events
/// share a small database.
const TTL_SECONDS: i64 = 7 * 24 * 3600;

/// Events are about 1 kB each, and nobody reads more.
const EVENTS_MAX: usize = 10_000;

/// What is left when there are too many. The distance to the limit is what one search for the oldest is good for.
const EVENTS_KEPT: usize = 9_000;
const _: () = assert!(EVENTS_KEPT < EVENTS_MAX);

/// How many events one plan deletes.
const BURST: usize = 500;

/// How often to look when nothing happens.
const INTERVAL_SECONDS: i64 = 3600;

fn key() -> Key {
    Key::new(resource::EVENTS, "", "")
}

fn all(_: &View) -> Vec<Key> {
    vec![key()]
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let is_news = event.object.key.resource == resource::EVENTS && event.kind == EventKind::Added;
    if is_news && view.count(&resource::EVENTS) > EVENTS_MAX { vec![key()] } else { Vec::new() }
}

fn reconcile(view: &View, _: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let mut plan = Plan::nothing();
    let is_expired = |event: &&Arc<Object>| is_old(event.meta.creation_timestamp, now) && is_old(last_seen(event), now);
    let (mut doomed, mut others): (Vec<_>, Vec<_>) = view.objects(&resource::EVENTS, None).partition(is_expired);
    if doomed.len() + others.len() > EVENTS_MAX {
        // An event is written whenever it is seen, so the order of the writes is theirs, and none has to be read.
        others.sort_unstable_by_key(|event| event.revision);
        let surplus = others.len().saturating_sub(EVENTS_KEPT);
        doomed.extend(others.drain(..surplus));
    }
    let user = User::system("system:controller:event-ttl-controller");
    for event in doomed.iter().take(BURST) {
        plan.push(write::delete(&user, event, DeleteOptions::default()));
    }
    plan.look_again_at(if doomed.len() > BURST { now } else { time::after(now, INTERVAL_SECONDS) });
    plan
}

fn is_old(at: Option<Timestamp>, now: Timestamp) -> bool {
    at.is_none_or(|at| time::after(at, TTL_SECONDS) <= now)
}

/// Read apart, so that no event keeps what is decoded of it.
fn last_seen(event: &Object) -> Option<Timestamp> {
    let value: Value = serde_json::from_slice(&event.bytes()).unwrap_or_default();
    let times = [&value["series"]["lastObservedTime"], &value["lastTimestamp"], &value["eventTime"]];
    let latest = times.iter().filter_map(|time| time.as_str()?.parse().ok()).max();
    latest.or(event.meta.creation_timestamp)
}

#[cfg(test)]
mod tests {
    use copepod_api::{Action, Body, Expect, Op, Txn};
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::world::World;

    fn put(view: &View, events: impl Iterator<Item = (String, Value)>) -> View {
        let op = |(name, event): (String, Value)| {
            let key = Key::new(resource::EVENTS, "default", name);
            Op::Put { key, body: Body::encode(&event), expect: Expect::Any }
        };
        view.apply(&Txn { ops: events.map(op).collect() }, Timestamp::UNIX_EPOCH).unwrap().0
    }

    fn event(number: usize, last: i64) -> (String, Value) {
        let name = format!("e-{number:05}");
        let last = Timestamp::from_second(last).unwrap();
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "lastTimestamp": last,
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": "1970-01-01T00:00:00Z"},
        });
        (name, event)
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        let deletions = plan.requests.iter().filter(|request| matches!(request.action, Action::Delete { .. }));
        deletions.map(|request| &*request.target.name).collect()
    }

    #[test]
    fn of_too_many_those_go_that_were_not_seen_for_longest() {
        let view = put(&View::default(), (0..=EVENTS_MAX).map(|number| event(number, 5)));
        // The first is seen once more.
        let view = put(&view, [event(0, 9)].into_iter());
        let plan = reconcile(&view, &key(), Timestamp::from_second(10).unwrap());
        let expected: Vec<_> = (1..=BURST).map(|number| format!("e-{number:05}")).collect();
        assert_eq!(deleted(&plan), expected);
        assert!(
            view.objects(&resource::EVENTS, None).all(|event| !event.is_decoded()),
            "each would take ten times as much"
        );
    }

    #[test]
    fn an_old_event_that_was_seen_lately_stays() {
        let view = put(&View::default(), [event(1, TTL_SECONDS / 2), event(2, 7)].into_iter());
        let plan = reconcile(&view, &key(), Timestamp::from_second(TTL_SECONDS + 10).unwrap());
        assert_eq!(deleted(&plan), ["e-00002"]);
        assert!(view.objects(&resource::EVENTS, None).all(|event| !event.is_decoded()));
    }

    #[test]
    fn events_go_after_a_week() {
        let mut world = World::read("node n1 | deployment web 1");
        world.settle();
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "events /")), @"look again in 3600s");
        world.wait(super::TTL_SECONDS);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "events /")).lines().count(), @"3");
    }
}
