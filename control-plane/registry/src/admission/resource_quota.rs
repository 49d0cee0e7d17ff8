//! ResourceQuota: how much the objects of a namespace may use together.
//!
//! What a quota says is used is its ledger. It is charged in the same transaction that stores the object, and so writers
//! who race for the last place of a quota come one after the other, and one of them is refused. What goes is counted off
//! by a controller, which counts anew what there is; until then it counts as used.

use copepod_api::{
    Object, Resource, StatusResult,
    quota::{self, Amounts},
    resource::PODS,
};
use serde_json::{Value, json};

use super::{NONE, Plugin, Write};
use crate::{
    Catalog,
    json::{items, set, text},
    pipeline::World,
};

pub const PLUGIN: Plugin = Plugin { charge, ..NONE };

const QUOTAS: Resource = Resource::known("", "resourcequotas");

/// Compute resources that each container must state where a quota limits them: what states nothing would use without
/// being counted.
const STATED: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn charge(world: &mut World<'_>, write: &Write<'_>, object: &Value) -> StatusResult<()> {
    let is_whole = ["", "resize"].contains(&&*write.request.target.subresource);
    if !write.row.kind.is_namespaced() || !is_whole {
        return Ok(());
    }
    let quotas: Vec<_> = world.view.objects(&QUOTAS, Some(write.namespace())).cloned().collect();
    if quotas.is_empty() {
        return Ok(());
    }
    let resource = write.row.kind.resource();
    let new = quota::usage(&resource, object);
    let before = write.old.map(|old| quota::usage(&resource, old)).unwrap_or_default();
    let mut charged = Vec::new();
    for own in &quotas {
        let stored = own.value();
        if !quota::covers(&stored["spec"], &resource, object) {
            continue;
        }
        let hard = quota::amounts(&stored["spec"]["hard"]);
        if write.is_new(&PODS) {
            states_all(write, own, &hard, object)?;
        }
        let more: Amounts = new
            .iter()
            .filter(|(name, _)| hard.contains_key(*name))
            .map(|(name, amount)| (name.clone(), *amount - before.get(name).copied().unwrap_or_default()))
            .filter(|(_, more)| !more.is_zero())
            .collect();
        if more.is_empty() {
            continue;
        }
        let used = ledger(world, write.namespace(), own, &hard);
        let over: Vec<&String> = more
            .iter()
            .filter(|(name, more)| {
                !more.is_negative() && used.get(*name).copied().unwrap_or_default() + **more > hard[*name]
            })
            .map(|(name, _)| name)
            .collect();
        if !over.is_empty() {
            let list = |amounts: &Amounts| -> String {
                let one = |name: &&String| format!("{name}={}", amounts.get(*name).copied().unwrap_or_default());
                over.iter().map(one).collect::<Vec<_>>().join(",")
            };
            let why = format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                own.key.name(),
                list(&more),
                list(&used),
                list(&hard)
            );
            return Err(write.forbidden(object, why));
        }
        let mut used = used;
        quota::add(&mut used, &more);
        charged.push((own.clone(), hard, used));
    }
    // Nothing is charged by what one of several quotas refuses.
    charged.into_iter().try_for_each(|(own, hard, used)| note(world, &own, &hard, &used))
}

fn note(world: &mut World<'_>, own: &Object, hard: &Amounts, used: &Amounts) -> StatusResult<()> {
    let catalog = Catalog::of(&world.view);
    let Some(row) = catalog.row(&QUOTAS, "") else { return Ok(()) };
    let mut value = own.value().clone();
    set(&mut value, "status", json!({"hard": quota::written(hard), "used": quota::written(used)}));
    world.replace(row, own, &value).map(drop)
}

/// What is used by a quota's own account; counted anew where the account does not speak of all that is limited.
fn ledger(world: &World<'_>, namespace: &str, own: &Object, hard: &Amounts) -> Amounts {
    let stored = own.value();
    let known = quota::amounts(&stored["status"]["used"]);
    if hard.keys().all(|name| known.contains_key(name)) {
        return known.into_iter().filter(|(name, _)| hard.contains_key(name)).collect();
    }
    let all = world.view.resources().flat_map(|resource| world.view.objects(resource, Some(namespace)));
    quota::count(&stored["spec"], all.map(|object| &**object))
}

/// Every container states what the quota limits.
fn states_all(write: &Write<'_>, own: &Object, hard: &Amounts, pod: &Value) -> StatusResult<()> {
    let mut missing = Vec::new();
    for name in STATED.iter().filter(|name| hard.contains_key(**name)) {
        let (which, resource) = name.split_once('.').unwrap_or(("requests", *name));
        let states = |container: &&Value| container["resources"][which].get(resource).is_some();
        let as_a_whole = pod["spec"]["resources"][which].get(resource).is_some();
        let containers = items(pod, "/spec/containers").iter().chain(items(pod, "/spec/initContainers"));
        let silent: Vec<&str> = containers
            .filter(|container| !as_a_whole && !states(container))
            .filter_map(|container| text(container, "/name"))
            .collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(write.forbidden(pod, format!("failed quota: {}: must specify {}", own.key.name(), missing.join("; "))))
}
