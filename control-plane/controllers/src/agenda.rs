//! Which keys are to be looked at, and when: what whoever runs controllers keeps between two looks.
//!
//! A controller learns that it should look at a key, never what happened. A key is looked at by one at a time: while its
//! plan is under way, events only mark it, and it is looked at again afterwards. Whoever ceases to lead drops all of it.
//!
//! `now` is the time since whoever runs the controllers began, by a clock that nobody sets: a pause of milliseconds must not
//! become one of an hour because the time of day was an hour ahead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use copepod_api::{Key, Plan, Status, Timestamp};

/// First pause after a refused plan; doubled up to `RETRY_MAX`. A conflict is usually settled by the very next view.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Keys decided between two looks at the events, so that a storm of keys does not hide what changes meanwhile.
const KEYS_A_ROUND: usize = 128;

/// A look that took this long is felt by others, and what is looked at there has grown with the cluster. It is followed by
/// so many times as long without a look at it or at others of its sort: all of them together get a third of the time, and
/// what changes meanwhile is looked at together.
const LONG: Duration = Duration::from_millis(1);
const REST: u32 = 2;

/// A controller, by its place among all, and one of its keys.
pub type Work = (usize, Key);

#[derive(Default)]
pub struct Agenda {
    dirty: BTreeSet<Work>,
    under_way: BTreeSet<Work>,
    timers: BTreeMap<Work, Duration>,
    refusals: BTreeMap<Work, u32>,
    /// Keys whose last look took long, and when it ended.
    long: BTreeMap<Work, Duration>,
    /// Until when none of these is looked at.
    rest_until: Duration,
}

impl Agenda {
    /// The controller at this place should look at these keys.
    pub fn mark(&mut self, place: usize, keys: Vec<Key>) {
        self.dirty.extend(keys.into_iter().map(|key| (place, key)));
    }

    /// Keys to decide now: marked or due, and no plan of theirs under way.
    pub fn take(&mut self, now: Duration) -> Vec<Work> {
        self.ring(now);
        let free = || self.dirty.iter().filter(|work| !self.under_way.contains(*work));
        let short = free().filter(|work| !self.long.contains_key(*work));
        // One at a time, the one that has waited longest.
        let long =
            free().filter_map(|work| Some((self.long.get(work)?, work))).min().filter(|_| now >= self.rest_until);
        let taken: Vec<Work> =
            long.map(|(_, work)| work).into_iter().chain(short).take(KEYS_A_ROUND).cloned().collect();
        for work in &taken {
            self.dirty.remove(work);
        }
        taken
    }

    /// Marks what is due.
    fn ring(&mut self, now: Duration) {
        let due: Vec<Work> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(work, _)| work.clone()).collect();
        for work in due {
            self.timers.remove(&work);
            self.dirty.insert(work);
        }
    }

    /// A key was looked at by the time of day `clock`, and this is its plan. True if it asks for something: then it is under
    /// way until it is `done`.
    pub fn planned(&mut self, work: &Work, plan: &Plan, clock: Timestamp, now: Duration) -> bool {
        let wait = |at: Timestamp| Duration::try_from(at.duration_since(clock)).unwrap_or(Duration::ZERO);
        match plan.look_again {
            Some(at) => drop(self.timers.insert(work.clone(), now + wait(at))),
            None => drop(self.timers.remove(work)),
        }
        if plan.requests.is_empty() {
            self.refusals.remove(work);
            return false;
        }
        self.under_way.insert(work.clone());
        true
    }

    /// How long a look has taken that ended just now.
    pub fn looked(&mut self, work: &Work, took: Duration, now: Duration) {
        if took < LONG {
            self.long.remove(work);
            return;
        }
        self.long.insert(work.clone(), now);
        self.rest_until = now + took * REST;
    }

    /// What became of a plan; how often in a row such plans were refused.
    pub fn done(&mut self, work: Work, is_refused: bool, now: Duration) -> u32 {
        self.under_way.remove(&work);
        if !is_refused {
            self.refusals.remove(&work);
            return 0;
        }
        let refusals = self.refusals.entry(work.clone()).or_default();
        *refusals += 1;
        let pause = RETRY_MIN.saturating_mul(1 << (*refusals - 1).min(12)).min(RETRY_MAX);
        let again = now + pause;
        let at = self.timers.get(&work).map_or(again, |at| (*at).min(again));
        self.timers.insert(work, at);
        *refusals
    }

    /// How long nothing is due, unless something happens; `None` if for ever.
    pub fn pause(&self, now: Duration) -> Option<Duration> {
        let dirty = self.dirty.iter().filter(|work| !self.under_way.contains(*work));
        let dirty = dirty.map(|work| if self.long.contains_key(work) { self.rest_until } else { now });
        let next = dirty.chain(self.timers.values().copied()).min()?;
        Some(next.saturating_sub(now))
    }
}

