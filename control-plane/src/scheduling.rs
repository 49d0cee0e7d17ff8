//! Runs the scheduler while this server leads: drain all that happened, decide once, commit, and look again.

use std::{sync::Arc, time::Duration};

use copepod_api::Timestamp;
use copepod_scheduler::Scheduler;
use copepod_store::Door;
use futures::future::join_all;

/// Pause after a refused batch of bindings; the view it was decided on is out of date by then.
const RETRY: Duration = Duration::from_millis(20);

pub async fn run(door: Arc<dyn Door>) {
    loop {
        let compacted = session(&door).await;
        tracing::warn!(%compacted, "the scheduler fell behind the log of events and starts over");
    }
}

async fn session(door: &Arc<dyn Door>) -> String {
    let mut scheduler = Scheduler::new();
    let view = door.view();
    let mut cursor = door.watch(None, view.revision());
    let mut events = Vec::new();
    loop {
        let now = Timestamp::now();
        let plans = scheduler.schedule(&door.view(), &events, now);
        events.clear();
        let look_again = plans.iter().filter_map(|plan| plan.look_again).min();
        let submitted = plans.into_iter().map(|plan| plan.requests).filter(|requests| !requests.is_empty());
        let outcomes = join_all(submitted.map(|requests| door.submit(requests))).await;
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).next();
        if let Some(status) = refused {
            tracing::debug!(%status, "bindings were refused; deciding again");
        }
        let pause = match (refused.is_some(), look_again) {
            (true, _) => RETRY,
            (false, Some(at)) => Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).max(RETRY),
            (false, None) => Duration::from_secs(3600),
        };
        tokio::select! {
            arrived = cursor.next() => match arrived {
                Ok(arrived) => events = arrived,
                Err(compacted) => return compacted.to_string(),
            },
            () = tokio::time::sleep(pause) => (),
        }
    }
}
