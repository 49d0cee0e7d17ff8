//! Which keys are to be looked at, and when: what whoever runs controllers keeps between two looks.
//!
//! A controller learns that it should look at a key, never what happened. A key is looked at by one at a time: while its
//! plan is under way, events only mark it, and it is looked at again afterwards. Whoever ceases to lead drops all of it.

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

/// A controller, by its place among all, and one of its keys.
pub type Work = (usize, Key);

#[derive(Default)]
pub struct Agenda {
    dirty: BTreeSet<Work>,
    under_way: BTreeSet<Work>,
    timers: BTreeMap<Work, Timestamp>,
    refusals: BTreeMap<Work, u32>,
}

impl Agenda {
    /// The controller at this place should look at these keys.
    pub fn mark(&mut self, place: usize, keys: Vec<Key>) {
        self.dirty.extend(keys.into_iter().map(|key| (place, key)));
    }

    /// Keys to decide now: marked or due, and no plan of theirs under way.
    pub fn take(&mut self, now: Timestamp) -> Vec<Work> {
        self.ring(now);
        let free = self.dirty.iter().filter(|work| !self.under_way.contains(*work));
        let taken: Vec<Work> = free.take(KEYS_A_ROUND).cloned().collect();
        for work in &taken {
            self.dirty.remove(work);
        }
        taken
    }

    /// Marks what is due.
    fn ring(&mut self, now: Timestamp) {
        let due: Vec<Work> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(work, _)| work.clone()).collect();
        for work in due {
            self.timers.remove(&work);
            self.dirty.insert(work);
        }
    }

    /// A key was looked at, and this is its plan. True if it asks for something: then it is under way until it is `done`.
    pub fn planned(&mut self, work: &Work, plan: &Plan) -> bool {
        match plan.look_again {
            Some(at) => drop(self.timers.insert(work.clone(), at)),
            None => drop(self.timers.remove(work)),
        }
        if plan.requests.is_empty() {
            self.refusals.remove(work);
            return false;
        }
        self.under_way.insert(work.clone());
        true
    }

    /// What became of a plan; how often in a row such plans were refused.
    pub fn done(&mut self, work: Work, is_refused: bool, now: Timestamp) -> u32 {
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
    pub fn pause(&self, now: Timestamp) -> Option<Duration> {
        if self.dirty.iter().any(|work| !self.under_way.contains(work)) {
            return Some(Duration::ZERO);
        }
        let next = self.timers.values().min()?;
        Some(Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO))
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

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_key_under_way_waits_for_its_plan() {
        let mut agenda = Agenda::default();
        agenda.mark(0, vec![work("a").1]);
        assert_eq!(agenda.take(START), [work("a")]);
        assert!(agenda.planned(&work("a"), &plan()));
        agenda.mark(0, vec![work("a").1, work("b").1]);
        assert_eq!(agenda.take(START), [work("b")]);
        assert_eq!(agenda.pause(START), None);
        agenda.done(work("a"), false, START);
        assert_eq!(agenda.pause(START), Some(Duration::ZERO));
        assert_eq!(agenda.take(START), [work("a")]);
    }

    #[test]
    fn a_refused_plan_is_made_again_after_a_pause_that_grows() {
        let mut agenda = Agenda::default();
        let pauses: Vec<u128> = (0..14)
            .map(|_| {
                agenda.planned(&work("a"), &plan());
                agenda.done(work("a"), true, START);
                assert!(agenda.take(START).is_empty());
                agenda.pause(START).unwrap().as_millis()
            })
            .collect();
        assert_eq!(pauses[..4], [5, 10, 20, 40]);
        assert_eq!(pauses[13], 10_000);
        assert_eq!(agenda.take(START + RETRY_MAX), [work("a")]);
        assert!(!agenda.planned(&work("a"), &Plan::nothing()));
        agenda.planned(&work("a"), &plan());
        assert_eq!(agenda.done(work("a"), true, START), 1, "what found nothing to do counts anew");
    }
}
