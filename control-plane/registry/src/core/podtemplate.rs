//! Templates of pods, kept for later.

use copepod_api::{Scope, field::Path};
use k8s_openapi::api::core::v1::PodTemplate;
use serde::Deserialize;
use serde_json::json;

use super::pod::{template_defaults, validate_any_template};
use crate::{
    Row,
    apps::pods_cells,
    row::{self, Column, Hooks, NAME, column, kind},
    rules::{at, map_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Containers", "string", "The names of the containers of a pod."),
    column("Images", "string", "Their images."),
    column("Pod Labels", "string", "The labels of its pods."),
];

pub fn row() -> Row {
    Row::new(
        kind::<PodTemplate>("podtemplates", "podtemplate", &[], Scope::Namespaced, &[]),
        Hooks {
            default: template_defaults,
            validate: |object, errors| {
                let template = PodTemplate::deserialize(object).map_err(|error| error.to_string())?.template;
                let path = Path::root("template");
                validate_any_template(&template.unwrap_or_default(), &path, &["Always", "Never", "OnFailure"], errors);
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, _| {
                let [names, images, _] = pods_cells(&json!({"spec": {"template": at(object.value(), "template")}}));
                let labels = map_at(object.value(), "template.metadata.labels");
                let labels: Vec<String> =
                    labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
                vec![row::name(object), names, images, json!(labels.join(","))]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}
