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
/// so many times as long without a look at others of its sort, and by more without one at the same: all of them together get a
/// third of the time, each a sixth, and what changes meanwhile is looked at together.
const LONG: Duration = Duration::from_millis(1);
const REST: u32 = 2;
const OWN_REST: u32 = 5;

/// A controller, by its place among all, and one of its keys.
pub type Work = (usize, Key);

#[derive(Default)]
pub struct Agenda {
    /// To be looked at, with no plan of theirs under way.
    free: BTreeSet<Work>,
    /// The same, of those whose last look took long, and when they have rested: the one that has waited longest comes first.
    free_long: BTreeSet<(Duration, Work)>,
    under_way: BTreeSet<Work>,
    /// To be looked at again when what is under way is done.
    held_up: BTreeSet<Work>,
    timers: Timers,
    refusals: BTreeMap<Work, u32>,
    /// Keys whose last look took long, and when they have rested.
    long: BTreeMap<Work, Duration>,
    /// Until when none of these is looked at.
    rest_until: Duration,
}

impl Agenda {
    /// The controller at this place should look at these keys.
    pub fn mark(&mut self, place: usize, keys: Vec<Key>) {
        for key in keys {
            self.put((place, key));
        }
    }

    fn put(&mut self, work: Work) {
        if self.under_way.contains(&work) {
            self.held_up.insert(work);
        } else if let Some(rested) = self.long.get(&work) {
            self.free_long.insert((*rested, work));
        } else {
            self.free.insert(work);
        }
    }

    /// No longer to be looked at. True if it was.
    fn unmark(&mut self, work: &Work) -> bool {
        let long = self.long.get(work).is_some_and(|rested| self.free_long.remove(&(*rested, work.clone())));
        self.free.remove(work) || self.held_up.remove(work) || long
    }

    /// Keys to decide now: marked or due, and no plan of theirs under way.
    pub fn take(&mut self, now: Duration) -> Vec<Work> {
        while let Some(work) = self.timers.ring(now) {
            self.put(work);
        }
        // Of those that take long, one at a time.
        let is_due = self.long_due().is_some_and(|due| due <= now);
        let long = if is_due { self.free_long.pop_first() } else { None };
        let mut taken: Vec<Work> = long.map(|(_, work)| work).into_iter().collect();
        taken.extend(std::iter::from_fn(|| self.free.pop_first()).take(KEYS_A_ROUND - taken.len()));
        taken
    }

    /// A key was looked at by the time of day `clock`, and this is its plan. True if it asks for something: then it is under
    /// way until it is `done`.
    pub fn planned(&mut self, work: &Work, plan: &Plan, clock: Timestamp, now: Duration) -> bool {
        let wait = |at: Timestamp| Duration::try_from(at.duration_since(clock)).unwrap_or(Duration::ZERO);
        self.timers.set(work, plan.look_again.map(|at| now + wait(at)));
        if plan.requests.is_empty() {
            self.refusals.remove(work);
            return false;
        }
        if self.unmark(work) {
            self.held_up.insert(work.clone());
        }
        self.under_way.insert(work.clone());
        true
    }

    /// How long a look has taken that ended just now.
    pub fn looked(&mut self, work: &Work, took: Duration, now: Duration) {
        let is_marked = self.unmark(work);
        if took < LONG {
            self.long.remove(work);
        } else {
            self.long.insert(work.clone(), now + took * OWN_REST);
            self.rest_until = now + took * REST;
        }
        if is_marked {
            self.put(work.clone());
        }
    }

    /// What became of a plan; how often in a row such plans were refused.
    pub fn done(&mut self, work: Work, is_refused: bool, now: Duration) -> u32 {
        self.under_way.remove(&work);
        if self.held_up.remove(&work) {
            self.put(work.clone());
        }
        if !is_refused {
            self.refusals.remove(&work);
            return 0;
        }
        let refusals = self.refusals.entry(work.clone()).or_default();
        *refusals += 1;
        let pause = RETRY_MIN.saturating_mul(1 << (*refusals - 1).min(12)).min(RETRY_MAX);
        let again = now + pause;
        let at = self.timers.at(&work).map_or(again, |at| at.min(again));
        self.timers.set(&work, Some(at));
        *refusals
    }

    /// When the first of those that take long is to be looked at.
    fn long_due(&self) -> Option<Duration> {
        self.free_long.first().map(|(rested, _)| self.rest_until.max(*rested))
    }

    /// How long nothing is due, unless something happens; `None` if for ever.
    pub fn pause(&self, now: Duration) -> Option<Duration> {
        let free = (!self.free.is_empty()).then_some(now);
        let next = [free, self.long_due(), self.timers.next()].into_iter().flatten().min()?;
        Some(next.saturating_sub(now))
    }
}

/// When keys are to be looked at again; each at one time.
#[derive(Default)]
struct Timers {
    by_work: BTreeMap<Work, Duration>,
    in_order: BTreeSet<(Duration, Work)>,
}

impl Timers {
    fn set(&mut self, work: &Work, at: Option<Duration>) {
        let before = match at {
            Some(at) => self.by_work.insert(work.clone(), at),
            None => self.by_work.remove(work),
        };
        if let Some(before) = before {
            self.in_order.remove(&(before, work.clone()));
        }
        self.in_order.extend(at.map(|at| (at, work.clone())));
    }

    fn at(&self, work: &Work) -> Option<Duration> {
        self.by_work.get(work).copied()
    }

    fn next(&self) -> Option<Duration> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// The first that is due, which is over then.
    fn ring(&mut self, now: Duration) -> Option<Work> {
        self.next().filter(|at| *at <= now)?;
        let (_, work) = self.in_order.pop_first()?;
        self.by_work.remove(&work);
        Some(work)
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
        // Each rests for fifty milliseconds, and all for twenty.
        for rest in [50, 20, 20, 20] {
            agenda.mark(0, all());
            assert_eq!(agenda.take(now), [work("c")], "what is short does not wait");
            assert_eq!(agenda.pause(now), Some(Duration::from_millis(rest)));
            now += Duration::from_millis(rest);
            let taken = agenda.take(now);
            assert_eq!(taken.len(), 1);
            now += Duration::from_millis(10);
            agenda.looked(&taken[0], Duration::from_millis(10), now);
            looks.extend(taken);
        }
        assert_eq!(looks, ["a", "b", "a", "b"].map(work), "in turn");
        agenda.mark(0, all());
        agenda.looked(&work("a"), Duration::ZERO, now);
        assert_eq!(agenda.take(now), ["a", "c"].map(work), "it is small again");
    }

    #[test]
    fn a_timer_is_set_anew_and_taken_back() {
        let mut agenda = Agenda::default();
        let again = |seconds| Plan {
            look_again: Some(CLOCK + copepod_api::time::SignedDuration::from_secs(seconds)),
            ..Plan::default()
        };
        for seconds in [9, 3, 5] {
            agenda.planned(&work("a"), &again(seconds), CLOCK, START);
        }
        agenda.planned(&work("b"), &again(4), CLOCK, START);
        assert_eq!(agenda.pause(START), Some(Duration::from_secs(4)));
        agenda.planned(&work("b"), &Plan::nothing(), CLOCK, START);
        assert!(agenda.take(START + Duration::from_secs(4)).is_empty());
        assert_eq!(agenda.take(START + Duration::from_secs(5)), [work("a")]);
        assert_eq!(agenda.pause(START), None);
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
