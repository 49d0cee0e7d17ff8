//! Roles and cluster roles: lists of what may be done.

use copepod_access::escalation::check_role;
use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
    selector::LabelSelector,
};
use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule, Role};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard;
use crate::{
    Row,
    json::text,
    row::{self, Column, Hooks, NAME, column, kind},
};

const COLUMNS: &[Column] = &[NAME, column("Created At", "string", "When the object was created.")];

const SHARED: Hooks = Hooks {
    guard: |world, request, new, old| guard(world, request, new, old, check_role),
    columns: COLUMNS,
    cells,
    name_rule: copepod_api::names::path_segment,
    ..Hooks::NONE
};

pub fn row() -> Row {
    Row::new(
        kind::<Role>("roles", "role", &[], Scope::Namespaced, &[]),
        Hooks {
            validate: |object, errors| {
                let role = Role::deserialize(object).map_err(|error| error.to_string())?;
                rules(role.rules.as_deref().unwrap_or_default(), true, errors);
                Ok(())
            },
            ..SHARED
        },
    )
}

pub fn cluster_row() -> Row {
    Row::new(
        kind::<ClusterRole>("clusterroles", "clusterrole", &[], Scope::Cluster, &[]),
        Hooks {
            validate: |object, errors| {
                let role = ClusterRole::deserialize(object).map_err(|error| error.to_string())?;
                rules(role.rules.as_deref().unwrap_or_default(), false, errors);
                role.aggregation_rule.iter().for_each(|rule| aggregation(rule, errors));
                Ok(())
            },
            ..SHARED
        },
    )
}

fn rules(rules: &[PolicyRule], is_namespaced: bool, errors: &mut Errors) {
    let path = Path::root("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let (urls, resources) = (rule.non_resource_urls.iter().flatten(), rule.resources.iter().flatten());
        let (groups, names) = (rule.api_groups.iter().flatten(), rule.resource_names.iter().flatten());
        let (urls, n_resources, n_groups, n_names) =
            (urls.collect::<Vec<_>>(), resources.count(), groups.count(), names.count());
        if rule.verbs.is_empty() {
            errors.required(path.at("verbs"), "verbs must contain at least one value");
        }
        if !urls.is_empty() {
            if is_namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(path.at("nonResourceURLs"), &urls, why);
            }
            if n_resources + n_groups + n_names > 0 {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(path.at("nonResourceURLs"), &urls, why);
            }
            continue;
        }
        if n_groups == 0 {
            errors.required(path.at("apiGroups"), "resource rules must supply at least one api group");
        }
        if n_resources == 0 {
            errors.required(path.at("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn aggregation(rule: &AggregationRule, errors: &mut Errors) {
    let path = Path::root("aggregationRule");
    let path = path.at("clusterRoleSelectors");
    let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        errors.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (index, selector) in selectors.iter().enumerate() {
        if let Err(why) = LabelSelector::from_typed(selector) {
            errors.invalid(path.index(index), selector, &why);
        }
    }
}

fn cells(object: &Object, _: Timestamp) -> Vec<Value> {
    let created = text(object.value(), "/metadata/creationTimestamp").unwrap_or_default();
    vec![row::name(object), json!(created)]
}
