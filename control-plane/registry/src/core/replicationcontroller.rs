//! ReplicationControllers: ReplicaSets of the first days.

use copepod_api::{
    Scope,
    field::{Errors, Path},
};
use k8s_openapi::api::core::v1::ReplicationController;
use serde::Deserialize;
use serde_json::{Value, json};

use super::pod::{template_defaults, validate_template};
use crate::{
    Row,
    apps::pods_cells,
    json::{default, number, object, set},
    row::{self, AGE, Column, Hooks, NAME, SCALE, STATUS, column, in_all, kind, wide},
    rules::{Part, at, map_at},
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
        in_all(kind::<ReplicationController>(
            "replicationcontrollers",
            "replicationcontroller",
            &["rc"],
            Scope::Namespaced,
            &[SCALE, STATUS],
        )),
        Hooks {
            default: |controller| {
                let labels = at(controller, "spec.template.metadata.labels").clone();
                if let Some(spec) = object(controller, "spec") {
                    default(spec, "replicas", 1);
                    if !labels.is_null() && at(spec, "selector").as_object().is_none_or(serde_json::Map::is_empty) {
                        set(spec, "selector", labels.clone());
                    }
                    template_defaults(spec);
                }
                if let Some(metadata) = object(controller, "metadata")
                    && at(metadata, "labels").is_null()
                    && !labels.is_null()
                {
                    set(metadata, "labels", labels);
                }
                if let Some(status) = controller.get_mut("status") {
                    default(status, "replicas", 0);
                }
            },
            validate: |object, errors| {
                let controller = ReplicationController::deserialize(object).map_err(|error| error.to_string())?;
                validate(object, &controller, errors);
                Ok(())
            },
            fields: &[("status.replicas", |controller| {
                Some(number(controller, "/status/replicas").unwrap_or(0).to_string())
            })],
            columns: COLUMNS,
            cells: |object, now| {
                let controller = object.value();
                let count = |pointer: &str| json!(number(controller, pointer).unwrap_or(0));
                let [names, images, _] = pods_cells(controller);
                let selector = map_at(controller, "spec.selector");
                let selector: Vec<String> =
                    selector.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
                vec![
                    row::name(object),
                    count("/spec/replicas"),
                    count("/status/replicas"),
                    count("/status/readyReplicas"),
                    row::age(object, now),
                    names,
                    images,
                    json!(selector.join(",")),
                ]
            },
            generation: true,
            scale: true,
            ..Hooks::NONE
        },
    )
}

fn validate(object: &Value, controller: &ReplicationController, errors: &mut Errors) {
    let part = Part { value: at(object, "spec"), path: "spec" };
    part.at_least("replicas", 0, errors);
    part.at_least("minReadySeconds", 0, errors);
    part.required("selector", errors);
    let path = Path::root("spec");
    let template = controller.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let Some(template) = template else {
        errors.required(path.at("template"), "");
        return;
    };
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let selects = |(key, value): (&str, &Value)| labels.get(key).is_some_and(|label| value == label);
    if !map_at(object, "spec.selector").all(selects) {
        errors.invalid("spec.template.metadata.labels", &labels, "`selector` does not match template `labels`");
    }
    validate_template(template, &path.at("template"), errors);
}
