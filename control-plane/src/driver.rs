//! Feeds the controllers and pushes their plans through the door, while this server leads.
//!
//! A controller learns that it should look at a key, never what happened. A key is looked at by one at a time: while its
//! plan is under way, events only mark it, and it is looked at again afterwards. Nothing here outlives the leadership.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use copepod_api::{Key, Plan, Status, Timestamp};
use copepod_controllers::Controller;
use copepod_store::{Door, Event, View};
use futures::{StreamExt, stream::FuturesUnordered};

/// First pause after a refused plan; doubled up to `RETRY_MAX`. A conflict is usually settled by the very next view.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Keys decided between two looks at the events, so that a storm of keys does not hide what changes meanwhile.
const KEYS_A_ROUND: usize = 128;

/// What the driver runs.
pub trait Job: Send + Sync {
    fn name(&self) -> &'static str;
    /// Which of its keys an event makes dirty.
    fn wakes(&self, view: &View, event: &Event) -> Vec<Key>;
    /// Every key it should look at when a leader starts.
    fn all(&self, view: &View) -> Vec<Key>;
    fn reconcile(&self, view: &View, key: &Key, now: Timestamp) -> Plan;
    /// What to say about a plan that was refused for good.
    fn refused(&self, _view: &View, _key: &Key, _why: &Status, _now: Timestamp) -> Plan {
        Plan::nothing()
    }
}

impl Job for &'static Controller {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wakes(&self, view: &View, event: &Event) -> Vec<Key> {
        (self.wakes)(view, event)
    }

    fn all(&self, view: &View) -> Vec<Key> {
        (self.all)(view)
    }

    fn reconcile(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        (self.reconcile)(view, key, now)
    }

    fn refused(&self, view: &View, key: &Key, why: &Status, now: Timestamp) -> Plan {
        (self.refused)(view, key, why, now)
    }
}

/// A job, by its place among all, and one of its keys.
type Work = (usize, Key);

#[derive(Default)]
struct Agenda {
    dirty: BTreeSet<Work>,
    under_way: BTreeSet<Work>,
    timers: BTreeMap<Work, Timestamp>,
    refusals: BTreeMap<Work, u32>,
}

/// Runs all controllers until dropped.
pub async fn run(door: Arc<dyn Door>, jobs: &[Box<dyn Job>]) {
    loop {
        let Some(compacted) = session(&door, jobs).await else { return };
        tracing::warn!(%compacted, "the controllers fell behind the log of events and look at everything again");
    }
}

async fn session(door: &Arc<dyn Door>, jobs: &[Box<dyn Job>]) -> Option<String> {
    let view = door.view();
    let mut cursor = door.watch(None, view.revision());
    let mut agenda = Agenda::default();
    for (place, job) in jobs.iter().enumerate() {
        agenda.dirty.extend(job.all(&view).into_iter().map(|key| (place, key)));
    }
    let mut plans = FuturesUnordered::new();
    loop {
        agenda.ring(Timestamp::now());
        for work in agenda.take(KEYS_A_ROUND) {
            let plan = jobs[work.0].reconcile(&door.view(), &work.1, Timestamp::now());
            agenda.set_timer(&work, plan.look_again);
            if plan.requests.is_empty() {
                agenda.refusals.remove(&work);
                continue;
            }
            agenda.under_way.insert(work.clone());
            let door = door.clone();
            plans.push(async move {
                let outcome = door.submit(plan.requests).await.map(drop);
                if let Err(status) = &outcome
                    && is_final(status)
                {
                    let told = jobs[work.0].refused(&door.view(), &work.1, status, Timestamp::now());
                    if !told.requests.is_empty()
                        && let Err(status) = door.submit(told.requests).await
                    {
                        tracing::debug!(key = %work.1, %status, "a refusal could not be told");
                    }
                }
                (work, outcome)
            });
        }
        let pause = agenda.pause(Timestamp::now());
        tokio::select! {
            biased;
            Some((work, outcome)) = plans.next(), if !plans.is_empty() => agenda.done(jobs[work.0].name(), work, outcome),
            events = cursor.next() => match events {
                Ok(events) => agenda.wake(jobs, &door.view(), &events),
                Err(compacted) => return Some(compacted.to_string()),
            },
            () = tokio::time::sleep(pause) => (),
        }
    }
}

