//! Whether a job is done, and how that is said: first that it is decided, and when its last pod is gone, that it is over.

use copepod_api::{
    Timestamp,
    k8s_openapi::{
        api::batch::v1::{JobCondition, JobSpec, JobStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
};

use super::{
    policy,
    tally::{Tally, completions, is_indexed},
};
use crate::time;

/// What was decided about a job.
pub struct Verdict {
    pub well: bool,
    pub reason: String,
    pub message: String,
}

impl Verdict {
    fn failed(reason: &str, message: impl Into<String>) -> Option<Verdict> {
        Some(Verdict { well: false, reason: reason.to_owned(), message: message.into() })
    }

    /// What stands in the status already, or else what follows from the count.
    pub fn of(spec: &JobSpec, status: &JobStatus, tally: &Tally<'_>, now: Timestamp) -> Option<Verdict> {
        let decided = [("FailureTarget", false), ("SuccessCriteriaMet", true)].into_iter().find_map(|(type_, well)| {
            let own = condition(status, type_)?;
            let said = |text: &Option<String>| text.clone().unwrap_or_default();
            Some(Verdict { well, reason: said(&own.reason), message: said(&own.message) })
        });
        decided.or_else(|| decide(spec, status, tally, now))
    }

    pub fn interim(&self) -> &'static str {
        if self.well { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    pub fn last(&self) -> &'static str {
        if self.well { "Complete" } else { "Failed" }
    }
}

fn decide(spec: &JobSpec, status: &JobStatus, tally: &Tally<'_>, now: Timestamp) -> Option<Verdict> {
    if let Some(why) = &tally.verdict {
        return Verdict::failed("PodFailurePolicy", why);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts_in_place =
        spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref()) == Some("OnFailure");
    let too_many = if limit == 0 { tally.restarts > 0 } else { tally.restarts >= limit };
    if tally.failed > limit || (restarts_in_place && too_many && tally.restarts > 0) {
        return Verdict::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline(spec, status).is_some_and(|deadline| deadline <= now) {
        return Verdict::failed("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some(message) = policy::of_success(spec, &tally.completed_indexes) {
        return Some(Verdict { well: true, reason: "SuccessPolicy".to_owned(), message });
    }
    if is_indexed(spec) {
        let failed = tally.failed_indexes.len();
        if let Some(most) = spec.max_failed_indexes
            && failed > usize::try_from(most).unwrap_or(0)
        {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Verdict::failed("MaxFailedIndexesExceeded", message);
        }
        let is_over = failed + tally.completed_indexes.len() >= completions(spec) as usize;
        if failed > 0 && is_over {
            return Verdict::failed("FailedIndexes", "Job has failed indexes");
        }
    }
    let is_done = match spec.completions {
        Some(completions) => tally.succeeded >= completions,
        // Any one that succeeds says that the work is done; the others are left to finish.
        None => tally.succeeded > 0 && tally.active.is_empty(),
    };
    is_done.then(|| Verdict {
        well: true,
        reason: "CompletionsReached".to_owned(),
        message: "Reached expected number of succeeded pods".to_owned(),
    })
}

/// When a job that is still at work is to fail.
pub fn deadline(spec: &JobSpec, status: &JobStatus) -> Option<Timestamp> {
    let since = time::of(&status.start_time)?;
    Some(time::after(since, spec.active_deadline_seconds?))
}

/// The condition of a type, where it holds.
pub fn condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Says a condition; its time changes with what it says.
pub fn set(status: &mut JobStatus, type_: &str, holds: bool, reason: &str, message: &str, now: Timestamp) {
    let holds = if holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == type_);
    if known
        .is_some_and(|place| conditions[place].status == holds && conditions[place].reason.as_deref() == Some(reason))
    {
        return;
    }
    let condition = JobCondition {
        type_: type_.to_owned(),
        status: holds.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match known {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
}
