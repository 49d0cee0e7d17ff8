//! Which writes are meant: the rules that webhooks and policies share.

use copepod_api::{field::Errors, k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta, selector::LabelSelector};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    json as fields,
    rules::{Part, at, each, list_at, text_at},
};

/// How many conditions one webhook or policy may have.
const CONDITIONS_MAX: usize = 64;

pub fn default_rule(rule: &mut Value) {
    fields::default(rule, "scope", "*");
}

pub fn default_selectors(of: &mut Value) {
    for field in ["namespaceSelector", "objectSelector"] {
        fields::default(of, field, json!({}));
    }
    fields::default(of, "matchPolicy", "Equivalent");
}

pub fn rule(rule: &Part<'_>, errors: &mut Errors) {
    for field in ["apiGroups", "apiVersions", "resources", "operations"] {
        rule.required(field, errors);
        let items = list_at(rule.value, field);
        let is_all = |item: &Value| item == "*" || item == "*/*";
        if items.len() > 1 && items.iter().any(is_all) && field != "resources" {
            let what = if field == "operations" { "operations" } else { field };
            errors.invalid(rule.path_of(field), items, &format!("if '*' is present, must not specify other {what}"));
        }
    }
    for (own, version) in each(rule.value, "apiVersions").filter(|(_, version)| *version == "") {
        errors.required(rule.path_of(&own), version.as_str().unwrap_or_default());
    }
    for (own, operation) in each(rule.value, "operations") {
        const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(rule.path_of(&own), operation, OPERATIONS);
        }
    }
    rule.one_of("scope", &["*", "Cluster", "Namespaced"], errors);
}

pub fn selectors(of: &Part<'_>, errors: &mut Errors) {
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = meta::LabelSelector::deserialize(at(of.value, field)).map_err(|error| error.to_string());
        if let (true, Err(why)) =
            (of.is_set(field), selector.and_then(|selector| LabelSelector::from_typed(&selector).map(drop)))
        {
            errors.invalid(of.path_of(field), at(of.value, field), &why);
        }
    }
    of.one_of("matchPolicy", &["Equivalent", "Exact"], errors);
}

/// `matchConditions`: names that are there once, and expressions.
pub fn conditions(of: &Part<'_>, errors: &mut Errors) {
    let conditions = list_at(of.value, "matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.add(
            "FieldValueTooMany",
            of.path_of("matchConditions"),
            format!("Too many: {}: must have at most {CONDITIONS_MAX} items", conditions.len()),
        );
    }
    let mut seen = Vec::new();
    for (own, value) in each(of.value, "matchConditions") {
        let path = of.path_of(&own);
        let condition = Part { value, path: &path };
        condition.required("name", errors);
        condition.required("expression", errors);
        condition.named("name", copepod_api::names::qualified_name, errors);
        let name = text_at(value, "name");
        if seen.contains(&name) {
            errors.duplicate(condition.path_of("name"), name);
        }
        seen.push(name);
    }
}
