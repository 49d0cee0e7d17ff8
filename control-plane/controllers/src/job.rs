//! Runs pods until enough of them have succeeded.

mod indexes;
mod policy;
mod tally;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeSet;

use copepod_api::{
    Action, DeleteOptions, Key, Object, Of, Plan, Request, Timestamp, Typed, User,
    k8s_openapi::{
        self,
        api::{
            batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods},
            core::v1::Pod,
        },
        apimachinery::pkg::apis::meta::v1::Time,
    },
    request::Propagation,
    resource,
    selector::LabelSelector,
};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use crate::{Controller, made, owned::Claims, time, write};
use tally::{Tally, completions, is_indexed};
use verdict::Verdict;

pub const CONTROLLER: Controller = Controller { name: "job-controller", wakes, all, reconcile, refused: crate::SILENT };

/// Holds a pod until it is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";

/// Who else may run a job than this controller (KEP-4368).
const OWN_NAME: &str = "kubernetes.io/job-controller";

/// How many pods one plan creates, deletes or lets go.
const BURST: usize = 500;

/// The pause after a failure, in seconds, doubled with each that follows.
const PAUSE: i64 = 10;
const PAUSE_MAX: i64 = 600;

fn all(view: &View) -> Vec<Key> {
    let jobs = view.objects(&Job::resource(), None).map(|job| job.key.clone());
    let strays = view.objects(&resource::PODS, None).filter(|pod| is_stray(view, pod)).map(|pod| pod.key.clone());
    jobs.chain(strays).collect()
}

fn job_of(pod: &Object) -> Option<Key> {
    let owner = pod.meta.controller().filter(|owner| owner.kind == <Job as k8s_openapi::Resource>::KIND)?;
    Some(Key::new(Job::resource(), pod.key.name.namespace.clone(), owner.name.as_str()))
}

fn is_held(finalizers: &[String]) -> bool {
    finalizers.iter().any(|finalizer| finalizer == TRACKING)
}

/// Held for a job that is gone: nobody will count it any more. Such a pod is looked at by its own key.
fn is_stray(view: &View, pod: &Object) -> bool {
    let Some(job) = job_of(pod).filter(|_| is_held(pod.meta.finalizers())) else { return false };
    let owner = pod.meta.controller().map(|owner| &owner.uid);
    view.object(&job).is_none_or(|job| Some(&job.meta.uid) != owner)
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == Job::resource() {
        return match event.kind {
            EventKind::Deleted => {
                let pods = view.dependents(&event.object.meta.uid).filter(|it| it.key.resource == resource::PODS);
                pods.map(|pod| pod.key.clone()).collect()
            }
            EventKind::Added | EventKind::Modified => vec![key.clone()],
        };
    }
    if key.resource != resource::PODS {
        return Vec::new();
    }
    let mut woken: Vec<Key> = is_stray(view, &event.object).then(|| key.clone()).into_iter().collect();
    for pod in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
        woken.extend(job_of(pod));
        if pod.meta.controller().is_none() {
            // Nobody's: whoever selects it may adopt it.
            let jobs = view.list::<Job>(Some(key.namespace()));
            let selecting = jobs.filter(|job| selector(job).is_some_and(|own| own.matches(&pod.meta.labels)));
            woken.extend(selecting.map(|job| job.key().clone()));
        }
    }
    woken.sort();
    woken.dedup();
    woken
}

fn selector(job: &Job) -> Option<LabelSelector> {
    LabelSelector::from_typed(job.spec.as_ref()?.selector.as_ref()?).ok()
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let user = User::system("system:controller:job-controller");
    let mut plan = Plan::nothing();
    if key.resource == resource::PODS {
        plan.requests.extend(view.object(key).filter(|pod| is_stray(view, pod)).map(|pod| let_go(&user, pod)));
        return plan;
    }
    let Some(job) = view.get::<Job>(key.namespace(), key.name()) else { return plan };
    let Some(spec) = job.spec.as_ref().filter(|spec| spec.managed_by.as_deref().unwrap_or(OWN_NAME) == OWN_NAME) else {
        return plan;
    };
    let Some(selector) = selector(&job) else { return plan };
    let claims = Claims::of::<Pod, Job>(view, &job, &selector);
    let status = job.status.clone().unwrap_or_default();
    if job.meta().is_leaving() || is_over(&status) {
        let held = claims.own.iter().filter(|pod| is_held(pod.meta.finalizers()));
        plan.requests.extend(held.take(BURST).map(|pod| let_go(&user, pod)));
        if !job.meta().is_leaving() {
            forget_in_time(&mut plan, &user, &job, spec, &status, now);
        }
        return plan;
    }
    if !write::is_open(view, key.namespace()) {
        return plan;
    }
    plan.requests.extend(claims.settle(&user, &job));
    work(&mut plan, &Work { view, user: &user, job: &job, spec, now }, &claims, status);
    plan
}

fn is_over(status: &JobStatus) -> bool {
    ["Complete", "Failed"].iter().any(|type_| verdict::condition(status, type_).is_some())
}

