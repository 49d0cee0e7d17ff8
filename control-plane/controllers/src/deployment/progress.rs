//! What a deployment says about itself: counts, and whether it gets ahead.

use copepod_api::{
    Plan, Timestamp, User,
    k8s_openapi::{
        api::apps::v1::{DeploymentCondition, DeploymentStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
};

use super::rollout::{Rollout, Set};
use crate::{time, write as request};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The rollout is done; later changes of size do not make it undone.
const DONE: &str = "NewReplicaSetAvailable";
const OVERDUE: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The API's way to say "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

pub fn write(plan: &mut Plan, user: &User, rollout: &Rollout<'_>, now: Timestamp) {
    let known = rollout.deployment.status.clone().unwrap_or_default();
    let mut status = count(rollout, &known);
    let mut conditions = Conditions { list: known.conditions.clone().unwrap_or_default(), now };

    let enough = status.available_replicas.unwrap_or(0) >= rollout.sizes.floor();
    if enough {
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    let deadline = rollout.spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE);
    match deadline {
        None => conditions.remove(PROGRESSING),
        Some(seconds) if !rollout.deployment.meta().is_leaving() => {
            judge(&mut conditions, rollout, &known, &status, seconds);
            plan.look_again_at(deadline_of(&conditions, rollout, seconds));
        }
        Some(_) => {}
    }
    copy_failure(&mut conditions, rollout);

    if status.updated_replicas.unwrap_or(0) < rollout.sizes.replicas || !enough {
        plan.because(format!(
            "{} of {} pods are of the newest template, {} available",
            status.updated_replicas.unwrap_or(0),
            rollout.sizes.replicas,
            status.available_replicas.unwrap_or(0)
        ));
    }
    status.conditions = (!conditions.list.is_empty()).then_some(conditions.list);
    if rollout.deployment.status.as_ref() != Some(&status) {
        let status = request::status(user, rollout.deployment, &status);
        // Before the annotation of the same plan, which would make the revision that it rests on an old one.
        let own = |request: &copepod_api::Request| request.target == status_target(&status);
        let at = plan.requests.iter().position(own);
        if let Some(at) = at {
            if let copepod_api::Action::Patch { patch: copepod_api::Patch::Merge(patch) } =
                &mut plan.requests[at].action
                && let Some(metadata) = patch["metadata"].as_object_mut()
            {
                metadata.remove("resourceVersion");
            }
            plan.requests.insert(at, status);
        } else {
            plan.push(status);
        }
    }
}

fn status_target(status: &copepod_api::Request) -> copepod_api::Target {
    copepod_api::Target { subresource: "".into(), ..status.target.clone() }
}

fn count(rollout: &Rollout<'_>, known: &DeploymentStatus) -> DeploymentStatus {
    let sum = |of: fn(&Set) -> i32| rollout.sets().iter().map(of).sum::<i32>();
    let available = sum(Set::available);
    let some = |number: i32| (number > 0).then_some(number);
    DeploymentStatus {
        observed_generation: Some(rollout.deployment.meta().generation),
        replicas: some(sum(Set::actual)),
        updated_replicas: some(rollout.new_set().map_or(0, Set::actual)),
        ready_replicas: some(sum(Set::ready)),
        available_replicas: some(available),
        // Measured by what the sets shall have, so that pods not made yet are missing already.
        unavailable_replicas: some(sum(|set| set.replicas) - available),
        terminating_replicas: Some(sum(Set::terminating)),
        collision_count: rollout.collisions,
        conditions: known.conditions.clone(),
    }
}

/// Keeps the condition Progressing.
fn judge(
    conditions: &mut Conditions,
    rollout: &Rollout<'_>,
    known: &DeploymentStatus,
    status: &DeploymentStatus,
    deadline_seconds: i32,
) {
    let reason = conditions.get(PROGRESSING).and_then(|condition| condition.reason.clone()).unwrap_or_default();
    if rollout.is_paused() {
        if reason != OVERDUE {
            conditions.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused");
        }
        return;
    }
    if reason == PAUSED {
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
    }
    let name = rollout.new_set().map(|set| set.name.as_str());
    let subject = match name {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", rollout.deployment.key().name()),
    };
    if rollout.created_new_set() {
        let message = format!("Created new replica set \"{}\"", name.unwrap_or_default());
        conditions.replace(PROGRESSING, "True", "NewReplicaSetCreated", &message);
        return;
    }
    if let (true, Some(name)) = (conditions.get(PROGRESSING).is_none(), name) {
        let message = format!("Found new replica set \"{name}\"");
        conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", &message);
    }
    let done_before = reason == DONE && status.replicas == status.updated_replicas;
    if done_before {
        return;
    }
    if is_complete(rollout, status) {
        conditions.set(PROGRESSING, "True", DONE, &format!("{subject} has successfully progressed."));
    } else if is_ahead(known, status) {
        conditions.replace(PROGRESSING, "True", "ReplicaSetUpdated", &format!("{subject} is progressing."));
    } else if reason != DONE && is_overdue(conditions, deadline_seconds) {
        conditions.set(PROGRESSING, "False", OVERDUE, &format!("{subject} has timed out progressing."));
    }
}

fn is_complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let wanted = (rollout.sizes.replicas > 0).then_some(rollout.sizes.replicas);
    status.updated_replicas == wanted && status.replicas == wanted && status.available_replicas == wanted
}

/// Something got better since the last look.
fn is_ahead(known: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    status.updated_replicas > known.updated_replicas
        || old(status) < old(known)
        || status.ready_replicas > known.ready_replicas
        || status.available_replicas > known.available_replicas
}

fn is_overdue(conditions: &Conditions, deadline_seconds: i32) -> bool {
    conditions.get(PROGRESSING).is_some_and(|condition| {
        let since = time::of(&condition.last_update_time).unwrap_or(conditions.now);
        condition.reason.as_deref() == Some(OVERDUE) || time::after(since, deadline_seconds.into()) <= conditions.now
    })
}

/// When to look whether the deadline has passed.
fn deadline_of(conditions: &Conditions, rollout: &Rollout<'_>, deadline_seconds: i32) -> Option<Timestamp> {
    let condition = conditions.get(PROGRESSING)?;
    let reason = condition.reason.as_deref().unwrap_or_default();
    if [DONE, OVERDUE, PAUSED].contains(&reason) || rollout.is_paused() {
        return None;
    }
    time::of(&condition.last_update_time).map(|since| time::after(since, deadline_seconds.into()))
}

/// What keeps a set from making pods is shown on the deployment.
fn copy_failure(conditions: &mut Conditions, rollout: &Rollout<'_>) {
    let newest_first = rollout.new_set().into_iter().chain(rollout.sets().iter().rev());
    let failure = newest_first
        .filter_map(|set| set.live.as_ref()?.status.as_ref()?.conditions.as_ref())
        .find_map(|conditions| conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE));
    match failure {
        Some(failure) => conditions.set(
            REPLICA_FAILURE,
            &failure.status,
            failure.reason.as_deref().unwrap_or_default(),
            failure.message.as_deref().unwrap_or_default(),
        ),
        None => conditions.remove(REPLICA_FAILURE),
    }
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == type_)
    }

    fn remove(&mut self, type_: &str) {
        self.list.retain(|condition| condition.type_ != type_);
    }

    /// Leaves a condition alone that says the same already.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let same = |condition: &&DeploymentCondition| {
            condition.status == status && condition.reason.as_deref() == Some(reason)
        };
        if self.get(type_).filter(same).is_none() {
            self.replace(type_, status, reason, message);
        }
    }

    /// Renews a condition, and with it the time from which the deadline counts.
    fn replace(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let known = self.get(type_).filter(|condition| condition.status == status);
        let since = known.and_then(|condition| condition.last_transition_time.clone()).unwrap_or(Time(self.now));
        let condition = DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(since),
            last_update_time: Some(Time(self.now)),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == type_) {
            Some(place) => *place = condition,
            None => self.list.push(condition),
        }
    }
}
