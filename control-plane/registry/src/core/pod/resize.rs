//! `pods/resize`: other amounts of CPU and memory for containers that run, and how they take the change.

use copepod_api::field::{Errors, Path};
use serde_json::Value;

use super::{ephemeral::is_mirror, qos};
use crate::{
    json::{items, remove, text},
    opening::Opening,
};

pub(super) const OPENING: Opening = Opening {
    name: "resize",
    fields: &[
        &["spec", "containers", "*", "resources"],
        &["spec", "containers", "*", "resizePolicy"],
        &["spec", "initContainers", "*", "resources"],
        &["spec", "initContainers", "*", "resizePolicy"],
        &["spec", "resources"],
    ],
    validate_update,
};

/// What can be changed while a container runs.
const RESIZABLE: &[&str] = &["cpu", "memory"];

const LISTS: &[(&str, &str)] = &[("containers", "/spec/containers"), ("initContainers", "/spec/initContainers")];

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    if is_mirror(old) {
        return errors.forbidden("", "static pods cannot be resized");
    }
    let path = Path::root("spec");
    let (before, after) = (qos::class(old), qos::class(new));
    if before != after {
        errors.invalid(path, before, "Pod QOS Class may not change as a result of resizing");
    }
    let found = errors.len();
    for (list, pointer) in LISTS {
        let (before, after) = (items(old, pointer), items(new, pointer));
        let path = path.at(list);
        if before.len() != after.len() {
            errors.forbidden(path, &format!("{list} may not be added or removed on resize"));
        }
        for (index, _) in before.iter().zip(after).enumerate().filter(|(_, (a, b))| a.get("name") != b.get("name")) {
            let why = format!("{list} may not be renamed or reordered on resize");
            errors.forbidden(path.index(index).at("name"), &why);
        }
    }
    if errors.len() > found {
        return;
    }
    for (list, pointer) in LISTS {
        let path = path.at(list);
        for (index, (before, after)) in items(old, pointer).iter().zip(items(new, pointer)).enumerate() {
            if before != after {
                container(after, before, *list == "initContainers", &path.index(index), errors);
            }
        }
    }
}

fn container(new: &Value, old: &Value, is_init: bool, path: &Path<'_>, errors: &mut Errors) {
    let resources = path.at("resources");
    for (field, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let names = |container: &Value| -> Vec<String> {
            let amounts = container.pointer(&format!("/resources/{field}")).and_then(Value::as_object);
            amounts.into_iter().flat_map(|amounts| amounts.keys().cloned()).collect()
        };
        let after = names(new);
        if names(old).iter().any(|name| !after.contains(name)) {
            errors.forbidden(resources.at(field), &format!("{what} cannot be removed"));
        }
    }
    if without_resizable(new) != without_resizable(old) {
        match is_init {
            true => errors.forbidden(path, "only cpu and memory resources for init or sidecar containers are mutable"),
            false => errors.forbidden("spec", "only cpu and memory resources are mutable"),
        }
    }
    let restarts = |policy: &Value| text(policy, "/restartPolicy") == Some("RestartContainer");
    let is_sidecar = text(new, "/restartPolicy") == Some("Always");
    if is_init && !is_sidecar && items(new, "/resizePolicy").iter().any(restarts) {
        let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
        errors.forbidden(path, why);
    }
}

/// A container without what a resize may change.
fn without_resizable(container: &Value) -> Value {
    let mut rest = container.clone();
    for field in ["requests", "limits"] {
        let Some(amounts) = rest.pointer_mut(&format!("/resources/{field}")) else { continue };
        RESIZABLE.iter().for_each(|name| remove(amounts, name));
        if amounts.as_object().is_some_and(serde_json::Map::is_empty)
            && let Some(resources) = rest.get_mut("resources")
        {
            remove(resources, field);
        }
    }
    rest
}
