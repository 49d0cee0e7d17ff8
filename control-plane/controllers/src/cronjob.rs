//! Makes jobs at the times of a schedule.

use std::cmp::Reverse;

use copepod_api::{
    Action, DeleteOptions, Key, Of, Plan, Request, Timestamp, Typed, User,
    cron::Schedule,
    k8s_openapi::{
        api::{
            batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job},
            core::v1::ObjectReference,
        },
        apimachinery::pkg::apis::meta::v1::Time,
    },
    request::Propagation,
    time as api_time,
};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::{Controller, owned, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "cronjob-controller", wakes, all, reconcile, refused: crate::SILENT };

/// When a job was due, for those that look at it (KEP-3850).
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

fn all(view: &View) -> Vec<Key> {
    view.objects(&CronJob::resource(), None).map(|cron| cron.key.clone()).collect()
}

fn wakes(_: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == CronJob::resource() {
        return vec![key.clone()];
    }
    let owner =
        event.object.meta.controller().filter(|owner| key.resource == Job::resource() && owner.kind == "CronJob");
    let cron = owner.map(|owner| Key::new(CronJob::resource(), key.name.namespace.clone(), owner.name.as_str()));
    cron.into_iter().collect()
}

/// How a job ended.
fn end(job: &Job) -> Option<(bool, Option<Timestamp>)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let holds = |type_: &str| conditions.iter().any(|own| own.type_ == type_ && own.status == "True");
    let at = job.status.as_ref().and_then(|status| time::of(&status.completion_time));
    match (holds("Complete"), holds("Failed")) {
        (true, _) => Some((true, at)),
        (_, true) => Some((false, at)),
        _ => None,
    }
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let mut plan = Plan::nothing();
    let cron = view.get::<CronJob>(key.namespace(), key.name()).filter(|cron| !cron.meta().is_leaving());
    let Some(cron) = cron.filter(|_| write::is_open(view, key.namespace())) else { return plan };
    let spec = &cron.spec;
    let user = User::system("system:controller:cronjob-controller");
    let jobs = view.dependents_of::<Job>(cron.uid()).filter(|job| owned::is_controlled_by(job.meta(), cron.uid()));
    let jobs: Vec<Of<Job>> = jobs.collect();
    let (active, ended): (Vec<&Of<Job>>, Vec<&Of<Job>>) = jobs.iter().partition(|job| end(job).is_none());
    tidy(&mut plan, &user, spec, &ended);

    let mut status = cron.status.clone().unwrap_or_default();
    let last_success = ended.iter().filter_map(|job| end(job).filter(|(well, _)| *well)?.1).max();
    if let Some(at) = last_success.filter(|at| time::of(&status.last_successful_time).is_none_or(|known| known < *at)) {
        status.last_successful_time = Some(Time(at));
    }
    let mut running: Vec<&Of<Job>> = active.iter().copied().filter(|job| !job.meta().is_leaving()).collect();
    if spec.suspend != Some(true) {
        start(&mut plan, &Due { view, user: &user, cron: &cron, spec, now }, &mut running, &mut status);
    }
    let references: Vec<ObjectReference> = running.iter().map(|job| reference(job)).collect();
    status.active = (!references.is_empty()).then_some(references);
    if cron.status.clone().unwrap_or_default() != status {
        plan.push(write::status(&user, &cron, &status));
    }
    plan
}

struct Due<'a> {
    view: &'a View,
    user: &'a User,
    cron: &'a Of<CronJob>,
    spec: &'a CronJobSpec,
    now: Timestamp,
}

impl Due<'_> {
    fn say(&self, plan: &mut Plan, kind: &str, reason: &str, message: String) {
        let news = write::News { kind, reason, message };
        write::announce(plan, self.view, self.user, self.cron.object(), news, self.now);
    }
}

/// Makes the job that is due. Of several times that were missed, only the last one counts.
fn start(plan: &mut Plan, due: &Due<'_>, running: &mut Vec<&Of<Job>>, status: &mut CronJobStatus) {
    let zone = match due.spec.time_zone.as_deref().map(api_time::zone) {
        Some(Err(error)) => {
            due.say(plan, "Warning", "UnknownTimeZone", format!("invalid timeZone: {error}"));
            return;
        }
        Some(Ok(zone)) => zone,
        None => api_time::UTC,
    };
    let schedule = match Schedule::parse(&due.spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            due.say(plan, "Warning", "UnparseableSchedule", format!("unparseable schedule: {error}"));
            return;
        }
    };
    plan.look_again_at(schedule.next(due.now, &zone));
    let born = due.cron.meta().creation_timestamp.unwrap_or(due.now);
    let mut since = time::of(&status.last_schedule_time).unwrap_or(born);
    if let Some(seconds) = due.spec.starting_deadline_seconds {
        since = since.max(time::after(due.now, seconds.saturating_neg()));
    }
    let Some(at) = schedule.last(since, due.now, &zone) else { return };
    let name = format!("{}-{}", due.cron.key().name(), at.as_second() / 60);
    match due.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            due.say(plan, "Normal", "JobAlreadyActive", message.to_owned());
            return;
        }
        Some("Replace") => {
            for job in running.drain(..) {
                let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
                plan.push(write::delete(due.user, job.object(), options));
                due.say(plan, "Normal", "SuccessfulDelete", format!("Deleted job {}", job.key().name()));
            }
        }
        _ => {}
    }
    let namespace = due.cron.key().namespace();
    if due.view.object(&Key::new(Job::resource(), namespace, name.as_str())).is_none() {
        let object = job(due, &name, at, &zone);
        plan.push(Request::of::<Job>(due.user, namespace, &name, "", Action::Create { object }));
        due.say(plan, "Normal", "SuccessfulCreate", format!("Created job {name}"));
    }
    status.last_schedule_time = Some(Time(at));
}