fn let_go(user: &User, pod: &Object) -> Request {
    let rest: Vec<&String> = pod.meta.finalizers().iter().filter(|finalizer| *finalizer != TRACKING).collect();
    write::patch(user, pod, json!({"metadata": {"finalizers": rest}}))
}

/// A job that is over goes by itself, where it says when (KEP-592).
fn forget_in_time(plan: &mut Plan, user: &User, job: &Of<Job>, spec: &JobSpec, status: &JobStatus, now: Timestamp) {
    let end = ["Complete", "Failed"].iter().find_map(|type_| verdict::condition(status, type_));
    let end = end.and_then(|condition| time::of(&condition.last_transition_time));
    let Some((end, seconds)) = end.zip(spec.ttl_seconds_after_finished) else { return };
    let due = time::after(end, seconds.into());
    if due <= now {
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        plan.push(write::delete(user, job.object(), options));
    } else {
        plan.look_again_at(due);
    }
}

/// What a decision about a job rests on.
struct Work<'a> {
    view: &'a View,
    user: &'a User,
    job: &'a Of<Job>,
    spec: &'a JobSpec,
    now: Timestamp,
}

impl Work<'_> {
    fn say(&self, plan: &mut Plan, kind: &str, reason: &str, message: String) {
        write::announce(plan, self.view, self.user, self.job.object(), write::News { kind, reason, message }, self.now);
    }
}

fn work(plan: &mut Plan, work: &Work<'_>, claims: &Claims, mut status: JobStatus) {
    let own = claims.own_as::<Pod>();
    let tally = Tally::of(work.job, work.spec, &own);
    plan.requests.extend(tally.counted.iter().map(|pod| let_go(work.user, pod.object())));
    let is_suspended = work.spec.suspend == Some(true);
    suspend(plan, work, &mut status, is_suspended);
    let verdict = Verdict::of(work.spec, &status, &tally, work.now);
    let mut gone = 0;
    let mut made = 0;
    if verdict.is_some() || is_suspended {
        if is_suspended {
            release(plan, work, &tally.active);
        }
        gone = delete(plan, work, &tally.active);
    } else {
        let wanted = wanted(work.spec, &tally);
        let surplus = tally.active.len().saturating_sub(wanted);
        if surplus > 0 {
            release(plan, work, &tally.active[wanted..]);
            gone = delete(plan, work, &tally.active[wanted..]);
        } else {
            made = create(plan, work, &tally, wanted);
        }
        plan.look_again_at(verdict::deadline(work.spec, &status));
    }
    let active = tally.active.len() - gone + made;
    if let Some(verdict) = &verdict {
        verdict::set(&mut status, verdict.interim(), true, &verdict.reason, &verdict.message, work.now);
        if active == 0 && gone == 0 && tally.leaving == 0 {
            verdict::set(&mut status, verdict.last(), true, &verdict.reason, &verdict.message, work.now);
            match verdict.well {
                true => {
                    status.completion_time = Some(Time(work.now));
                    work.say(plan, "Normal", "Completed", "Job completed".to_owned());
                }
                false => work.say(plan, "Warning", &verdict.reason, verdict.message.clone()),
            }
        } else {
            plan.because(format!("{} pods are on their way out", active + gone + tally.leaving));
        }
    }
    report(&mut status, work.spec, &tally, active, gone);
    if work.job.status.as_ref() != Some(&status) {
        plan.push(write::status(work.user, work.job, &status));
    }
}

fn suspend(plan: &mut Plan, work: &Work<'_>, status: &mut JobStatus, is_suspended: bool) {
    let was_suspended = verdict::condition(status, "Suspended").is_some();
    if is_suspended {
        status.start_time = None;
        if !was_suspended {
            verdict::set(status, "Suspended", true, "JobSuspended", "Job suspended", work.now);
            work.say(plan, "Normal", "Suspended", "Job suspended".to_owned());
        }
        return;
    }
    if was_suspended {
        verdict::set(status, "Suspended", false, "JobResumed", "Job resumed", work.now);
        work.say(plan, "Normal", "Resumed", "Job resumed".to_owned());
    }
    status.start_time.get_or_insert(Time(work.now));
}

fn report(status: &mut JobStatus, spec: &JobSpec, tally: &Tally<'_>, active: usize, gone: usize) {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let some = |count: i32| (count > 0).then_some(count);
    status.active = some(number(active));
    status.ready = Some(number(tally.ready));
    status.terminating = Some(number(tally.leaving + gone));
    status.succeeded = some(tally.succeeded);
    status.failed = some(tally.failed);
    // What upstream notes between counting and letting go happens at once here.
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    if is_indexed(spec) {
        let told = indexes::format(&tally.completed_indexes);
        status.completed_indexes = (!told.is_empty()).then_some(told);
        let per_index = spec.backoff_limit_per_index.is_some();
        status.failed_indexes = per_index.then(|| indexes::format(&tally.failed_indexes));
    }
}

