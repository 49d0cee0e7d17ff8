//! CronJobs.

use copepod_api::{Scope, Timestamp, field::Errors, names};
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
    } else if let Err(why) = check_schedule(schedule)
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

/// Five fields of minutes, hours, days, months and weekdays, or one of the words for common ones.
fn check_schedule(schedule: &str) -> Result<(), String> {
    const WORDS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if let Some(every) = schedule.strip_prefix("@every ") {
        let is_duration = every.chars().next().is_some_and(|letter| letter.is_ascii_digit());
        return if is_duration { Ok(()) } else { Err(format!("failed to parse duration {schedule}")) };
    }
    if WORDS.contains(&schedule) {
        return Ok(());
    }
    if schedule.starts_with('@') {
        return Err(format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        let count = fields.len();
        return Err(format!("expected exactly 5 fields, found {count}: [{}]", fields.join(" ")));
    }
    const RANGES: &[(u32, u32, &[&str])] = &[
        (0, 59, &[]),
        (0, 23, &[]),
        (1, 31, &[]),
        (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
        (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    ];
    fields
        .iter()
        .zip(RANGES)
        .try_for_each(|(field, range)| field.split(',').try_for_each(|part| check_part(part, range)))
}

fn check_part(part: &str, (low, high, words): &(u32, u32, &[&str])) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        let word = words.iter().position(|word| text.eq_ignore_ascii_case(word));
        let number = match word {
            Some(at) => u32::try_from(at).unwrap_or(0) + low,
            None => text.parse().map_err(|_| format!("failed to parse int from {text}: invalid syntax"))?,
        };
        match number {
            number if number < *low => Err(format!("beginning of range ({number}) below minimum ({low}): {part}")),
            number if number > *high => Err(format!("end of range ({number}) above maximum ({high}): {part}")),
            number => Ok(number),
        }
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step
        && step.parse::<u32>().ok().is_none_or(|step| step == 0)
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if range == "*" || range == "?" {
        return Ok(());
    }
    match range.split_once('-') {
        None => number(range).map(drop),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if first > last => {
                Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"))
            }
            _ => Ok(()),
        },
    }
}
