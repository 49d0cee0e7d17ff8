//! Limits of single objects of a namespace.

use copepod_api::{Scope, field::Errors, quantity::Quantity};
use k8s_openapi::api::core::v1::LimitRange;
use serde_json::Value;

use crate::{
    Row, json as fields,
    row::{self, CREATED_AT, Hooks, NAME, kind},
    rules::{Part, at, each, map_at, quantity, text_at},
};

const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

pub fn row() -> Row {
    Row::new(
        kind::<LimitRange>("limitranges", "limitrange", &["limits"], Scope::Namespaced, &[]),
        Hooks {
            default,
            validate: |range, errors| {
                let mut seen = Vec::new();
                for (path, limit) in each(range, "spec.limits") {
                    let type_ = text_at(limit, "type");
                    if seen.contains(&type_) {
                        errors.duplicate(format!("{path}.type"), type_);
                    }
                    seen.push(type_);
                    validate(&Part { value: limit, path: &path }, errors);
                }
                Ok(())
            },
            columns: &[NAME, CREATED_AT],
            cells: |object, _| vec![row::name(object), row::created_at(object)],
            ..Hooks::NONE
        },
    )
}

/// Containers' limits default to the maximum, and their requests to the limit or else to the minimum.
fn default(range: &mut Value) {
    let Some(spec) = fields::object(range, "spec") else { return };
    for limit in fields::each(spec, "limits") {
        if text_at(limit, "type") != "Container" {
            continue;
        }
        for (field, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let source = at(limit, from).clone();
            for (name, value) in source.as_object().into_iter().flatten() {
                if let Some(own) = fields::object(limit, field) {
                    fields::default(own, name, value.clone());
                }
            }
        }
    }
}

fn validate(limit: &Part<'_>, errors: &mut Errors) {
    let type_ = text_at(limit.value, "type");
    limit.required("type", errors);
    limit.one_of("type", TYPES, errors);
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        limit.amounts(field, errors);
    }
    if type_ == "Pod" {
        for field in ["default", "defaultRequest"] {
            if limit.is_set(field) {
                errors.forbidden(limit.path_of(field), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    if type_ == "PersistentVolumeClaim"
        && at(limit.value, "min.storage").is_null()
        && at(limit.value, "max.storage").is_null()
    {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(limit.path_of("limits"), why);
    }
    let amount = |field: &str, name: &str| -> Option<Quantity> { quantity(at(limit.value, field).get(name)?).ok() };
    let mut names: Vec<&str> = ["max", "min", "default", "defaultRequest"]
        .iter()
        .flat_map(|field| map_at(limit.value, field).map(|(name, _)| name))
        .collect();
    names.sort_unstable();
    names.dedup();
    // Each of these may not be above the next: what it is called, where its fault is told, and the same of the other.
    const ORDER: &[(&str, &str, &str, &str, &str)] = &[
        ("min", "min value", "max", "max value", "min"),
        ("min", "min value", "defaultRequest", "default request value", "defaultRequest"),
        ("defaultRequest", "default request value", "max", "max value", "defaultRequest"),
        ("defaultRequest", "default request value", "default", "default limit value", "defaultRequest"),
        ("min", "min value", "default", "default value", "default"),
        ("default", "default value", "max", "max value", "default"),
    ];
    for name in names {
        for (low, low_name, high, high_name, told_at) in ORDER {
            let (Some(smaller), Some(larger)) = (amount(low, name), amount(high, name)) else { continue };
            if smaller > larger {
                let shown = if told_at == low { smaller } else { larger };
                let why = format!("{low_name} {smaller} is greater than {high_name} {larger}");
                errors.invalid(format!("{}[{name}]", limit.path_of(told_at)), shown.to_string(), &why);
            }
        }
    }
}
