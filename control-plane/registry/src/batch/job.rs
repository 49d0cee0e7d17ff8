//! Jobs.

use std::collections::BTreeMap;

use copepod_api::{
    Object, Scope, StatusResult, Timestamp,
    field::{Errors, Path},
    k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta,
    selector::LabelSelector,
};
use k8s_openapi::api::{batch::v1::Job, core::v1::PodTemplateSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row, age,
    apps::pods_cells,
    core::pod::{template_defaults, validate_any_template},
    json::{self as fields, default, each, object},
    pipeline::World,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, in_all, kind, wide},
    rules::{self, Part, at, immutable, list_at, text_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", "What became of it."),
    column("Completions", "string", "How many of its pods have succeeded."),
    column("Duration", "string", "How long it took, or has taken so far."),
    AGE,
    wide("Containers", "The names of the containers of a pod."),
    wide("Images", "Their images."),
    wide("Selector", "The labels of its pods."),
];

/// Labels by which a job knows its pods, in the two spellings that there are.
const UID: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Completions of an indexed job are listed in its status.
const INDEXED_MAX: i64 = 1_000_000;

pub fn row() -> Row {
    Row::new(
        in_all(kind::<Job>("jobs", "job", &[], Scope::Namespaced, &[STATUS])),
        Hooks {
            default: defaults,
            admit,
            validate: |object, errors| {
                let job = Job::deserialize(object).map_err(|error| error.to_string())?;
                let path = Path::root("spec");
                let Some(spec) = &job.spec else {
                    errors.required(path, "");
                    return Ok(());
                };
                validate_spec(&Part { value: at(object, "spec"), path: "spec" }, &spec.template, errors);
                selected(object, errors);
                Ok(())
            },
            validate_update,
            fields: &[("status.successful", |job| Some(at(job, "status.succeeded").as_i64().unwrap_or(0).to_string()))],
            columns: COLUMNS,
            cells,
            generation: true,
            ..Hooks::NONE
        },
    )
}

pub fn defaults(job: &mut Value) {
    let Some(spec) = object(job, "spec") else { return };
    if at(spec, "completions").is_null() && at(spec, "parallelism").is_null() {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let per_index = !at(spec, "backoffLimitPerIndex").is_null();
    default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    let replaces = !at(spec, "podFailurePolicy").is_null();
    default(spec, "podReplacementPolicy", if replaces { "Failed" } else { "TerminatingOrFailed" });
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in each(policy, "rules") {
            for condition in each(rule, "onPodConditions") {
                default(condition, "status", "True");
            }
        }
    }
    if at(spec, "manualSelector") == false {
        fields::remove(spec, "manualSelector");
    }
    template_defaults(spec);
}

/// A job selects its pods by its own uid, unless it insists on doing that by hand.
fn admit(_: &mut World<'_>, job: &mut Value) -> StatusResult<()> {
    let (uid, name) = (text_at(job, "metadata.uid").to_owned(), text_at(job, "metadata.name").to_owned());
    let Some(spec) = object(job, "spec") else { return Ok(()) };
    if at(spec, "manualSelector") == true {
        return Ok(());
    }
    let labels = object(spec, "template").and_then(|template| object(template, "metadata"));
    if let Some(labels) = labels.and_then(|metadata| object(metadata, "labels")) {
        for label in UID {
            fields::set(labels, label, uid.as_str());
        }
        for label in NAMES {
            fields::set(labels, label, name.as_str());
        }
    }
    if let Some(matched) = object(spec, "selector").and_then(|selector| object(selector, "matchLabels")) {
        fields::set(matched, UID[0], uid.as_str());
    }
    Ok(())
}

fn selected(job: &Value, errors: &mut Errors) {
    let selector = meta::LabelSelector::deserialize(at(job, "spec.selector")).unwrap_or_default();
    let labels = rules::map_at(job, "spec.template.metadata.labels");
    let labels: BTreeMap<String, String> =
        labels.map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned())).collect();
    match LabelSelector::from_typed(&selector) {
        Err(why) => errors.invalid("spec.selector", &selector, &why),
        Ok(parsed) if selector == meta::LabelSelector::default() || !parsed.matches(&labels) => {
            let why = "`selector` does not match template `labels`";
            errors.invalid("spec.template.metadata.labels", &labels, why);
        }
        Ok(_) => {}
    }
}

