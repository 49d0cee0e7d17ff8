//! ReplicaSets.

use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
};
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{at_least_zero, immutable_selector, pods_cells, validate_pods};
use crate::{
    Row,
    core::pod::template_defaults,
    json::{default, number, object},
    row::{self, AGE, Column, Hooks, NAME, SCALE, STATUS, column, in_all, kind, wide},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "How many pods are wanted."),
    column("Current", "integer", "How many pods there are."),
    column("Ready", "integer", "How many of them are ready."),
    AGE,
    wide("Containers", "The names of the containers of a pod."),
    wide("Images", "Their images."),
    wide("Selector", "The labels of its pods."),
];

pub fn row() -> Row {
    Row::new(
        in_all(kind::<ReplicaSet>("replicasets", "replicaset", &["rs"], Scope::Namespaced, &[SCALE, STATUS])),
        Hooks {
            default: |set| {
                if let Some(spec) = object(set, "spec") {
                    default(spec, "replicas", 1);
                    template_defaults(spec);
                }
                if let Some(status) = set.get_mut("status") {
                    default(status, "replicas", 0);
                }
            },
            validate: |object, errors| {
                validate(&ReplicaSet::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update: immutable_selector,
            fields: &[("status.replicas", |set| Some(number(set, "/status/replicas").unwrap_or(0).to_string()))],
            columns: COLUMNS,
            cells,
            generation: true,
            scale: true,
            ..Hooks::NONE
        },
    )
}

fn validate(set: &ReplicaSet, errors: &mut Errors) {
    let path = Path::root("spec");
    let Some(spec) = &set.spec else {
        errors.required(path, "");
        return;
    };
    at_least_zero(spec.replicas, path.at("replicas"), errors);
    at_least_zero(spec.min_ready_seconds, path.at("minReadySeconds"), errors);
    validate_pods(&spec.selector, spec.template.as_ref(), &path, errors);
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let set = object.value();
    let count = |pointer: &str| json!(number(set, pointer).unwrap_or(0));
    let mut cells = vec![
        row::name(object),
        count("/spec/replicas"),
        count("/status/replicas"),
        count("/status/readyReplicas"),
        row::age(object, now),
    ];
    cells.extend(pods_cells(set));
    cells
}
