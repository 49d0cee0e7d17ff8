//! Devices and claims to them: `resource.k8s.io/v1`.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, immutable, list_at, text_at},
};

/// How many requests one claim may have.
const REQUESTS_MAX: usize = 32;

/// How many devices one slice may have.
const DEVICES_MAX: usize = 128;

pub(crate) fn rows() -> Vec<Row> {
    vec![class(), claim(), template(), slice()]
}

fn class() -> Row {
    Row::new(
        kind::<DeviceClass>("deviceclasses", "deviceclass", &[], Scope::Cluster, &[]),
        Hooks {
            validate: |class, errors| {
                for (path, selector) in each(class, "spec.selectors") {
                    Part { value: selector, path: &path }.required("cel.expression", errors);
                }
                Ok(())
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn default_devices(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for request in fields::each(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly") {
            default_request(exactly);
        }
        fields::each(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    fields::default(request, "allocationMode", "ExactCount");
    if text_at(request, "allocationMode") == "ExactCount" {
        fields::default(request, "count", 1);
    }
}

fn validate_devices(spec: &Part<'_>, errors: &mut Errors) {
    let requests = list_at(spec.value, "devices.requests");
    if requests.len() > REQUESTS_MAX {
        errors.add(
            "FieldValueTooMany",
            spec.path_of("devices.requests"),
            format!("Too many: {}: must have at most {REQUESTS_MAX} items", requests.len()),
        );
    }
    let mut seen = Vec::new();
    for (own, request) in each(spec.value, "devices.requests") {
        let path = spec.path_of(&own);
        let part = Part { value: request, path: &path };
        part.required("name", errors);
        part.named("name", names::dns_label, errors);
        let name = text_at(request, "name");
        if seen.contains(&name) {
            errors.duplicate(part.path_of("name"), name);
        }
        seen.push(name);
        match (part.is_set("exactly"), part.is_set("firstAvailable")) {
            (false, false) => errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            (true, true) => errors.invalid(
                &path,
                name,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ),
            (true, false) => {
                part.required("exactly.deviceClassName", errors);
                part.one_of("exactly.allocationMode", &["All", "ExactCount"], errors);
                part.at_least("exactly.count", 1, errors);
            }
            (false, true) => {}
        }
    }
}

fn claim() -> Row {
    const COLUMNS: &[Column] = &[NAME, column("State", "string", "Whether devices are allocated and reserved."), AGE];
    Row::new(
        kind::<ResourceClaim>("resourceclaims", "resourceclaim", &[], Scope::Namespaced, &[STATUS]),
        Hooks {
            default: |claim| {
                if let Some(spec) = fields::object(claim, "spec") {
                    default_devices(spec);
                }
            },
            validate: |claim, errors| {
                validate_devices(&Part { value: at(claim, "spec"), path: "spec" }, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                let claim = object.value();
                let mut states = Vec::new();
                if object.meta.is_leaving() {
                    states.push("deleted");
                }
                match at(claim, "status.allocation").is_null() {
                    true if states.is_empty() => states.push("pending"),
                    true => {}
                    false => {
                        states.push("allocated");
                        if !list_at(claim, "status.reservedFor").is_empty() {
                            states.push("reserved");
                        }
                    }
                }
                vec![row::name(object), json!(states.join(",")), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )
}

fn template() -> Row {
    Row::new(
        kind::<ResourceClaimTemplate>("resourceclaimtemplates", "resourceclaimtemplate", &[], Scope::Namespaced, &[]),
        Hooks {
            default: |template| {
                if let Some(spec) = template.pointer_mut("/spec/spec") {
                    default_devices(spec);
                }
            },
            validate: |template, errors| {
                validate_devices(&Part { value: at(template, "spec.spec"), path: "spec.spec" }, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec"], errors),
            ..Hooks::NONE
        },
    )
}

fn slice() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Node", "string", "The node that has the devices."),
        column("Driver", "string", "Who knows them."),
        column("Pool", "string", "The pool they belong to."),
        AGE,
    ];
    Row::new(
        kind::<ResourceSlice>("resourceslices", "resourceslice", &[], Scope::Cluster, &[]),
        Hooks {
            validate: |slice, errors| {
                let spec = Part { value: at(slice, "spec"), path: "spec" };
                spec.required("driver", errors);
                spec.named("driver", names::dns_subdomain, errors);
                spec.required("pool.name", errors);
                let places = ["nodeName", "nodeSelector", "perDeviceNodeSelection", "allNodes"];
                match places.iter().filter(|place| spec.is_set(place) && at(spec.value, place) != false).count() {
                    1 => {}
                    0 => errors.required("spec", &format!("exactly one of `{}` is required", places.join("`, `"))),
                    _ => errors.invalid("spec", "{}", &format!("exactly one of `{}` is required", places.join("`, `"))),
                }
                if list_at(slice, "spec.devices").len() > DEVICES_MAX {
                    let count = list_at(slice, "spec.devices").len();
                    errors.add(
                        "FieldValueTooMany",
                        "spec.devices",
                        format!("Too many: {count}: must have at most {DEVICES_MAX} items"),
                    );
                }
                for (path, device) in each(slice, "spec.devices") {
                    let device = Part { value: device, path: &path };
                    device.required("name", errors);
                    device.named("name", names::dns_label, errors);
                }
                Ok(())
            },
            validate_update: |new, old, errors| {
                immutable(new, old, &["spec.driver", "spec.nodeName", "spec.pool.name"], errors)
            },
            fields: &[
                ("spec.driver", |slice| row::field_text(slice, "/spec/driver")),
                ("spec.nodeName", |slice| row::field_text(slice, "/spec/nodeName")),
            ],
            columns: COLUMNS,
            cells: |object, now| {
                let spec = at(object.value(), "spec");
                let node = text_at(spec, "nodeName");
                let node = if node.is_empty() { "<unset>" } else { node };
                vec![
                    row::name(object),
                    json!(node),
                    json!(text_at(spec, "driver")),
                    json!(text_at(spec, "pool.name")),
                    row::age(object, now),
                ]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}
