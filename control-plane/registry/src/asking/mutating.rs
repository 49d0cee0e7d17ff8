//! MutatingAdmissionPolicy: changes in CEL that every object of a kind gets.

use std::sync::Arc;

use copepod_api::{
    Object, Resource, StatusResult,
    apply::{self, Manager},
    patch,
};
use copepod_cel::{Budget, Type, to_json};
use serde_json::Value;

use super::{
    GROUP,
    attempt::Attempt,
    expressions::{self, Compiled, compiled},
    policy::{self, Case, POLICY_COST_MAX, Policy},
    validating::refusal,
};
use crate::{
    json,
    pipeline::{World, readmit},
    rules::{at, list_at, text_at},
};

const POLICIES: Resource = Resource::known(GROUP, "mutatingadmissionpolicies");
const BINDINGS: Resource = Resource::known(GROUP, "mutatingadmissionpolicybindings");

struct Mutating {
    policy: Policy,
    is_reinvoked: bool,
    changes: Vec<Change>,
}

struct Change {
    text: String,
    program: Compiled,
    is_json_patch: bool,
}

impl Mutating {
    fn of(object: &Object) -> Mutating {
        let value: Value = serde_json::from_slice(&object.bytes()).unwrap_or_default();
        let (policy, mut declared) = Policy::of(object, &value);
        declared.makes_objects = true;
        let change = |mutation: &Value| {
            let is_json_patch = text_at(mutation, "patchType") == "JSONPatch";
            let text =
                text_at(mutation, if is_json_patch { "jsonPatch.expression" } else { "applyConfiguration.expression" });
            Change { text: text.to_owned(), program: compiled(text, &declared, &wanted(is_json_patch)), is_json_patch }
        };
        let changes = list_at(&value, "spec.mutations").iter().map(change).collect();
        Mutating { policy, is_reinvoked: text_at(&value, "spec.reinvocationPolicy") == "IfNeeded", changes }
    }
}

/// What the expression of a change must give.
pub fn wanted(is_json_patch: bool) -> [Type; 1] {
    [if is_json_patch { Type::list(Type::object("JSONPatch", [])) } else { Type::object("Object", []) }]
}

/// Carries out the changes of all policies in force, by the names of the policies; then once more those of the policies
/// that want to see what others changed after them. Says whether anything changed.
pub fn mutate(world: &mut World<'_>, attempt: &Attempt<'_>, object: &mut Value) -> StatusResult<bool> {
    let policies = world.view.derived(&POLICIES, |policies| {
        policies.filter_map(|policy| policy.derived(Mutating::of)).collect::<Vec<Arc<Mutating>>>()
    });
    let Some(policies) = policies.filter(|_| !object.is_null() && attempt.is_of_kind()) else { return Ok(false) };
    let mut last_change = None;
    for (place, mutating) in policies.iter().enumerate() {
        if change_by(world, mutating, attempt, object)? {
            last_change = Some(place);
        }
    }
    for mutating in policies[..last_change.unwrap_or(0)].iter().filter(|mutating| mutating.is_reinvoked) {
        change_by(world, mutating, attempt, object)?;
    }
    Ok(last_change.is_some())
}

/// Says whether the object is another afterwards.
fn change_by(
    world: &mut World<'_>,
    mutating: &Mutating,
    attempt: &Attempt<'_>,
    object: &mut Value,
) -> StatusResult<bool> {
    let bindings = policy::bindings(&world.view, &BINDINGS);
    let own = &mutating.policy;
    let before = object.clone();
    let failed = |binding: &str, why: &str, object: &Value| {
        let words = format!("policy '{}' with binding '{binding}' denied request: {why}", own.name);
        Err(refusal(attempt, attempt.name(object), words, 422, "Invalid", why))
    };
    for case in policy::cases(world, own, &bindings, attempt, &before) {
        let case = match case {
            Ok(case) => case,
            Err(_) if own.may_fail => continue,
            Err(unfit) => return failed(unfit.binding.map_or("", |binding| &binding.name), &unfit.why, object),
        };
        let mut budget = Budget::new(POLICY_COST_MAX);
        for change in &mutating.changes {
            match changed(world, attempt, change, &case, object, &mut budget) {
                Ok(new) => *object = new,
                Err(_) if own.may_fail => {}
                Err(why) => return failed(&case.binding.name, &why, object),
            }
        }
    }
    Ok(*object != before)
}

/// The object after one change.
fn changed(
    world: &World<'_>,
    attempt: &Attempt<'_>,
    change: &Change,
    case: &Case<'_>,
    object: &Value,
    budget: &mut Budget,
) -> Result<Value, String> {
    let program = change.program.as_ref().map_err(Clone::clone)?;
    let names = case.variables.with_object(object);
    let value = program.evaluate_once(&names, budget).map_err(|fault| expressions::told(&fault, &change.text))?;
    let value = to_json(&value).map_err(|fault| expressions::told(&fault, &change.text))?;
    let mut new = if change.is_json_patch {
        patch::json(object, &value).map_err(|error| format!("JSON Patch: {error}"))?
    } else {
        merged(world, attempt, object, &value)?
    };
    readmit(attempt.row, &mut new).map_err(|status| status.message().to_owned())?;
    Ok(new)
}

/// Merges as a server-side apply does, and leaves it at that: nobody comes to own a field by a policy.
fn merged(world: &World<'_>, attempt: &Attempt<'_>, object: &Value, configuration: &Value) -> Result<Value, String> {
    let metadata = at(configuration, "metadata");
    for field in ["name", "namespace", "uid", "resourceVersion", "managedFields"] {
        if !at(metadata, field).is_null() {
            return Err(format!("metadata.{field} may not be changed by an apply configuration"));
        }
    }
    let mut live = object.clone();
    let owned = json::object(&mut live, "metadata").map(|metadata| {
        let owned = metadata.get("managedFields").cloned();
        json::remove(metadata, "managedFields");
        owned
    });
    let manager = Manager {
        name: "mutating-admission-policy".to_owned(),
        subresource: String::new(),
        api_version: attempt.row.kind.api_version(),
    };
    let merged = apply::apply(attempt.row.schema(), Some(&live), configuration, &manager, true, world.now);
    let mut merged = merged.map_err(|error| error.to_string())?;
    if let Some(metadata) = json::object(&mut merged, "metadata") {
        match owned.flatten() {
            Some(owned) => json::set(metadata, "managedFields", owned),
            None => json::remove(metadata, "managedFields"),
        }
    }
    Ok(merged)
}
