//! DaemonSets.

use copepod_api::{
    Scope,
    field::{Errors, Path},
    selector::LabelSelector,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{immutable_selector, pods_cells, validate_pods};
use crate::{
    Row,
    core::pod::template_defaults,
    json::{default, number, object},
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, in_all, kind, wide},
    rules::{Part, at, map_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "How many nodes should run a pod of it."),
    column("Current", "integer", "How many do."),
    column("Ready", "integer", "On how many the pod is ready."),
    column("Up-to-date", "integer", "On how many the pod has the newest template."),
    column("Available", "integer", "On how many the pod can be relied on."),
    column("Node Selector", "string", "The labels of those nodes."),
    AGE,
    wide("Containers", "The names of the containers of a pod."),
    wide("Images", "Their images."),
    wide("Selector", "The labels of its pods."),
];

pub fn row() -> Row {
    Row::new(
        in_all(kind::<DaemonSet>("daemonsets", "daemonset", &["ds"], Scope::Namespaced, &[STATUS])),
        Hooks {
            default: defaults,
            validate: |object, errors| {
                let set = DaemonSet::deserialize(object).map_err(|error| error.to_string())?;
                let path = Path::root("spec");
                match &set.spec {
                    Some(spec) => validate_pods(&spec.selector, Some(&spec.template), &path, errors),
                    None => errors.required(path, ""),
                }
                validate(object, errors);
                Ok(())
            },
            validate_update: immutable_selector,
            columns: COLUMNS,
            cells: |object, now| {
                let set = object.value();
                let count = |field: &str| json!(number(set, &format!("/status/{field}")).unwrap_or(0));
                let nodes = map_at(set, "spec.template.spec.nodeSelector");
                let nodes = nodes.map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()));
                let nodes = LabelSelector::from_map(&nodes.collect()).to_string();
                let mut cells = vec![
                    row::name(object),
                    count("desiredNumberScheduled"),
                    count("currentNumberScheduled"),
                    count("numberReady"),
                    count("updatedNumberScheduled"),
                    count("numberAvailable"),
                    json!(if nodes.is_empty() { "<none>" } else { &nodes }),
                    row::age(object, now),
                ];
                cells.extend(pods_cells(set));
                cells
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    template_defaults(spec);
    if let Some(status) = set.get_mut("status") {
        for field in ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"] {
            default(status, field, 0);
        }
    }
}

fn validate(set: &Value, errors: &mut Errors) {
    let spec = Part { value: at(set, "spec"), path: "spec" };
    spec.at_least("minReadySeconds", 0, errors);
    spec.at_least("revisionHistoryLimit", 0, errors);
    spec.one_of("updateStrategy.type", &["OnDelete", "RollingUpdate"], errors);
    let rolling = |field: &str| {
        let value = at(spec.value, &format!("updateStrategy.rollingUpdate.{field}"));
        value.as_i64().or_else(|| value.as_str()?.strip_suffix('%')?.parse().ok())
    };
    match (rolling("maxUnavailable"), rolling("maxSurge")) {
        (Some(0), Some(0) | None) => {
            let path = "spec.updateStrategy.rollingUpdate.maxUnavailable";
            errors.invalid(path, 0, "cannot be 0 when maxSurge is 0");
        }
        (Some(1..), Some(1..)) => {
            let path = "spec.updateStrategy.rollingUpdate.maxSurge";
            errors.invalid(path, rolling("maxSurge"), "may not be set when maxUnavailable is non-zero");
        }
        _ => {}
    }
}
