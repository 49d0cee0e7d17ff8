//! Priorities: `scheduling.k8s.io/v1`.

use copepod_api::{Scope, Status, StatusResult, field::Errors};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    pipeline::World,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
    rules::{Part, at, immutable, text_at},
};

/// The classes that every cluster has, and nobody else's may be above them.
pub const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

const USER_MAX: i64 = 1_000_000_000;

const COLUMNS: &[Column] = &[
    NAME,
    column("Value", "integer", "The priority of pods of this class; higher goes first."),
    column("Global-Default", "boolean", "Whether pods that name no class have this one."),
    AGE,
    column("PreemptionPolicy", "string", "Whether pods of this class push others out."),
];

pub(crate) fn rows() -> Vec<Row> {
    vec![Row::new(
        kind::<PriorityClass>("priorityclasses", "priorityclass", &["pc"], Scope::Cluster, &[]),
        Hooks {
            default: |class| fields::default(class, "preemptionPolicy", "PreemptLowerPriority"),
            admit: only_default,
            validate: |class, errors| {
                validate(class, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                if at(new, "value") != at(old, "value") {
                    errors.forbidden("value", "may not be changed in an update.");
                }
                immutable(new, old, &["preemptionPolicy"], errors);
            },
            columns: COLUMNS,
            cells: |object, now| {
                let class = object.value();
                vec![
                    row::name(object),
                    json!(at(class, "value").as_i64().unwrap_or(0)),
                    json!(at(class, "globalDefault").as_bool().unwrap_or(false)),
                    row::age(object, now),
                    json!(text_at(class, "preemptionPolicy")),
                ]
            },
            ..Hooks::NONE
        },
    )]
}

/// Pods without a class must not have to choose.
fn only_default(world: &mut World<'_>, class: &mut Value) -> StatusResult<()> {
    let resource = copepod_api::Resource::known("scheduling.k8s.io", "priorityclasses");
    let is_default = |class: &Value| at(class, "globalDefault") == true;
    if !is_default(class) {
        return Ok(());
    }
    match world.view.objects(&resource, None).find(|other| is_default(other.value())) {
        None => Ok(()),
        Some(other) => {
            let why =
                format!("PriorityClass {} is already marked as default. Only one default can exist", other.key.name());
            Err(Status::forbidden(&resource, text_at(class, "metadata.name"), why))
        }
    }
}

fn validate(class: &Value, errors: &mut Errors) {
    let name = text_at(class, "metadata.name");
    let value = at(class, "value").as_i64().unwrap_or(0);
    match SYSTEM.iter().find(|(system, _)| *system == name) {
        Some((_, system)) if *system == value => {}
        _ if name.starts_with("system-") => {
            errors.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only",
            );
        }
        _ if value > USER_MAX => {
            let why = format!("maximum allowed value of a user defined priority is {USER_MAX}");
            errors.forbidden("value", &why);
        }
        _ => {}
    }
    Part::whole(class).one_of("preemptionPolicy", &["Never", "PreemptLowerPriority"], errors);
}
