//! CronJobs.

use copepod_api::{Scope, Timestamp, cron::Schedule, field::Errors, names};
use k8s_openapi::api::{batch::v1::CronJob, core::v1::PodTemplateSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::job;
use crate::{
    Row, age,
    apps::pods_cells,
    json::{default, object},
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, in_all, kind, wide},
    rules::{Part, at, list_at, text_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Schedule", "string", "When it runs."),
    column("Timezone", "string", "By which clock."),
    column("Suspend", "boolean", "Whether it rests."),
    column("Active", "integer", "How many of its jobs run."),
    column("Last Schedule", "string", "When the last one was due."),
    AGE,
    wide("Containers", "The names of the containers of a pod."),
    wide("Images", "Their images."),
    wide("Selector", "The labels of its pods."),
];

/// The name of a job is this one's with eleven letters of time after it.
const NAME_MAX: usize = 52;

pub fn row() -> Row {
    Row::new(
        in_all(kind::<CronJob>("cronjobs", "cronjob", &["cj"], Scope::Namespaced, &[STATUS])),
        Hooks {
            default: |cron| {
                let Some(spec) = object(cron, "spec") else { return };
                default(spec, "concurrencyPolicy", "Allow");
                default(spec, "suspend", false);
                default(spec, "successfulJobsHistoryLimit", 3);
                default(spec, "failedJobsHistoryLimit", 1);
                if let Some(template) = spec.pointer_mut("/jobTemplate/spec/template/spec") {
                    let mut spec = json!({"template": {"spec": template.take()}});
                    crate::core::pod::template_defaults(&mut spec);
                    *template = spec["template"]["spec"].take();
                }
            },
            validate: |object, errors| {
                let cron = CronJob::deserialize(object).map_err(|error| error.to_string())?;
                let template = cron.spec.job_template.spec.map(|spec| spec.template);
                validate(object, &template.unwrap_or_default(), errors);
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| {
                let cron = object.value();
                let last = text_at(cron, "status.lastScheduleTime").parse::<Timestamp>().ok();
                let zone = text_at(cron, "spec.timeZone");
                let mut cells = vec![
                    row::name(object),
                    json!(text_at(cron, "spec.schedule")),
                    json!(if zone.is_empty() { "<none>" } else { zone }),
                    json!(at(cron, "spec.suspend").as_bool().map_or("<unset>".to_owned(), |on| {
                        if on { "True".to_owned() } else { "False".to_owned() }
                    })),
                    json!(list_at(cron, "status.active").len()),
                    json!(last.map_or_else(|| "<none>".to_owned(), |last| age::since(Some(last), now))),
                    row::age(object, now),
                ];
                cells.extend(pods_cells(&json!({"spec": at(cron, "spec.jobTemplate.spec")})));
                cells
            },
            generation: true,
            name_rule: |name| match name.len() {
                0..=NAME_MAX => names::dns_subdomain(name),
                _ => Err(format!("must be no more than {NAME_MAX} characters")),
            },
            ..Hooks::NONE
        },
    )
}

fn validate(cron: &Value, template: &PodTemplateSpec, errors: &mut Errors) {
    let spec = Part { value: at(cron, "spec"), path: "spec" };
    spec.required("schedule", errors);
    let schedule = text_at(spec.value, "schedule");
    if schedule.contains("TZ") {
        errors.invalid("spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if let Err(why) = Schedule::parse(schedule)
        && !schedule.is_empty()
    {
        errors.invalid("spec.schedule", schedule, &why);
    }
    let zone = text_at(spec.value, "timeZone");
    if spec.value.get("timeZone").is_some_and(|zone| zone == "") {
        errors.invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string");
    } else if !zone.is_empty() && (zone.eq_ignore_ascii_case("local") || copepod_api::time::zone(zone).is_err()) {
        errors.invalid("spec.timeZone", zone, &format!("unknown time zone {zone}"));
    }
    spec.one_of("concurrencyPolicy", &["Allow", "Forbid", "Replace"], errors);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        spec.at_least(field, 0, errors);
    }
    let job_spec = Part { value: at(spec.value, "jobTemplate.spec"), path: "spec.jobTemplate.spec" };
    job::validate_spec(&job_spec, template, errors);
    if at(job_spec.value, "manualSelector") == true {
        errors.not_supported(job_spec.path_of("manualSelector"), "true", &["nil", "false"]);
    }
}