/// The spec of a job, also of one that a CronJob will make.
pub fn validate_spec(spec: &Part<'_>, template: &PodTemplateSpec, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.at_least(field, 0, errors);
    }
    spec.one_of("completionMode", &["Indexed", "NonIndexed"], errors);
    spec.one_of("podReplacementPolicy", &["Failed", "TerminatingOrFailed"], errors);
    let is_indexed = text_at(spec.value, "completionMode") == "Indexed";
    if is_indexed {
        let completions = at(spec.value, "completions").as_i64();
        if completions.is_none() {
            errors.required(spec.path_of("completions"), "when completion mode is Indexed");
        }
        if completions.is_some_and(|completions| completions > INDEXED_MAX) {
            let why = format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
            errors.invalid(spec.path_of("completions"), completions, &why);
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if !at(spec.value, field).is_null() {
                errors.invalid(spec.path_of(field), at(spec.value, field), "requires indexed completion mode");
            }
        }
    }
    if !at(spec.value, "maxFailedIndexes").is_null() && at(spec.value, "backoffLimitPerIndex").is_null() {
        errors.required(spec.path_of("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    failure_policy(spec, errors);
    let (root, steps) = spec.path.split_once('.').map_or((spec.path, None), |(root, rest)| (root, Some(rest)));
    let root = Path::root(root);
    let inner = steps.map(|step| root.at(step));
    let path = inner.as_ref().unwrap_or(&root);
    let restart = template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let path = path.at("template");
    if restart == Some("Always") {
        let spec_path = path.at("spec");
        let valid = "valid values: \"OnFailure\", \"Never\"";
        errors.required(spec_path.at("restartPolicy"), valid);
    }
    validate_any_template(template, &path, &["Always", "Never", "OnFailure"], errors);
}

fn failure_policy(spec: &Part<'_>, errors: &mut Errors) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    if !spec.is_set("podFailurePolicy") {
        return;
    }
    if text_at(spec.value, "template.spec.restartPolicy") != "Never" {
        let path = spec.path_of("template.spec.restartPolicy");
        errors.invalid(
            path,
            text_at(spec.value, "template.spec.restartPolicy"),
            "only \"Never\" is supported when podFailurePolicy is specified",
        );
    }
    for (own, rule) in rules::each(spec.value, "podFailurePolicy.rules") {
        let path = spec.path_of(&own);
        let rule = Part { value: rule, path: &path };
        rule.required("action", errors);
        rule.one_of("action", ACTIONS, errors);
        match (rule.is_set("onExitCodes"), rule.is_set("onPodConditions")) {
            (true, true) => {
                errors.invalid(&path, "", "specifying both OnExitCodes and OnPodConditions is not supported")
            }
            (false, false) => {
                errors.invalid(&path, "", "specifying one of OnExitCodes and OnPodConditions is required")
            }
            (true, false) => {
                rule.one_of("onExitCodes.operator", &["In", "NotIn"], errors);
                rule.required("onExitCodes.values", errors);
                let values = list_at(rule.value, "onExitCodes.values");
                if text_at(rule.value, "onExitCodes.operator") == "In" && values.iter().any(|value| value == 0) {
                    errors.invalid(rule.path_of("onExitCodes.values"), 0, "must not be 0 for the In operator");
                }
            }
            (false, true) => {}
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(
        new,
        old,
        &[
            "spec.selector",
            "spec.completionMode",
            "spec.podFailurePolicy",
            "spec.backoffLimitPerIndex",
            "spec.managedBy",
            "spec.successPolicy",
        ],
        errors,
    );
    let is_indexed = text_at(new, "spec.completionMode") == "Indexed";
    let elastic = is_indexed && at(new, "spec.completions") == at(new, "spec.parallelism");
    if !elastic {
        immutable(new, old, &["spec.completions"], errors);
    }
    // Where its pods may run can still be decided while none was started.
    let not_begun = at(old, "spec.suspend") == true && text_at(old, "status.startTime").is_empty();
    let shown = |job: &Value| {
        let mut template = at(job, "spec.template").clone();
        if not_begun {
            for pointer in [
                "/metadata/labels",
                "/metadata/annotations",
                "/spec/nodeSelector",
                "/spec/tolerations",
                "/spec/affinity",
                "/spec/schedulingGates",
            ] {
                if let Some(value) = template.pointer_mut(pointer) {
                    *value = Value::Null;
                }
            }
        }
        template
    };
    if shown(new) != shown(old) {
        errors.invalid("spec.template", at(new, "spec.template"), "field is immutable");
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let job = object.value();
    let has = |type_: &str| {
        let conditions = list_at(job, "status.conditions");
        conditions.iter().any(|condition| text_at(condition, "type") == type_ && text_at(condition, "status") == "True")
    };
    let state = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if object.meta.is_leaving() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let succeeded = at(job, "status.succeeded").as_i64().unwrap_or(0);
    let completions = match (at(job, "spec.completions").as_i64(), at(job, "spec.parallelism").as_i64()) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, Some(parallelism @ 2..)) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |path: &str| text_at(job, path).parse::<Timestamp>().ok();
    let duration = match (time("status.startTime"), time("status.completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => age::human(end.unwrap_or(now).duration_since(start)),
    };
    let mut cells = vec![row::name(object), json!(state), json!(completions), json!(duration), row::age(object, now)];
    cells.extend(pods_cells(job));
    cells
}
