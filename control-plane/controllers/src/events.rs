//! Forgets old events.

use std::sync::Arc;

use copepod_api::{DeleteOptions, Key, Object, Plan, Timestamp, User, resource};
use copepod_store::{Event, EventKind, View};

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
    let mut events: Vec<(Timestamp, &Arc<Object>)> =
        view.objects(&resource::EVENTS, None).map(|event| (last_seen(event), event)).collect();
    events.sort_by(|left, right| (left.0, &left.1.key).cmp(&(right.0, &right.1.key)));
    let expired = events.iter().take_while(|(seen, _)| time::after(*seen, TTL_SECONDS) <= now).count();
    let surplus = if events.len() > EVENTS_MAX { events.len() - EVENTS_KEPT } else { 0 };
    let doomed = expired.max(surplus);
    let user = User::system("system:controller:event-ttl-controller");
    for (_, event) in events.iter().take(doomed.min(BURST)) {
        plan.push(write::delete(&user, event, DeleteOptions::default()));
    }
    plan.look_again_at(if doomed > BURST { now } else { time::after(now, INTERVAL_SECONDS) });
    plan
}

fn last_seen(event: &Object) -> Timestamp {
    let value = event.value();
    let times = [&value["series"]["lastObservedTime"], &value["lastTimestamp"], &value["eventTime"]];
    let latest = times.iter().filter_map(|time| time.as_str()?.parse().ok()).max();
    latest.or(event.meta.creation_timestamp).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    #[test]
    fn events_go_after_a_week() {
        let mut world = World::read("node n1 | deployment web 1");
        world.settle();
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "events /")), @"look again in 3600s");
        world.wait(super::TTL_SECONDS);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "events /")).lines().count(), @"3");
    }
}
