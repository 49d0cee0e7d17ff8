//! Drivers by the container storage interface, and what they did.

use copepod_api::{Scope, names};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment};
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, immutable, list_at, text_at},
};

fn driver_name(name: &str) -> Result<(), String> {
    if name.len() > 63 {
        return Err("must be no more than 63 bytes".to_owned());
    }
    names::dns_subdomain(&name.to_lowercase())
}

pub fn driver() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("AttachRequired", "boolean", "Whether volumes are attached to a node before they are mounted."),
        column("PodInfoOnMount", "boolean", "Whether the driver is told about the pod."),
        column("StorageCapacity", "boolean", "Whether the scheduler asks how much is left."),
        column("TokenRequests", "string", "The audiences of tokens that the driver gets."),
        column("RequiresRepublish", "boolean", "Whether volumes are published again from time to time."),
        column("Modes", "string", "The lives of volumes that it supports."),
        AGE,
    ];
    Row::new(
        kind::<CSIDriver>("csidrivers", "csidriver", &[], Scope::Cluster, &[]),
        Hooks {
            default: |driver| {
                let Some(spec) = fields::object(driver, "spec") else { return };
                for (field, value) in [
                    ("attachRequired", true),
                    ("podInfoOnMount", false),
                    ("storageCapacity", false),
                    ("requiresRepublish", false),
                    ("seLinuxMount", false),
                ] {
                    fields::default(spec, field, value);
                }
                fields::default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
                if list_at(spec, "volumeLifecycleModes").is_empty() {
                    fields::set(spec, "volumeLifecycleModes", json!(["Persistent"]));
                }
            },
            validate: |driver, errors| {
                Part::whole(driver).one_of("spec.fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], errors);
                for (path, mode) in each(driver, "spec.volumeLifecycleModes") {
                    let mode = mode.as_str().unwrap_or_default();
                    if !["Ephemeral", "Persistent"].contains(&mode) {
                        errors.not_supported(path, mode, &["Ephemeral", "Persistent"]);
                    }
                }
                Ok(())
            },
            validate_update: |new, old, errors| {
                immutable(new, old, &["spec.attachRequired", "spec.volumeLifecycleModes"], errors);
            },
            columns: COLUMNS,
            cells: |object, now| {
                let spec = at(object.value(), "spec");
                let flag = |field: &str| json!(at(spec, field).as_bool().unwrap_or(false));
                let audiences = joined(list_at(spec, "tokenRequests"), |request| text_at(request, "audience"));
                vec![
                    row::name(object),
                    json!(at(spec, "attachRequired").as_bool().unwrap_or(true)),
                    flag("podInfoOnMount"),
                    flag("storageCapacity"),
                    json!(if audiences.is_empty() { "<unset>".to_owned() } else { audiences }),
                    flag("requiresRepublish"),
                    json!(joined(list_at(spec, "volumeLifecycleModes"), |mode| mode.as_str().unwrap_or_default())),
                    row::age(object, now),
                ]
            },
            name_rule: driver_name,
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn joined<'a>(items: &'a [Value], text: impl Fn(&'a Value) -> &'a str) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

pub fn node() -> Row {
    const COLUMNS: &[Column] = &[NAME, column("Drivers", "integer", "How many drivers run on the node."), AGE];
    Row::new(
        kind::<CSINode>("csinodes", "csinode", &[], Scope::Cluster, &[]),
        Hooks {
            validate: |node, errors| {
                let mut seen = Vec::new();
                for (path, driver) in each(node, "spec.drivers") {
                    let part = Part { value: driver, path: &path };
                    part.required("name", errors);
                    part.named("name", driver_name, errors);
                    part.required("nodeID", errors);
                    part.at_least("allocatable.count", 0, errors);
                    let name = text_at(driver, "name");
                    if seen.contains(&name) {
                        errors.duplicate(format!("{path}.name"), name);
                    }
                    seen.push(name);
                }
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| {
                let drivers = list_at(object.value(), "spec.drivers").len();
                vec![row::name(object), json!(drivers), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )
}

pub fn capacity() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("StorageClassName", "string", "The class that this is about."),
        column("Capacity", "string", "How much is left."),
    ];
    Row::new(
        kind::<CSIStorageCapacity>("csistoragecapacities", "csistoragecapacity", &[], Scope::Namespaced, &[]),
        Hooks {
            validate: |capacity, errors| {
                let whole = Part::whole(capacity);
                whole.required("storageClassName", errors);
                whole.named("storageClassName", names::dns_subdomain, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["nodeTopology", "storageClassName"], errors),
            columns: COLUMNS,
            cells: |object, _| {
                let capacity = object.value();
                vec![
                    row::name(object),
                    json!(text_at(capacity, "storageClassName")),
                    json!(text_at(capacity, "capacity")),
                ]
            },
            ..Hooks::NONE
        },
    )
}

pub fn attachment() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Attacher", "string", "The driver that attaches it."),
        column("PV", "string", "The volume."),
        column("Node", "string", "The node."),
        column("Attached", "boolean", "Whether it is attached."),
        AGE,
    ];
    Row::new(
        kind::<VolumeAttachment>("volumeattachments", "volumeattachment", &[], Scope::Cluster, &[STATUS]),
        Hooks {
            validate: |attachment, errors| {
                let whole = Part::whole(attachment);
                whole.required("spec.attacher", errors);
                whole.required("spec.nodeName", errors);
                whole.named("spec.nodeName", names::dns_subdomain, errors);
                match (whole.is_set("spec.source.persistentVolumeName"), whole.is_set("spec.source.inlineVolumeSpec")) {
                    (false, false) => errors.required(
                        "spec.source",
                        "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                    ),
                    (true, true) => errors.forbidden(
                        "spec.source",
                        "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                    ),
                    _ => {}
                }
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                let attachment = object.value();
                vec![
                    row::name(object),
                    json!(text_at(attachment, "spec.attacher")),
                    json!(text_at(attachment, "spec.source.persistentVolumeName")),
                    json!(text_at(attachment, "spec.nodeName")),
                    json!(at(attachment, "status.attached").as_bool().unwrap_or(false)),
                    row::age(object, now),
                ]
            },
            ..Hooks::NONE
        },
    )
}
