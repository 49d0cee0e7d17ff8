//! LimitRanger: what containers, pods and claims of a namespace may ask for, and what they get that ask for nothing.

use std::collections::BTreeSet;

use copepod_api::{
    Quantity, Resource, StatusResult,
    quota::{self, Amounts},
    resource::PODS,
};
use serde_json::{Value, json};

use super::{NONE, Plugin, Write, told};
use crate::{
    json::{default, each, items, object, set, text},
    pipeline::World,
};

pub const PLUGIN: Plugin = Plugin { complete, judge, ..NONE };

const RANGES: Resource = Resource::known("", "limitranges");
const CLAIMS: Resource = Resource::known("", "persistentvolumeclaims");

/// Tells what a pod did not ask for itself.
const NOTE: &str = "kubernetes.io/limit-ranger";

/// The items of a type in all ranges of a namespace.
fn items_of(world: &World<'_>, namespace: &str, type_: &str) -> Vec<Value> {
    let ranges = world.view.objects(&RANGES, Some(namespace));
    let all = ranges.flat_map(|range| items(range.value(), "/spec/limits").to_vec());
    all.filter(|item| text(item, "/type") == Some(type_)).collect()
}

fn complete(world: &mut World<'_>, write: &Write<'_>, pod: &mut Value) -> StatusResult<()> {
    if !write.is_new(&PODS) {
        return Ok(());
    }
    let mut notes = Vec::new();
    for item in items_of(world, write.namespace(), "Container") {
        let Some(spec) = object(pod, "spec") else { return Ok(()) };
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in each(spec, list) {
                for (field, from) in [("requests", "defaultRequest"), ("limits", "default")] {
                    let filled = fill(container, field, &item[from]);
                    if !filled.is_empty() {
                        let name = text(container, "/name").unwrap_or_default();
                        let field = field.trim_end_matches('s');
                        notes.push(format!("{} {field} for {what} {name}", filled.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty()
        && let Some(metadata) = object(pod, "metadata")
        && let Some(annotations) = object(metadata, "annotations")
    {
        set(annotations, NOTE, format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
    Ok(())
}

/// Gives a container the amounts that it does not state; the names of those.
fn fill(container: &mut Value, field: &str, amounts: &Value) -> Vec<String> {
    let Some(amounts) = amounts.as_object().filter(|amounts| !amounts.is_empty()) else { return Vec::new() };
    let stated = |container: &Value, name: &str| {
        container.pointer("/resources").and_then(|own| own.get(field)).is_some_and(|own| own.get(name).is_some())
    };
    let missing: Vec<String> = amounts.keys().filter(|name| !stated(container, name)).cloned().collect();
    if missing.is_empty() {
        return missing;
    }
    if let Some(own) = object(container, "resources").and_then(|resources| object(resources, field)) {
        for name in &missing {
            default(own, name, amounts[name].clone());
        }
    }
    missing
}

fn judge(world: &mut World<'_>, write: &Write<'_>, object: &Value) -> StatusResult<()> {
    let mut faults = Vec::new();
    let is_resize = write.is_of(&PODS) && &*write.request.target.subresource == "resize";
    if write.is_new(&PODS) || is_resize {
        for item in items_of(world, write.namespace(), "Container") {
            for list in ["/spec/containers", "/spec/initContainers"] {
                for container in items(object, list) {
                    let of = |which: &str| quota::amounts(&container["resources"][which]);
                    check(&item, "Container", &of("requests"), &of("limits"), &mut faults);
                }
            }
        }
        for item in items_of(world, write.namespace(), "Pod") {
            let of = |which: &str| quota::pod_amounts(object, which);
            check(&item, "Pod", &of("requests"), &of("limits"), &mut faults);
        }
    }
    if write.is_of(&CLAIMS) && write.request.target.subresource.is_empty() {
        for item in items_of(world, write.namespace(), "PersistentVolumeClaim") {
            let requests = quota::amounts(object.pointer("/spec/resources/requests").unwrap_or(&json!({})));
            // A claim has no limits; the bounds are about what it asks for.
            for (name, bound) in quota::amounts(&item["min"]) {
                faults.extend(below(&name, "PersistentVolumeClaim", bound, requests.get(&name), None));
            }
            for (name, bound) in quota::amounts(&item["max"]) {
                faults.extend(above(&name, "PersistentVolumeClaim", bound, requests.get(&name), "request"));
            }
        }
    }
    let mut told_once = BTreeSet::new();
    faults.retain(|fault| told_once.insert(fault.clone()));
    if faults.is_empty() { Ok(()) } else { Err(write.forbidden(object, told(&faults))) }
}

fn check(item: &Value, type_: &str, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    for (name, bound) in quota::amounts(&item["min"]) {
        faults.extend(below(&name, type_, bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in quota::amounts(&item["max"]) {
        let limit = limits.get(&name);
        let asked = requests.get(&name).filter(|asked| **asked > bound);
        match (limit, asked) {
            (Some(limit), _) if *limit > bound => {
                faults.push(format!("maximum {name} usage per {type_} is {bound}, but limit is {limit}"));
            }
            (None, _) => faults.push(format!("maximum {name} usage per {type_} is {bound}.  No limit is specified")),
            (_, Some(asked)) => {
                faults.push(format!("maximum {name} usage per {type_} is {bound}, but request is {asked}"));
            }
            _ => {}
        }
    }
    for (name, most) in quota::amounts(&item["maxLimitRequestRatio"]) {
        faults.extend(out_of_proportion(&name, type_, most, requests.get(&name), limits.get(&name)));
    }
}

fn below(
    name: &str,
    type_: &str,
    bound: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let about = format!("minimum {name} usage per {type_} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{about}.  No request is specified")),
        (Some(request), _) if *request < bound => Some(format!("{about}, but request is {request}")),
        (_, Some(limit)) if *limit < bound => Some(format!("{about}, but limit is {limit}")),
        _ => None,
    }
}

fn above(name: &str, type_: &str, bound: Quantity, amount: Option<&Quantity>, what: &str) -> Option<String> {
    let about = format!("maximum {name} usage per {type_} is {bound}");
    match amount {
        None => Some(format!("{about}.  No {what} is specified")),
        Some(amount) if *amount > bound => Some(format!("{about}, but {what} is {amount}")),
        _ => None,
    }
}

fn out_of_proportion(
    name: &str,
    type_: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let about = format!("{name} max limit to request ratio per {type_} is {most}");
    let Some(request) = request.filter(|amount| !amount.is_zero()) else {
        return Some(format!("{about}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|amount| !amount.is_zero()) else {
        return Some(format!("{about}, but no limit is specified or limit is 0"));
    };
    // In thousandths, so that amounts of any size are told apart without fractions.
    let ratio = limit.milli() as f64 / request.milli() as f64;
    (ratio > most.milli() as f64 / 1000.0).then(|| format!("{about}, but provided ratio is {ratio:.6}"))
}
