//! Limits of all objects of a namespace together.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};

use crate::{
    Row,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, immutable, list_at, map_at, text_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Request", "string", "What is used and may be used, but for limits."),
    column("Limit", "string", "The same of limits."),
    AGE,
];

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub fn row() -> Row {
    Row::new(
        kind::<ResourceQuota>("resourcequotas", "resourcequota", &["quota"], Scope::Namespaced, &[STATUS]),
        Hooks {
            validate: |quota, errors| {
                validate(quota, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec.scopes"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                let quota = object.value();
                let shown = |is_limit: bool| {
                    let of = map_at(quota, "status.hard").filter(|(name, _)| name.starts_with("limits.") == is_limit);
                    let one = |(name, hard): (&str, &Value)| {
                        let used = at(quota, "status.used").get(name).and_then(Value::as_str).unwrap_or("0");
                        format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
                    };
                    of.map(one).collect::<Vec<_>>().join(", ")
                };
                vec![row::name(object), json!(shown(false)), json!(shown(true)), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )
}

fn validate(quota: &Value, errors: &mut Errors) {
    let spec = Part { value: at(quota, "spec"), path: "spec" };
    spec.amounts("hard", errors);
    for (name, _) in map_at(quota, "spec.hard") {
        if let Err(why) = names::qualified_name(name) {
            errors.invalid(format!("spec.hard[{name}]"), name, &why);
        }
    }
    let scopes = list_at(quota, "spec.scopes");
    let has = |scope: &str| scopes.iter().any(|own| own == scope);
    if scopes.iter().any(|scope| !SCOPES.contains(&scope.as_str().unwrap_or_default())) {
        errors.invalid("spec.scopes", scopes, "unsupported scope");
    }
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        errors.invalid("spec.scopes", scopes, "conflicting scopes");
    }
    for (path, rule) in each(quota, "spec.scopeSelector.matchExpressions") {
        let part = Part { value: rule, path: &path };
        part.required("scopeName", errors);
        part.one_of("scopeName", SCOPES, errors);
        part.one_of("operator", &["DoesNotExist", "Exists", "In", "NotIn"], errors);
        let needs_values = ["In", "NotIn"].contains(&text_at(rule, "operator"));
        if needs_values != part.is_set("values") {
            let why = "must be specified when `operator` is 'In' or 'NotIn', and only then";
            if needs_values {
                errors.required(part.path_of("values"), why)
            } else {
                errors.invalid(part.path_of("values"), at(rule, "values"), why)
            }
        }
    }
}
