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
use crate::{Row, json, json::number, row};

/// An object as a Scale.
pub(crate) fn scale_of(object: &Value, revision: &str) -> Value {
    let empty = json!({});
    let metadata = object.get("metadata").unwrap_or(&empty);
    let mut own = json!({"resourceVersion": revision});
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        json::take_over(&mut own, field, metadata);
    }
    let mut status = json!({"replicas": number(object, "/status/replicas").unwrap_or(0)});
    let selector = object
        .pointer("/spec/selector")
        .and_then(|selector| meta::LabelSelector::deserialize(selector).ok())
        .and_then(|selector| LabelSelector::from_typed(&selector).ok());
    if let Some(selector) = selector {
        json::set(&mut status, "selector", selector.to_string());
    }
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": own,
        "spec": {"replicas": number(object, "/spec/replicas").unwrap_or(0)}, "status": status,
    })
}

pub fn scale(world: &mut World<'_>, row: &Row, request: &Request) -> StatusResult<Reply> {
    let live = world.find(row, &request.target)?;
    let current = scale_of(live.value(), &live.revision.to_string());
    let kind = scale_kind();
    if let Action::Patch { patch: Patch::Apply(applied) } = &request.action {
        let stated = json!({"spec": {"replicas": number(applied, "/spec/replicas").unwrap_or(0)}});
        let stored = patch::apply_to(world, row, request, Some(&live), stated)?;
        return Ok(answer(world, &stored));
    }
    let wanted = match &request.action {
        Action::Update { object } => object.clone(),
        Action::Patch { patch } => patch::patched(scale_schema(&kind), &current, patch)?,
        _ => current.clone(),
    };
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
    if let Some(spec) = json::object(&mut new, "spec") {
        json::set(spec, "replicas", replicas);
    }
    let stored = replace(world, row, request, &live, new, Tracking::Update)?;
    Ok(answer(world, &stored))
}

fn answer(world: &mut World<'_>, stored: &Object) -> Reply {
    let mut reply = world.reply_value(&scale_of(stored.value(), &stored.revision.to_string()), false);
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
