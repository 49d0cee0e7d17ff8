//! What a pod asks of storage.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind, wide},
    rules::{Part, at, list_at, quantity, text_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", "Whether it is bound."),
    column("Volume", "string", "The volume that it has."),
    column("Capacity", "string", "How large that is."),
    column("Access Modes", "string", "Who may mount it at once."),
    column("StorageClass", "string", "The class it asks for."),
    column("VolumeAttributesClass", "string", "The class of attributes it asks for."),
    AGE,
    wide("VolumeMode", "Whether it is a file system or a device."),
];

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub fn row() -> Row {
    Row::new(
        kind::<PersistentVolumeClaim>(
            "persistentvolumeclaims",
            "persistentvolumeclaim",
            &["pvc"],
            Scope::Namespaced,
            &[STATUS],
        ),
        Hooks {
            default: |claim| {
                if let Some(spec) = fields::object(claim, "spec") {
                    fields::default(spec, "volumeMode", "Filesystem");
                }
                if let Some(status) = fields::object(claim, "status") {
                    fields::default(status, "phase", "Pending");
                }
            },
            validate: |claim, errors| {
                spec(&Part { value: at(claim, "spec"), path: "spec" }, errors);
                Ok(())
            },
            validate_update,
            columns: COLUMNS,
            cells: |object, now| {
                let claim = object.value();
                let unset = |path: &str| match text_at(claim, path) {
                    "" => "<unset>".to_owned(),
                    text => text.to_owned(),
                };
                let is_bound = !text_at(claim, "spec.volumeName").is_empty();
                let of_volume = |text: String| if is_bound { text } else { String::new() };
                let phase = if object.meta.is_leaving() { "Terminating" } else { text_at(claim, "status.phase") };
                vec![
                    row::name(object),
                    json!(phase),
                    json!(text_at(claim, "spec.volumeName")),
                    json!(of_volume(text_at(claim, "status.capacity.storage").to_owned())),
                    json!(of_volume(modes_in_short(list_at(claim, "status.accessModes")))),
                    json!(text_at(claim, "spec.storageClassName")),
                    json!(unset("spec.volumeAttributesClassName")),
                    row::age(object, now),
                    json!(unset("spec.volumeMode")),
                ]
            },
            ..Hooks::NONE
        },
    )
}

/// The spec of a claim, also of one that is a template.
pub fn spec(spec: &Part<'_>, errors: &mut Errors) {
    access_modes(spec, errors);
    let storage = at(spec.value, "resources.requests.storage");
    if storage.is_null() {
        errors.required(spec.path_of("resources[storage]"), "");
    }
    spec.amounts("resources.requests", errors);
    if quantity(storage).is_ok_and(|amount| amount.is_zero()) {
        errors.invalid(spec.path_of("resources.requests[storage]"), storage, "must be greater than zero");
    }
    spec.named("storageClassName", names::dns_subdomain, errors);
    spec.one_of("volumeMode", &["Block", "Filesystem"], errors);
}

pub fn access_modes(spec: &Part<'_>, errors: &mut Errors) {
    let path = spec.path_of("accessModes");
    let modes: Vec<&str> = list_at(spec.value, "accessModes").iter().filter_map(Value::as_str).collect();
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.not_supported(&path, mode, ACCESS_MODES);
    }
    if modes.contains(&"ReadWriteOncePod") && modes.len() > 1 {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,ROX`.
pub fn modes_in_short(modes: &[Value]) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown = short.iter().filter(|(long, _)| modes.iter().any(|mode| mode == long)).map(|(_, short)| *short);
    shown.collect::<Vec<_>>().join(",")
}

/// A claim may grow, be bound to a volume, and change its attributes; all else was decided when it was made.
fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |claim: &Value| {
        let mut spec = at(claim, "spec").clone();
        if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
            resources.remove("requests");
        }
        fields::remove(&mut spec, "volumeAttributesClassName");
        if text_at(old, "spec.volumeName").is_empty() {
            fields::remove(&mut spec, "volumeName");
        }
        if text_at(old, "spec.storageClassName").is_empty() && at(old, "spec.storageClassName").is_null() {
            fields::remove(&mut spec, "storageClassName");
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let amount = |claim: &Value, path: &str| quantity(at(claim, path)).ok();
    let (wanted, before) =
        (amount(new, "spec.resources.requests.storage"), amount(old, "spec.resources.requests.storage"));
    let has = amount(old, "status.capacity.storage");
    let is_bound = text_at(old, "status.phase") == "Bound";
    if wanted != before && !is_bound {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    } else if wanted < before && wanted <= has {
        errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
}
