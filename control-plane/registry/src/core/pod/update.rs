//! What of a pod may change: its image, how long it may run and take to end, and more tolerations. Everything else was
//! the base of decisions already carried out.

use copepod_api::field::{Errors, Path};
use serde_json::Value;

use crate::json::{each, items, number, set, take_over};

const SENTENCE: &str = "pod updates may not change fields other than `spec.containers[*].image`, \
    `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing \
    tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::root("spec");
    let (Some(new_spec), Some(old_spec)) = (new.get("spec"), old.get("spec")) else { return };
    if new_spec == old_spec {
        return;
    }
    for list in ["containers", "initContainers"] {
        let pointer = format!("/{list}");
        if items(new_spec, &pointer).len() != items(old_spec, &pointer).len() {
            errors.forbidden(path.at(list), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(new_spec, old_spec, &path, errors);

    // The old spec with the changes that are allowed must be the new spec.
    let mut allowed = old_spec.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Option<Value>> =
            items(new_spec, &format!("/{list}")).iter().map(|container| container.get("image").cloned()).collect();
        for (container, image) in each(&mut allowed, list).zip(images) {
            if let Some(image) = image {
                set(container, "image", image);
            }
        }
    }
    take_over(&mut allowed, "activeDeadlineSeconds", new_spec);
    let (before, after) = (items(old_spec, "/tolerations"), items(new_spec, "/tolerations"));
    if before.iter().all(|toleration| after.iter().any(|other| same_but_seconds(toleration, other))) {
        take_over(&mut allowed, "tolerations", new_spec);
    }
    if number(old_spec, "/terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0)
        && number(new_spec, "/terminationGracePeriodSeconds") == Some(1)
    {
        set(&mut allowed, "terminationGracePeriodSeconds", 1);
    }
    let gates = items(new_spec, "/schedulingGates");
    if gates.iter().all(|gate| items(old_spec, "/schedulingGates").contains(gate)) {
        take_over(&mut allowed, "schedulingGates", new_spec);
    }
    if allowed != *new_spec {
        let changed: Vec<&str> = new_spec
            .as_object()
            .into_iter()
            .chain(allowed.as_object())
            .flat_map(|map| map.keys().map(String::as_str))
            .filter(|field| new_spec.get(field) != allowed.get(field))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        errors.forbidden(path, &format!("{SENTENCE}\nchanged: {}", changed.join(", ")));
    }
}

/// How long a toleration lasts may change; what it tolerates may not.
fn same_but_seconds(one: &Value, other: &Value) -> bool {
    let bare = |toleration: &Value| {
        let mut toleration = toleration.clone();
        crate::json::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    bare(one) == bare(other)
}

fn deadline(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (after, before) = (number(new, "/activeDeadlineSeconds"), number(old, "/activeDeadlineSeconds"));
    match (before, after) {
        (Some(before), Some(after)) if after > before => {
            let why = "must be less than or equal to previous value";
            errors.invalid(path.at("activeDeadlineSeconds"), after, why);
        }
        (Some(_), None) => {
            errors.invalid(
                path.at("activeDeadlineSeconds"),
                Value::Null,
                "must not update from a positive integer to nil value",
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::object;

    #[test]
    fn what_may_change() {
        let old =
            json!({"containers": [{"name": "c", "image": "a"}], "tolerations": [{"key": "x", "operator": "Exists"}]});
        let cases = [
            (json!({"containers": [{"name": "c", "image": "b"}]}), true),
            (json!({"activeDeadlineSeconds": 5}), true),
            (json!({"tolerations": [{"key": "y"}, {"key": "x", "operator": "Exists", "tolerationSeconds": 3}]}), true),
            (json!({"tolerations": [{"key": "y"}]}), false),
            (json!({"nodeName": "n1"}), false),
            (json!({"containers": [{"name": "d", "image": "a"}]}), false),
            (json!({"containers": []}), false),
        ];
        for (change, expected) in cases {
            let mut new = json!({"spec": old});
            for (field, value) in change.as_object().unwrap() {
                set(object(&mut new, "spec").unwrap(), field, value.clone());
            }
            let mut errors = Errors::default();
            validate_update(&new, &json!({"spec": old}), &mut errors);
            assert_eq!(errors.is_empty(), expected, "{change}: {:?}", errors.causes());
        }
    }
}
