//! Workloads: `apps/v1`.

mod daemonset;
mod deployment;
mod replicaset;
mod revision;
mod statefulset;

use copepod_api::{
    field::{Errors, Path},
    selector::LabelSelector,
};
use k8s_openapi::{api::core::v1::PodTemplateSpec, apimachinery::pkg::apis::meta::v1 as meta};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row,
    core::pod::validate_template,
    json::{items, text},
};

pub(crate) fn rows() -> Vec<Row> {
    vec![revision::row(), daemonset::row(), deployment::row(), replicaset::row(), statefulset::row()]
}

/// The selector of a workload and the template of its pods, which must fit each other.
fn validate_pods(
    selector: &meta::LabelSelector,
    template: Option<&PodTemplateSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let empty = PodTemplateSpec::default();
    let template = template.unwrap_or(&empty);
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let is_empty = selector.match_labels.as_ref().is_none_or(|map| map.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|list| list.is_empty());
    if *selector == meta::LabelSelector::default() {
        errors.required(path.at("selector"), "it must select the labels of the template");
    } else if is_empty {
        errors.invalid(path.at("selector"), json!({}), "empty selector is invalid for deployment");
    } else {
        match LabelSelector::from_typed(selector) {
            Err(why) => errors.invalid(path.at("selector"), selector, &why),
            Ok(selector) if !selector.matches(&labels) => {
                let template = path.at("template");
                let metadata = template.at("metadata");
                errors.invalid(metadata.at("labels"), &labels, "`selector` does not match template `labels`");
            }
            Ok(_) => {}
        }
    }
    validate_template(template, &path.at("template"), errors);
}

fn at_least_zero(value: Option<i32>, path: Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| *value < 0) {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

fn immutable_selector(new: &Value, old: &Value, errors: &mut Errors) {
    if new.pointer("/spec/selector") != old.pointer("/spec/selector") {
        let path = Path::root("spec");
        errors.invalid(path.at("selector"), new.pointer("/spec/selector"), "field is immutable");
    }
}

/// The columns that tell what runs in the pods of a workload: names, images, selector.
pub(crate) fn pods_cells(workload: &Value) -> [Value; 3] {
    let containers = items(workload, "/spec/template/spec/containers");
    let join = |pointer: &str| {
        containers.iter().filter_map(|container| text(container, pointer)).collect::<Vec<_>>().join(",")
    };
    let selector = workload
        .pointer("/spec/selector")
        .and_then(|selector| meta::LabelSelector::deserialize(selector).ok())
        .and_then(|selector| LabelSelector::from_typed(&selector).ok())
        .map(|selector| selector.to_string());
    [json!(join("/name")), json!(join("/image")), json!(selector.unwrap_or_else(|| "<none>".to_owned()))]
}
