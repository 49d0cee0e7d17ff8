//! `pods/binding`: the scheduler's decision. A pod is bound once.

use copepod_api::{Action, Reply, Request, Status, StatusResult, time};
use serde_json::json;

use super::set_condition;
use crate::{
    Row, json,
    json::text,
    pipeline::{World, store_update, success},
};

pub fn bind(world: &mut World<'_>, row: &Row, request: &Request) -> StatusResult<Reply> {
    let Action::Create { object: binding } = &request.action else {
        return Err(Status::method_not_allowed("pods/binding allows create"));
    };
    let live = world.find(row, &request.target)?;
    let (resource, name) = (&live.key.resource, live.key.name());
    let conflict = |why: String| Status::conflict(&copepod_api::Resource::known("", "pods/binding"), name, why);
    let node = text(binding, "/target/name").ok_or_else(|| Status::bad_request("target.name: the node is missing"))?;
    match text(binding, "/target/kind") {
        None | Some("Node") => {}
        Some(other) => {
            return Err(Status::bad_request(format!("target.kind: pods are bound to a Node, not to a {other}")));
        }
    }
    if let Some(uid) = text(binding, "/metadata/uid").filter(|uid| *uid != live.meta.uid) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.meta.uid);
        return Err(Status::conflict(resource, name, why));
    }
    if text(binding, "/metadata/resourceVersion").is_some_and(|revision| revision != live.revision.to_string()) {
        return Err(Status::changed_meanwhile(resource, name));
    }
    if live.meta.is_leaving() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(bound) = &live.node {
        return Err(conflict(format!("pod {name} is already assigned to node \"{bound}\"")));
    }
    if !json::items(live.value(), "/spec/schedulingGates").is_empty() {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }

    let mut pod = live.value().clone();
    if let Some(spec) = json::object(&mut pod, "spec") {
        json::set(spec, "nodeName", node);
    }
    for field in ["annotations", "labels"] {
        let Some(added) = binding.pointer(&format!("/metadata/{field}")).and_then(|map| map.as_object()) else {
            continue;
        };
        if let Some(own) = json::object(&mut pod, "metadata").and_then(|metadata| json::object(metadata, field)) {
            for (key, value) in added {
                json::set(own, key, value.clone());
            }
        }
    }
    set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}), &time::rfc3339(world.now));
    let stored = store_update(world, row, &live, &pod)?;
    let mut reply = world.reply_value(&success(Some(201)), true);
    reply.revision = stored.revision;
    Ok(reply)
}