fn job(due: &Due<'_>, name: &str, at: Timestamp, zone: &api_time::TimeZone) -> Value {
    let template = &due.cron.object().value()["spec"]["jobTemplate"];
    let mut metadata = json!({
        "name": name, "namespace": due.cron.key().namespace(), "ownerReferences": [owned::reference(due.cron)],
    });
    for field in ["labels", "annotations"] {
        if template["metadata"][field].is_object() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    metadata["annotations"][SCHEDULED] = json!(api_time::rfc3339_at(at, zone));
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

fn reference(job: &Of<Job>) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: Some(job.key().name().to_owned()),
        namespace: Some(job.key().namespace().to_owned()),
        uid: Some(job.uid().to_owned()),
        resource_version: None,
        ..ObjectReference::default()
    }
}

/// Keeps the newest of those that have ended, as many as are wanted of each sort.
fn tidy(plan: &mut Plan, user: &User, spec: &CronJobSpec, ended: &[&Of<Job>]) {
    let limits =
        [(true, spec.successful_jobs_history_limit.unwrap_or(3)), (false, spec.failed_jobs_history_limit.unwrap_or(1))];
    for (well, limit) in limits {
        let mut own: Vec<&&Of<Job>> =
            ended.iter().filter(|job| end(job).is_some_and(|(ended, _)| ended == well)).collect();
        own.sort_by_key(|job| {
            let since = job.status.as_ref().and_then(|status| time::of(&status.start_time));
            (Reverse(since), job.key().name().to_owned())
        });
        for job in own.iter().skip(usize::try_from(limit).unwrap_or(0)).filter(|job| !job.meta().is_leaving()) {
            let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
            plan.push(write::delete(user, job.object(), options));
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::{Value, json};

    use crate::world::World;

    const KEY: &str = "cronjobs.batch default/tick";

    fn world(more: Value) -> World {
        let mut world = World::read("node n1");
        let mut spec = json!({
            "schedule": "* * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"of": "tick"}}, "spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "tick:1"}],
            }}}},
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        world.create("batch", "cronjobs", "CronJob", "default", "tick", json!({"spec": spec}));
        world
    }

    fn look(world: &mut World) -> String {
        let plan = world.plan(&super::CONTROLLER, KEY);
        world.apply(&plan);
        world.print(&plan)
    }

    fn finish(world: &mut World, name: &str, type_: &str) {
        let now = copepod_api::time::rfc3339(world.now);
        world.edit(&format!("jobs.batch default/{name}"), |job| {
            let condition = json!({"type": type_, "status": "True"});
            job["status"] = json!({"startTime": now, "completionTime": now, "conditions": [condition]});
        });
    }

    #[test]
    fn a_job_is_made_when_it_is_due_and_only_the_last_of_those_missed() {
        let mut world = world(Value::Null);
        assert_snapshot!(look(&mut world), @"
            look again in 20s
        ");
        world.wait(200);
        assert_snapshot!(look(&mut world), @"
            create job tick-16666670
            event SuccessfulCreate: Created job tick-16666670
            status cronjob tick {conditions:null,lastScheduleTime:2001-09-09T01:50:00Z}
            look again in 60s
        ");
        assert_snapshot!(look(&mut world), @"
            status cronjob tick {active:[{apiVersion:batch/v1,kind:Job,name:tick-16666670,namespace:default,uid:u4}],conditions:null,lastScheduleTime:2001-09-09T01:50:00Z}
            look again in 60s
        ");
        finish(&mut world, "tick-16666670", "Complete");
        world.wait(60);
        assert_snapshot!(look(&mut world), @"
            create job tick-16666671
            event SuccessfulCreate: Created job tick-16666671
            status cronjob tick {conditions:null,lastScheduleTime:2001-09-09T01:51:00Z,lastSuccessfulTime:2001-09-09T01:50:00Z}
            look again in 60s
        ");
        finish(&mut world, "tick-16666671", "Complete");
        assert_snapshot!(look(&mut world), @"
            delete job tick-16666670 Background
            status cronjob tick {conditions:null,lastScheduleTime:2001-09-09T01:51:00Z,lastSuccessfulTime:2001-09-09T01:51:00Z}
            look again in 60s
        ");
    }

    #[test]
    fn what_still_runs_forbids_the_next_or_is_replaced() {
        let mut forbids = world(json!({"concurrencyPolicy": "Forbid"}));
        let mut replaces = world(json!({"concurrencyPolicy": "Replace"}));
        for world in [&mut forbids, &mut replaces] {
            world.wait(60);
            look(world);
            look(world);
            world.wait(60);
        }
        assert_snapshot!(look(&mut forbids), @"
            event JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid
            look again in 20s
        ");
        assert_snapshot!(look(&mut replaces), @"
            delete job tick-16666667 Background
            event SuccessfulDelete: Deleted job tick-16666667
            create job tick-16666668
            event SuccessfulCreate: Created job tick-16666668
            status cronjob tick {conditions:null,lastScheduleTime:2001-09-09T01:48:00Z}
            look again in 20s
        ");
    }

    #[test]
    fn what_is_suspended_or_too_late_is_not_started() {
        let mut world = world(json!({"suspend": true, "schedule": "0 * * * *", "startingDeadlineSeconds": 30}));
        world.wait(3600);
        assert_snapshot!(look(&mut world), @"");
        world.edit(KEY, |cron| cron["spec"]["suspend"] = json!(false));
        assert_snapshot!(look(&mut world), @"
            look again in 800s
        ");
    }
}
