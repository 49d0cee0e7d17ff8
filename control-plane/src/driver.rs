//! Feeds the controllers and pushes their plans through the door, while this server leads.
//!
//! Which key is looked at when is the agenda's business (`copepod_controllers::agenda`). Nothing here outlives the
//! leadership.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::{Key, Plan, Status, Timestamp};
use copepod_controllers::{
    Controller,
    agenda::{Agenda, is_final},
};
use copepod_store::{Door, Event, View};
use futures::{StreamExt, stream::FuturesUnordered};

/// How often in a row a plan is refused before that is worth a line. The first times it was made on a view that was old.
const REFUSALS_NORMAL: u32 = 3;

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

/// Runs all controllers until dropped.
pub async fn run(door: Arc<dyn Door>, jobs: Vec<Box<dyn Job>>) {
    loop {
        let Some(compacted) = session(&door, &jobs).await else { return };
        tracing::warn!(%compacted, "the controllers fell behind the log of events and look at everything again");
    }
}

async fn session(door: &Arc<dyn Door>, jobs: &[Box<dyn Job>]) -> Option<String> {
    let view = door.view();
    let mut cursor = door.watch(None, view.revision());
    let mut agenda = Agenda::default();
    for (place, job) in jobs.iter().enumerate() {
        agenda.mark(place, job.all(&view));
    }
    let mut plans = FuturesUnordered::new();
    let began = Instant::now();
    loop {
        for work in agenda.take(began.elapsed()) {
            let (clock, before) = (Timestamp::now(), began.elapsed());
            let plan = jobs[work.0].reconcile(&door.view(), &work.1, clock);
            let now = began.elapsed();
            agenda.looked(&work, now - before, now);
            if !agenda.planned(&work, &plan, clock, now) {
                continue;
            }
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
        let pause = agenda.pause(began.elapsed()).unwrap_or(Duration::from_secs(3600));
        tokio::select! {
            biased;
            Some((work, outcome)) = plans.next(), if !plans.is_empty() => {
                let (name, key) = (jobs[work.0].name(), work.1.clone());
                let refusals = agenda.done(work, outcome.is_err(), began.elapsed());
                if let Err(status) = outcome
                    && refusals > REFUSALS_NORMAL
                {
                    tracing::warn!(controller = name, %key, %status, refusals, "a plan was refused again");
                }
            }
            events = cursor.next() => match events {
                Ok(events) => wake(&mut agenda, jobs, &door.view(), &events),
                Err(compacted) => return Some(compacted.to_string()),
            },
            () = tokio::time::sleep(pause) => (),
        }
    }
}

fn wake(agenda: &mut Agenda, jobs: &[Box<dyn Job>], view: &View, events: &[Event]) {
    for event in events {
        for (place, job) in jobs.iter().enumerate() {
            agenda.mark(place, job.wakes(view, event));
        }
    }
}