/// How many pods are to run now.
fn wanted(spec: &JobSpec, tally: &Tally<'_>) -> usize {
    let number = |count: i32| usize::try_from(count).unwrap_or(0);
    let parallelism = number(spec.parallelism.unwrap_or(1));
    match spec.completions {
        Some(completions) => {
            let failed = if is_indexed(spec) { tally.failed_indexes.len() } else { 0 };
            parallelism.min(number(completions - tally.succeeded).saturating_sub(failed))
        }
        None if tally.succeeded > 0 => tally.active.len().min(parallelism),
        None => parallelism,
    }
}

/// Pods that the controller sends away without need count neither as failed nor as anything else.
fn release(plan: &mut Plan, work: &Work<'_>, pods: &[&Of<Pod>]) {
    let held = pods.iter().take(BURST).filter(|pod| is_held(pod.meta().finalizers()));
    plan.requests.extend(held.map(|pod| let_go(work.user, pod.object())));
}

fn delete(plan: &mut Plan, work: &Work<'_>, pods: &[&Of<Pod>]) -> usize {
    let pods = &pods[..pods.len().min(BURST)];
    if pods.is_empty() {
        return 0;
    }
    let names: Vec<String> = pods.iter().map(|pod| pod.key().name().to_owned()).collect();
    plan.requests.extend(pods.iter().map(|pod| write::delete(work.user, pod.object(), DeleteOptions::default())));
    work.say(plan, "Normal", "SuccessfulDelete", made::sentence("Deleted", &names));
    pods.len()
}

/// Makes the pods that are missing, after a pause where the last ones have failed.
fn create(plan: &mut Plan, work: &Work<'_>, tally: &Tally<'_>, wanted: usize) -> usize {
    let waits = work.spec.pod_replacement_policy.as_deref() == Some("Failed");
    let in_place = tally.active.len() + if waits { tally.leaving } else { 0 };
    let missing = wanted.saturating_sub(in_place).min(BURST);
    if missing == 0 {
        return 0;
    }
    if let Some(last) = tally.last_failure.filter(|_| tally.streak > 0) {
        let doublings = u32::try_from(tally.streak - 1).unwrap_or(0).min(16);
        let due = time::after(last, (PAUSE << doublings).min(PAUSE_MAX));
        if due > work.now {
            plan.look_again_at(due);
            plan.because(format!("{} pods have failed; the next ones wait", tally.streak));
            return 0;
        }
    }
    let template = &work.job.object().value()["spec"]["template"];
    let mut base = made::pod(work.job, template);
    base["metadata"]["finalizers"] = json!([TRACKING]);
    let pods: Vec<(String, Value)> = match is_indexed(work.spec) {
        true => indexed(work, tally, &base, missing),
        false => {
            let names = made::names(work.view, work.job, work.job.key().name());
            names.take(missing).map(|name| (name, base.clone())).collect()
        }
    };
    let names: Vec<String> = pods.iter().map(|(name, _)| name.clone()).collect();
    for (name, mut object) in pods {
        object["metadata"]["name"] = json!(name);
        let namespace = work.job.key().namespace();
        plan.push(Request::of::<Pod>(work.user, namespace, &name, "", Action::Create { object }));
    }
    if !names.is_empty() {
        work.say(plan, "Normal", "SuccessfulCreate", made::sentence("Created", &names));
    }
    names.len()
}

/// Pods for the lowest indexes that have none, each told which it is.
fn indexed(work: &Work<'_>, tally: &Tally<'_>, base: &Value, missing: usize) -> Vec<(String, Value)> {
    let job = work.job.key().name();
    let done: BTreeSet<u32> = tally.completed_indexes.union(&tally.failed_indexes).copied().collect();
    let free = (0..completions(work.spec)).filter(|index| !done.contains(index) && !tally.taken.contains(index));
    free.take(missing)
        .filter_map(|index| {
            let mut object = base.clone();
            for field in ["annotations", "labels"] {
                object["metadata"][field][COMPLETION_INDEX] = json!(index.to_string());
            }
            if work.spec.backoff_limit_per_index.is_some() {
                let failures = tally.index_failures.get(&index).copied().unwrap_or(0);
                object["metadata"]["annotations"][FAILURE_COUNT] = json!(failures.to_string());
            }
            if object["spec"]["hostname"].is_null() {
                object["spec"]["hostname"] = json!(format!("{job}-{index}"));
            }
            for list in ["initContainers", "containers"] {
                for container in object["spec"][list].as_array_mut().into_iter().flatten() {
                    tell_index(container);
                }
            }
            let name = made::names(work.view, work.job, &format!("{job}-{index}")).next()?;
            Some((name, object))
        })
        .collect()
}

fn tell_index(container: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let known = container["env"].as_array().into_iter().flatten().any(|variable| variable["name"] == NAME);
    if known {
        return;
    }
    let path = format!("metadata.annotations['{COMPLETION_INDEX}']");
    let variable = json!({"name": NAME, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    match container["env"].as_array_mut() {
        Some(variables) => variables.push(variable),
        None => container["env"] = json!([variable]),
    }
}
