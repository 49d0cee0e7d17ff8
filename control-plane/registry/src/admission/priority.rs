//! Priority: how important a pod is, from the class that it names or else from the cluster's default class.

use copepod_api::{Resource, StatusResult, resource::PODS};
use serde_json::Value;

use super::{NONE, Plugin, Write};
use crate::{
    json::{default, number, object, set, text},
    pipeline::World,
    scheduling::SYSTEM,
};

pub const PLUGIN: Plugin = Plugin { complete, ..NONE };

const CLASSES: Resource = Resource::known("scheduling.k8s.io", "priorityclasses");
const PREEMPTS: &str = "PreemptLowerPriority";

struct Class {
    name: String,
    value: i64,
    preemption: String,
}

fn complete(world: &mut World<'_>, write: &Write<'_>, pod: &mut Value) -> StatusResult<()> {
    if !write.is_new(&PODS) {
        return Ok(());
    }
    let class = match text(pod, "/spec/priorityClassName") {
        Some(name) => match named(world, name) {
            Some(class) => Some(class),
            None => return Err(write.forbidden(pod, format!("no PriorityClass with name {name} was found"))),
        },
        None => general(world),
    };
    let class = class.unwrap_or(Class { name: String::new(), value: 0, preemption: PREEMPTS.to_owned() });
    if let Some(own) = number(pod, "/spec/priority").filter(|own| *own != class.value) {
        let computed = class.value;
        let why = format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller \
             computed {computed} from the given PriorityClass name"
        );
        return Err(write.forbidden(pod, why));
    }
    if let Some(own) = text(pod, "/spec/preemptionPolicy").filter(|own| *own != class.preemption) {
        let computed = class.preemption;
        let why = format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission \
             controller computed {computed} from the given PriorityClass name"
        );
        return Err(write.forbidden(pod, why));
    }
    let Some(spec) = object(pod, "spec") else { return Ok(()) };
    set(spec, "priority", class.value);
    set(spec, "preemptionPolicy", class.preemption);
    if !class.name.is_empty() {
        default(spec, "priorityClassName", class.name);
    }
    Ok(())
}

fn named(world: &World<'_>, name: &str) -> Option<Class> {
    if let Some(found) = world.get(&CLASSES, "", name) {
        return Some(class(found.key.name(), found.value()));
    }
    let (name, value) = SYSTEM.iter().find(|(system, _)| *system == name)?;
    Some(Class { name: (*name).to_owned(), value: *value, preemption: PREEMPTS.to_owned() })
}

/// The class of pods that name none: of several, the one that asks for least.
fn general(world: &World<'_>) -> Option<Class> {
    let is_general = |class: &Value| class.get("globalDefault").and_then(Value::as_bool) == Some(true);
    let all = world.view.objects(&CLASSES, None).filter(|found| is_general(found.value()));
    all.map(|found| class(found.key.name(), found.value())).min_by_key(|class| class.value)
}

fn class(name: &str, found: &Value) -> Class {
    Class {
        name: name.to_owned(),
        value: number(found, "/value").unwrap_or(0),
        preemption: text(found, "/preemptionPolicy").unwrap_or(PREEMPTS).to_owned(),
    }
}
