//! The number of replicas as a resource of its own: `autoscaling/v1 Scale`, the same for every kind that has one.

use std::sync::{Arc, OnceLock};

use copepod_api::{
    Action, Kind, Object, Patch, Reply, Request, Scope, StatusResult, field::Errors,
    k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta, schema::Schema, selector::LabelSelector,
};
use k8s_openapi::api::autoscaling::v1::Scale;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    World, check, patch,
    update::{Tracking, replace},
};
use crate::{
    Row,
    asking::{self, Attempt},
    json,
    json::number,
    jsonpath::JsonPath,
    row::{self, ScalePaths},
};

/// An object as a Scale.
pub(crate) fn scale_of(paths: &ScalePaths, object: &Value, revision: &str) -> Value {
    let empty = json!({});
    let metadata = object.get("metadata").unwrap_or(&empty);
    let mut own = json!({"resourceVersion": revision});
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        json::take_over(&mut own, field, metadata);
    }
    let count = |path: &JsonPath| path.find(object).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": count(&paths.status)});
    let stated = paths.selector.as_ref().and_then(|path| path.find(object)).and_then(Value::as_str);
    let selector = object
        .pointer("/spec/selector")
        .and_then(|selector| meta::LabelSelector::deserialize(selector).ok())
        .and_then(|selector| LabelSelector::from_typed(&selector).ok());
    if let Some(stated) = stated {
        json::set(&mut status, "selector", stated);
    } else if let Some(selector) = selector.filter(|_| paths.selector.is_none()) {
        json::set(&mut status, "selector", selector.to_string());
    }
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": own,
        "spec": {"replicas": count(&paths.spec)}, "status": status,
    })
}

pub fn scale(world: &mut World<'_>, row: &Row, request: &Request) -> StatusResult<Reply> {
    let live = world.find(row, &request.target)?;
    let paths = row.scale_paths().ok_or_else(copepod_api::Status::no_such_path)?;
    let names = paths.spec.names().unwrap_or_default();
    let current = scale_of(paths, live.value(), &live.revision.to_string());
    let kind = scale_kind();
    if let Action::Patch { patch: Patch::Apply(applied) } = &request.action {
        let mut stated = json!({});
        put(&mut stated, &names, number(applied, "/spec/replicas").unwrap_or(0).into());
        let stored = patch::apply_to(world, row, request, Some(&live), stated)?;
        return Ok(answer(world, paths, &stored));
    }
    let mut wanted = match &request.action {
        Action::Update { object } => object.clone(),
        Action::Patch { patch } => patch::patched(scale_schema(&kind), &current, patch)?,
        _ => current.clone(),
    };
    let attempt = Attempt::of(row, request, Some(&current));
    asking::mutate(world, &attempt, &mut wanted)?;
    asking::validate(world, &attempt, &wanted)?;
    let scale = Scale::deserialize(&wanted).map_err(|error| check::unreadable(&kind, &error.to_string()))?;
    let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    if replicas < 0 {
        let mut errors = Errors::default();
        errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(copepod_api::Status::invalid(&kind, live.key.name(), errors));
    }

    let mut new = live.value().clone();
    if let Some(metadata) = json::object(&mut new, "metadata") {
        match scale.metadata.resource_version {
            Some(revision) => json::set(metadata, "resourceVersion", revision),
            None => json::remove(metadata, "resourceVersion"),
        }
        if let Some(uid) = scale.metadata.uid {
            json::set(metadata, "uid", uid);
        }
    }
    put(&mut new, &names, replicas.into());
    if row.is_custom() {
        new = check::admit(world, row, request, &new)?;
    }
    let stored = replace(world, row, request, &live, new, Tracking::Update)?;
    Ok(answer(world, paths, &stored))
}

/// Sets the value at the end of a way of names.
fn put(object: &mut Value, names: &[&str], value: Value) {
    let Some((last, way)) = names.split_last() else { return };
    let place = way.iter().try_fold(object, |object, name| json::object(object, name));
    if let Some(place) = place {
        json::set(place, last, value);
    }
}

fn answer(world: &mut World<'_>, paths: &ScalePaths, stored: &Object) -> Reply {
    let mut reply = world.reply_value(&scale_of(paths, stored.value(), &stored.revision.to_string()), false);
    reply.revision = stored.revision;
    reply
}

fn scale_schema(kind: &Kind) -> &'static Schema {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::of(kind))
}

fn scale_kind() -> Kind {
    row::kind::<Scale>("scales", "scale", &[], Scope::Namespaced, &[])
}