/// The registry will not have such requests, on this view or a newer one, until somebody changes something: a quota is
/// used up, a policy or a limit forbids them.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), 403 | 422)
}

impl Agenda {
    fn wake(&mut self, jobs: &[Box<dyn Job>], view: &View, events: &[Event]) {
        for event in events {
            for (place, job) in jobs.iter().enumerate() {
                self.dirty.extend(job.wakes(view, event).into_iter().map(|key| (place, key)));
            }
        }
    }

    /// Marks what is due.
    fn ring(&mut self, now: Timestamp) {
        let due: Vec<Work> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(work, _)| work.clone()).collect();
        for work in due {
            self.timers.remove(&work);
            self.dirty.insert(work);
        }
    }

    /// Keys to decide now: marked, and no plan of theirs under way.
    fn take(&mut self, limit: usize) -> Vec<Work> {
        let taken: Vec<Work> =
            self.dirty.iter().filter(|work| !self.under_way.contains(*work)).take(limit).cloned().collect();
        for work in &taken {
            self.dirty.remove(work);
        }
        taken
    }

    fn set_timer(&mut self, work: &Work, at: Option<Timestamp>) {
        match at {
            Some(at) => drop(self.timers.insert(work.clone(), at)),
            None => drop(self.timers.remove(work)),
        }
    }

    fn done(&mut self, name: &'static str, work: Work, outcome: Result<(), Status>) {
        self.under_way.remove(&work);
        let Err(status) = outcome else {
            self.refusals.remove(&work);
            return;
        };
        let refusals = self.refusals.entry(work.clone()).or_default();
        *refusals += 1;
        let pause = RETRY_MIN.saturating_mul(1 << (*refusals - 1).min(12)).min(RETRY_MAX);
        if *refusals > 3 {
            tracing::warn!(controller = name, key = %work.1, %status, refusals, "a plan was refused again");
        }
        let again = Timestamp::now() + pause;
        let at = self.timers.get(&work).map_or(again, |at| (*at).min(again));
        self.timers.insert(work, at);
    }

    /// How long nothing is due.
    fn pause(&self, now: Timestamp) -> Duration {
        if self.dirty.iter().any(|work| !self.under_way.contains(work)) {
            return Duration::ZERO;
        }
        let next = self.timers.values().min();
        next.map_or(Duration::from_secs(3600), |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
        })
    }
}

#[cfg(test)]
mod tests {
    use copepod_api::resource::PODS;

    use super::*;

    fn work(name: &str) -> Work {
        (0, Key::new(PODS, "d", name))
    }

    #[test]
    fn a_key_under_way_waits_for_its_plan() {
        let mut agenda = Agenda::default();
        agenda.under_way.insert(work("a"));
        agenda.dirty.extend([work("a"), work("b")]);
        assert_eq!(agenda.take(10), [work("b")]);
        agenda.done("test", work("a"), Ok(()));
        assert_eq!(agenda.take(10), [work("a")]);
    }

    #[test]
    fn a_refused_plan_is_made_again_after_a_pause_that_grows() {
        let mut agenda = Agenda::default();
        let start = Timestamp::now();
        for _ in 0..4 {
            agenda.done("test", work("a"), Err(Status::internal("no")));
        }
        assert!(agenda.take(10).is_empty());
        assert!(agenda.timers[&work("a")] > start);
        agenda.ring(start + Duration::from_secs(60));
        assert_eq!(agenda.take(10), [work("a")]);
    }
}
