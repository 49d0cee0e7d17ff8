//! Deployments.

use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStrategy},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{at_least_zero, immutable_selector, pods_cells, validate_pods};
use crate::{
    Row,
    core::pod::template_defaults,
    json::{default, number, object, remove, text},
    row::{self, AGE, Column, Hooks, NAME, SCALE, STATUS, column, in_all, kind, wide},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of its pods are ready."),
    column("Up-to-date", "string", "How many of its pods have the newest template."),
    column("Available", "string", "How many of its pods can be relied on."),
    AGE,
    wide("Containers", "The names of the containers of a pod."),
    wide("Images", "Their images."),
    wide("Selector", "The labels of its pods."),
];

const HISTORY: i32 = 10;
const PROGRESS_SECONDS: i32 = 600;
const QUARTER: &str = "25%";

pub fn row() -> Row {
    Row::new(
        in_all(kind::<Deployment>("deployments", "deployment", &["deploy"], Scope::Namespaced, &[SCALE, STATUS])),
        Hooks {
            default: defaults,
            validate: |object, errors| {
                validate(&Deployment::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update: immutable_selector,
            columns: COLUMNS,
            cells,
            generation: true,
            generation_counts_annotations: true,
            scale: true,
            ..Hooks::NONE
        },
    )
}

fn defaults(deployment: &mut Value) {
    let Some(spec) = object(deployment, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", HISTORY);
    default(spec, "progressDeadlineSeconds", PROGRESS_SECONDS);
    if let Some(strategy) = object(spec, "strategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == Some("RollingUpdate") {
            if let Some(rolling) = object(strategy, "rollingUpdate") {
                default(rolling, "maxUnavailable", QUARTER);
                default(rolling, "maxSurge", QUARTER);
            }
        } else if strategy.get("rollingUpdate").is_some_and(|rolling| rolling == &json!({})) {
            remove(strategy, "rollingUpdate");
        }
    }
    template_defaults(spec);
}

fn validate(deployment: &Deployment, errors: &mut Errors) {
    let path = Path::root("spec");
    let Some(spec) = &deployment.spec else {
        errors.required(path, "");
        return;
    };
    at_least_zero(spec.replicas, path.at("replicas"), errors);
    validate_pods(&spec.selector, Some(&spec.template), &path, errors);
    if let Some(strategy) = &spec.strategy {
        validate_strategy(strategy, &path.at("strategy"), errors);
    }
    at_least_zero(spec.min_ready_seconds, path.at("minReadySeconds"), errors);
    at_least_zero(spec.revision_history_limit, path.at("revisionHistoryLimit"), errors);
    at_least_zero(spec.progress_deadline_seconds, path.at("progressDeadlineSeconds"), errors);
    if let Some(seconds) = spec.progress_deadline_seconds
        && seconds <= spec.min_ready_seconds.unwrap_or(0)
    {
        errors.invalid(path.at("progressDeadlineSeconds"), seconds, "must be greater than minReadySeconds");
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path<'_>, errors: &mut Errors) {
    match strategy.type_.as_deref() {
        Some("Recreate") => {
            if strategy.rolling_update.is_some() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(path.at("rollingUpdate"), why);
            }
        }
        Some("RollingUpdate") => {
            let path = path.at("rollingUpdate");
            let Some(rolling) = &strategy.rolling_update else {
                errors.required(path, "this should be defaulted and never be nil");
                return;
            };
            let surge = amount(rolling.max_surge.as_ref(), path.at("maxSurge"), None, errors);
            let unavailable = amount(rolling.max_unavailable.as_ref(), path.at("maxUnavailable"), Some(100), errors);
            if surge == Some(0) && unavailable == Some(0) {
                let why = "may not be 0 when `maxSurge` is 0";
                errors.invalid(path.at("maxUnavailable"), &rolling.max_unavailable, why);
            }
        }
        other => errors.not_supported(path.at("type"), other.unwrap_or_default(), &["Recreate", "RollingUpdate"]),
    }
}

/// A number of pods, or a percentage of them; for the check of zero both are just numbers.
fn amount(value: Option<&IntOrString>, path: Path<'_>, percent_max: Option<i64>, errors: &mut Errors) -> Option<i64> {
    match value? {
        IntOrString::Int(number) if *number < 0 => {
            errors.invalid(path, number, "must be greater than or equal to 0");
            None
        }
        IntOrString::Int(number) => Some((*number).into()),
        IntOrString::String(text) => {
            let percent: Option<i64> = text
                .strip_suffix('%')
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok());
            match percent {
                None => errors.invalid(
                    path,
                    text,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%')",
                ),
                Some(percent) if percent_max.is_some_and(|max| percent > max) => {
                    errors.invalid(path, text, "must not be greater than 100%");
                }
                Some(_) => {}
            }
            percent
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let deployment = object.value();
    let count = |pointer: &str| number(deployment, pointer).unwrap_or(0);
    let mut cells = vec![
        row::name(object),
        json!(format!("{}/{}", count("/status/readyReplicas"), count("/spec/replicas"))),
        json!(count("/status/updatedReplicas")),
        json!(count("/status/availableReplicas")),
        row::age(object, now),
    ];
    cells.extend(pods_cells(deployment));
    cells
}
