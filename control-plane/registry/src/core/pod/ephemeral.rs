//! `pods/ephemeralcontainers`: containers that join a running pod, for somebody who looks into it. They come and stay;
//! none is changed or taken away.

use copepod_api::field::{Errors, Path};
use serde_json::Value;

use crate::{
    json::{items, text},
    opening::Opening,
};

pub(super) const OPENING: Opening = Opening {
    name: "ephemeralcontainers",
    fields: &[&["spec", "ephemeralContainers"]],
    validate_update: |new, old, errors| {
        if is_mirror(old) {
            return errors.forbidden("", "static pods do not support ephemeral containers");
        }
        let path = Path::root("spec");
        let after = items(new, "/spec/ephemeralContainers");
        for before in items(old, "/spec/ephemeralContainers") {
            let name = text(before, "/name").unwrap_or_default();
            match after.iter().find(|container| text(container, "/name") == Some(name)) {
                Some(same) if same == before => {}
                Some(_) => {
                    let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                    errors.forbidden(path.at("ephemeralContainers"), &why);
                }
                None => {
                    let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                    errors.forbidden(path.at("ephemeralContainers"), &why);
                }
            }
        }
    },
};

/// What an ephemeral container may say. It is no part of the pod's work, so nothing waits for it, probes it, or sets
/// resources aside for it.
const ALLOWED: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "name",
    "securityContext",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// The pod of a file on a node, shown here as in a mirror.
pub(super) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string()
}

/// What only ephemeral containers are asked; the rest they share with all containers.
pub(super) fn validate(pod: &Value, errors: &mut Errors) {
    let path = Path::root("spec");
    let path = path.at("ephemeralContainers");
    let names = |list: &str| items(pod, list).iter().filter_map(|container| text(container, "/name"));
    let others: Vec<&str> = names("/spec/containers").chain(names("/spec/initContainers")).collect();
    for (index, container) in items(pod, "/spec/ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        if let Some(target) = text(container, "/targetContainerName").filter(|target| !others.contains(target)) {
            errors.not_found(path.at("targetContainerName"), target);
        }
        let is_set = |value: &Value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
        for (field, _) in container.as_object().into_iter().flatten().filter(|(_, value)| is_set(value)) {
            if !ALLOWED.contains(&field.as_str()) {
                errors.forbidden(path.at(field), "cannot be set for an Ephemeral Container");
            }
        }
        for (index, mount) in items(container, "/volumeMounts").iter().enumerate() {
            let path = path.at("volumeMounts");
            let path = path.index(index);
            for field in ["subPath", "subPathExpr"] {
                if text(mount, &format!("/{field}")).is_some() {
                    errors.forbidden(path.at(field), "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}
