//! Volumes that outlive pods.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

use super::persistentvolumeclaim::{access_modes, modes_in_short};
use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind, wide},
    rules::{Part, at, immutable, list_at, map_at, quantity, text_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Capacity", "string", "How large it is."),
    column("Access Modes", "string", "Who may mount it at once."),
    column("Reclaim Policy", "string", "What becomes of it when its claim left."),
    column("Status", "string", "Whether it is bound."),
    column("Claim", "string", "The claim that has it."),
    column("StorageClass", "string", "Its class."),
    column("VolumeAttributesClass", "string", "The class of its attributes."),
    column("Reason", "string", "Why it is in its state."),
    AGE,
    wide("VolumeMode", "Whether it is a file system or a device."),
];

/// What is not a source among the fields of the spec.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub fn row() -> Row {
    Row::new(
        kind::<PersistentVolume>("persistentvolumes", "persistentvolume", &["pv"], Scope::Cluster, &[STATUS]),
        Hooks {
            default: |volume| {
                if let Some(spec) = fields::object(volume, "spec") {
                    fields::default(spec, "persistentVolumeReclaimPolicy", "Retain");
                    fields::default(spec, "volumeMode", "Filesystem");
                    if let Some(path) = spec.get_mut("hostPath") {
                        fields::default(path, "type", "");
                    }
                }
                if let Some(status) = fields::object(volume, "status") {
                    fields::default(status, "phase", "Pending");
                }
            },
            validate: |volume, errors| {
                validate(volume, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                if !sources(new).eq(sources(old)) {
                    errors.forbidden(
                        "spec.persistentvolumesource",
                        "spec.persistentvolumesource is immutable after creation",
                    );
                }
                immutable(new, old, &["spec.volumeMode"], errors);
            },
            columns: COLUMNS,
            cells: |object, now| {
                let volume = object.value();
                let unset = |path: &str| match text_at(volume, path) {
                    "" => "<unset>".to_owned(),
                    text => text.to_owned(),
                };
                let phase = if object.meta.is_leaving() { "Terminating" } else { text_at(volume, "status.phase") };
                let claim = at(volume, "spec.claimRef");
                let claim = match claim.is_null() {
                    true => String::new(),
                    false => format!("{}/{}", text_at(claim, "namespace"), text_at(claim, "name")),
                };
                vec![
                    row::name(object),
                    json!(text_at(volume, "spec.capacity.storage")),
                    json!(modes_in_short(list_at(volume, "spec.accessModes"))),
                    json!(text_at(volume, "spec.persistentVolumeReclaimPolicy")),
                    json!(phase),
                    json!(claim),
                    json!(text_at(volume, "spec.storageClassName")),
                    json!(unset("spec.volumeAttributesClassName")),
                    json!(text_at(volume, "status.reason")),
                    row::age(object, now),
                    json!(unset("spec.volumeMode")),
                ]
            },
            ..Hooks::NONE
        },
    )
}

fn sources(volume: &Value) -> impl Iterator<Item = (&str, &Value)> {
    map_at(volume, "spec").filter(|(field, value)| !NOT_SOURCES.contains(field) && !value.is_null())
}

fn validate(volume: &Value, errors: &mut Errors) {
    let spec = Part { value: at(volume, "spec"), path: "spec" };
    access_modes(&spec, errors);
    spec.required("capacity", errors);
    let names: Vec<&str> = map_at(volume, "spec.capacity").map(|(name, _)| name).collect();
    if names != ["storage"] {
        errors.not_supported("spec.capacity", &names.join(","), &["storage"]);
    }
    spec.amounts("capacity", errors);
    if quantity(at(volume, "spec.capacity.storage")).is_ok_and(|amount| amount.is_zero()) {
        errors.invalid("spec.capacity[storage]", "0", "must be greater than zero");
    }
    spec.one_of("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], errors);
    spec.one_of("volumeMode", &["Block", "Filesystem"], errors);
    spec.named("storageClassName", names::dns_subdomain, errors);
    let mut kinds = sources(volume).map(|(field, _)| field);
    match (kinds.next(), kinds.next()) {
        (None, _) => errors.required("spec", "must specify a volume type"),
        (Some(_), Some(second)) => {
            errors.forbidden(format!("spec.{second}"), "may not specify more than 1 volume type");
        }
        (Some("local"), None) if !spec.is_set("nodeAffinity.required") => {
            errors.required("spec.nodeAffinity", "Local volume requires node affinity");
        }
        _ => {}
    }
    for (source, field) in [
        ("hostPath", "path"),
        ("local", "path"),
        ("nfs", "server"),
        ("nfs", "path"),
        ("csi", "driver"),
        ("csi", "volumeHandle"),
    ] {
        if spec.is_set(source) {
            spec.required(&format!("{source}.{field}"), errors);
        }
    }
}