/// The registry will not have such requests, on this view or a newer one, until somebody changes something: a quota is
/// used up, a policy or a limit forbids them.
pub fn is_final(status: &Status) -> bool {
    matches!(status.code(), 403 | 422)
}

#[cfg(test)]
mod tests {
    use copepod_api::{Request, User, k8s_openapi::api::core::v1::Pod, resource::PODS};
    use serde_json::json;

    use super::*;

    fn work(name: &str) -> Work {
        (0, Key::new(PODS, "d", name))
    }

    fn plan() -> Plan {
        let request = Request::merge::<Pod>(&User::system("test"), "d", "a", json!({}));
        Plan { requests: vec![request], ..Plan::default() }
    }

    const START: Duration = Duration::from_secs(7);
    const CLOCK: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_key_under_way_waits_for_its_plan() {
        let mut agenda = Agenda::default();
        agenda.mark(0, vec![work("a").1]);
        assert_eq!(agenda.take(START), [work("a")]);
        assert!(agenda.planned(&work("a"), &plan(), CLOCK, START));
        agenda.mark(0, vec![work("a").1, work("b").1]);
        assert_eq!(agenda.take(START), [work("b")]);
        assert_eq!(agenda.pause(START), None);
        agenda.done(work("a"), false, START);
        assert_eq!(agenda.pause(START), Some(Duration::ZERO));
        assert_eq!(agenda.take(START), [work("a")]);
    }

    #[test]
    fn a_plan_says_by_the_time_of_day_when_to_look_again() {
        let mut agenda = Agenda::default();
        for (ahead, expected) in [(30, 30), (-30, 0)] {
            let look_again = Some(CLOCK + copepod_api::time::SignedDuration::from_secs(ahead));
            assert!(!agenda.planned(&work("a"), &Plan { look_again, ..Plan::default() }, CLOCK, START));
            assert_eq!(agenda.pause(START), Some(Duration::from_secs(expected)));
        }
    }

    #[test]
    fn looks_that_take_long_share_a_part_of_the_time_and_hold_up_nothing_else() {
        let mut agenda = Agenda::default();
        let all = || ["a", "b", "c"].map(|name| work(name).1).to_vec();
        agenda.mark(0, all());
        assert_eq!(agenda.take(START), ["a", "b", "c"].map(work));
        let (mut now, mut looks) = (START, Vec::new());
        for name in ["a", "b"] {
            agenda.looked(&work(name), Duration::from_millis(10), now);
        }
        agenda.looked(&work("c"), Duration::from_micros(10), now);
        for _ in 0..4 {
            agenda.mark(0, all());
            assert_eq!(agenda.take(now), [work("c")], "what is short does not wait");
            assert_eq!(agenda.pause(now), Some(Duration::from_millis(20)));
            now += Duration::from_millis(20);
            let taken = agenda.take(now);
            assert_eq!(taken.len(), 1);
            agenda.looked(&taken[0], Duration::from_millis(10), now);
            looks.extend(taken);
        }
        assert_eq!(looks, ["a", "b", "a", "b"].map(work), "in turn");
        agenda.mark(0, all());
        agenda.looked(&work("a"), Duration::ZERO, now);
        assert_eq!(agenda.take(now), ["a", "c"].map(work), "it is small again");
    }

    #[test]
    fn a_refused_plan_is_made_again_after_a_pause_that_grows() {
        let mut agenda = Agenda::default();
        let pauses: Vec<u128> = (0..14)
            .map(|_| {
                agenda.planned(&work("a"), &plan(), CLOCK, START);
                agenda.done(work("a"), true, START);
                assert!(agenda.take(START).is_empty());
                agenda.pause(START).unwrap().as_millis()
            })
            .collect();
        assert_eq!(pauses[..4], [5, 10, 20, 40]);
        assert_eq!(pauses[13], 10_000);
        assert_eq!(agenda.take(START + RETRY_MAX), [work("a")]);
        assert!(!agenda.planned(&work("a"), &Plan::nothing(), CLOCK, START));
        agenda.planned(&work("a"), &plan(), CLOCK, START);
        assert_eq!(agenda.done(work("a"), true, START), 1, "what found nothing to do counts anew");
    }
}
