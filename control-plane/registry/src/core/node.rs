//! Nodes.

use copepod_api::{
    Object, Scope, Status, StatusResult, Subresource, Timestamp,
    field::{Errors, Path},
    names,
};
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use serde_json::{Value, json};

use super::allocate;
use crate::{
    Row, json as fields,
    json::{items, text},
    pipeline::World,
    row::{self, AGE, Column, Hooks, NAME, PROXY_VERBS, STATUS, column, kind, wide},
};

const PROXY: Subresource =
    Subresource { name: "proxy", kind: Some(("", "v1", "NodeProxyOptions")), verbs: PROXY_VERBS };

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", "Whether it is ready, and whether it takes new pods."),
    column("Roles", "string", "What it is for."),
    AGE,
    column("Version", "string", "The version of its agent."),
    wide("Internal-IP", "Its address in the cluster."),
    wide("External-IP", "Its address outside."),
    wide("OS-Image", "Its operating system."),
    wide("Kernel-Version", "Its kernel."),
    wide("Container-Runtime", "What runs its containers."),
];

const ROLE: &str = "node-role.kubernetes.io/";

pub fn row() -> Row {
    Row::new(
        kind::<Node>("nodes", "node", &["no"], Scope::Cluster, &[PROXY, STATUS]),
        Hooks {
            admit,
            validate: |object, errors| {
                validate(&Node::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                let path = Path::root("spec");
                for field in ["podCIDR", "podCIDRs", "providerID"] {
                    let pointer = format!("/spec/{field}");
                    let before = old.pointer(&pointer);
                    if before.is_some() && before != new.pointer(&pointer) {
                        errors.forbidden(path.at(field), "node updates may not change it once it is set");
                    }
                }
            },
            fields: &[("spec.unschedulable", |object| {
                Some(object.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false).to_string())
            })],
            columns: COLUMNS,
            cells,
            keeps_status: true,
            ..Hooks::NONE
        },
    )
}

/// A node gets its range of pod addresses when it comes.
fn admit(world: &mut World<'_>, object: &mut Value) -> StatusResult<()> {
    let name = text(object, "/metadata/name").unwrap_or_default().to_owned();
    let refused = |why: String| Status::forbidden(&copepod_api::resource::NODES, &name, why);
    match text(object, "/spec/podCIDR").map(str::to_owned) {
        Some(cidr) => {
            if !allocate::is_free_node_range(world, &cidr) {
                return Err(refused(format!("the pod range {cidr} belongs to another node")));
            }
        }
        None => {
            // Without a range a node comes all the same, as elsewhere; its agent says that it waits for one.
            let Some(range) = allocate::node_range(world) else { return Ok(()) };
            if let Some(spec) = fields::object(object, "spec") {
                fields::set(spec, "podCIDRs", json!([range]));
                fields::set(spec, "podCIDR", range);
            }
        }
    }
    Ok(())
}

fn validate(node: &Node, errors: &mut Errors) {
    let path = Path::root("spec");
    let path = path.at("taints");
    let mut seen = std::collections::BTreeSet::new();
    for (index, taint) in node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).enumerate() {
        let path = path.index(index);
        if let Err(why) = names::label_key(&taint.key) {
            errors.invalid(path.at("key"), &taint.key, &why);
        }
        if let Err(why) = names::label_value(taint.value.as_deref().unwrap_or_default()) {
            errors.invalid(path.at("value"), &taint.value, &why);
        }
        match &*taint.effect {
            "" => errors.required(path.at("effect"), ""),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            other => errors.not_supported(path.at("effect"), other, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.duplicate(path, taint);
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let node = object.value();
    let address = |kind: &str| {
        items(node, "/status/addresses")
            .iter()
            .find(|address| text(address, "/type") == Some(kind))
            .and_then(|address| text(address, "/address"))
            .unwrap_or("<none>")
    };
    let info =
        |field: &str, absent: &'static str| json!(text(node, &format!("/status/nodeInfo/{field}")).unwrap_or(absent));
    vec![
        row::name(object),
        json!(state(node)),
        json!(roles(object)),
        row::age(object, now),
        info("kubeletVersion", ""),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        info("osImage", "<unknown>"),
        info("kernelVersion", "<unknown>"),
        info("containerRuntimeVersion", "<unknown>"),
    ]
}

fn state(node: &Value) -> String {
    let ready = items(node, "/status/conditions").iter().find(|condition| text(condition, "/type") == Some("Ready"));
    let mut state = match ready.and_then(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(object: &Object) -> String {
    let roles: std::collections::BTreeSet<&str> = object
        .meta
        .labels
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE) {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" && !value.is_empty() => Some(value),
            _ => None,
        })
        .collect();
    match roles.is_empty() {
        true => "<none>".to_owned(),
        false => roles.into_iter().collect::<Vec<_>>().join(","),
    }
}
