//! What containers, and pods as a whole, ask for and may use.
//!
//! Source of the rules about pods as a whole: KEP-2837; of those about resizing: KEP-1287.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::{
    Quantity,
    field::{Errors, Path},
    k8s_openapi::{
        api::core::v1::{Container, PodSpec, ResourceRequirements},
        apimachinery::pkg::api::resource,
    },
    names, quota,
};

use super::validate::{checked, one_of};

const RESIZE_POLICIES: &[&str] = &["NotRequired", "RestartContainer"];
const RESIZED: &[&str] = &["cpu", "memory"];

/// Says which resources may be named.
type Rule = fn(&str, &Path<'_>, &mut Errors);

pub fn of_container(container: &Container, is_init: bool, never_restarts: bool, path: &Path<'_>, errors: &mut Errors) {
    if let Some(resources) = &container.resources {
        validate(resources, for_containers, &path.at("resources"), errors);
    }
    let is_sidecar = container.restart_policy.as_deref() == Some("Always");
    let mut seen = BTreeSet::new();
    let path = path.at("resizePolicy");
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.duplicate(path.index(index), &policy.resource_name);
        }
        for (value, known) in [(&policy.resource_name, RESIZED), (&policy.restart_policy, RESIZE_POLICIES)] {
            match value.as_str() {
                "" => errors.required(path, ""),
                value => one_of(Some(value), path, known, errors),
            }
        }
        if never_restarts && policy.restart_policy != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(path, &policy.restart_policy, why);
        }
        if is_init && !is_sidecar && policy.restart_policy == "RestartContainer" {
            let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.invalid(path.index(index).at("restartPolicy"), &policy.restart_policy, why);
        }
    }
}

/// What a pod asks for as a whole must have room for what its containers ask for.
pub fn of_pod(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(whole) = &spec.resources else { return };
    let path = path.at("resources");
    if whole.claims.is_some() {
        errors.forbidden(path.at("claims"), "claims may not be set for Resources at pod-level");
    }
    validate(whole, for_pods, &path, errors);
    let containers = serde_json::to_value(spec).unwrap_or_default();
    let stated = |amounts: &Option<Amounts>| -> BTreeMap<String, Quantity> {
        let parsed = amounts
            .iter()
            .flatten()
            .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(&amount.0).ok()?)));
        parsed.collect()
    };
    let (requests, limits) = (stated(&whole.requests), stated(&whole.limits));
    for (name, sum) in quota::container_amounts(&containers, "requests") {
        if let Some(own) = requests.get(&name).filter(|own| sum > **own) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(path.at("requests").key(&name), own.to_string(), &why);
        }
    }
    for (name, sum) in quota::container_amounts(&containers, "limits") {
        if let Some(own) = limits.get(&name).filter(|own| name.starts_with("hugepages-") && sum > **own) {
            let why = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(path.at("limits").key(&name), own.to_string(), &why);
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let own = container.resources.as_ref().map(|resources| stated(&resources.limits)).unwrap_or_default();
        for (name, limit) in own {
            if let Some(whole) = limits.get(&name).filter(|whole| limit > **whole) {
                let why = format!("must be less than or equal to pod limits of {whole}");
                let path = path.at("containers");
                errors.invalid(path.index(index).key(&name).at("limits"), limit.to_string(), &why);
            }
        }
    }
}

fn for_containers(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if !name.contains('/') && !is_compute(name) {
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

fn for_pods(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

type Amounts = BTreeMap<String, resource::Quantity>;

fn validate(resources: &ResourceRequirements, rule: Rule, path: &Path<'_>, errors: &mut Errors) {
    let empty = Amounts::new();
    let limits = amounts(resources.limits.as_ref().unwrap_or(&empty), rule, &path.at("limits"), errors);
    let requests = amounts(resources.requests.as_ref().unwrap_or(&empty), rule, &path.at("requests"), errors);
    for (name, wanted) in &requests {
        if let Some(limit) = limits.get(name).filter(|limit| *wanted > **limit) {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(path.at("requests"), wanted.to_string(), &why);
        }
    }
}

fn amounts<'a>(amounts: &'a Amounts, rule: Rule, path: &Path<'_>, errors: &mut Errors) -> BTreeMap<&'a str, Quantity> {
    let mut parsed = BTreeMap::new();
    for (name, amount) in amounts {
        checked(names::qualified_name(name), name, path.key(name), errors);
        rule(name, &path.key(name), errors);
        match Quantity::parse(&amount.0) {
            Ok(quantity) if quantity.is_negative() => {
                errors.invalid(path.key(name), &amount.0, "must be greater than or equal to 0");
            }
            Ok(quantity) => {
                parsed.insert(&**name, quantity);
            }
            Err(why) => errors.invalid(path.key(name), &amount.0, &why),
        }
    }
    parsed
}

fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}
