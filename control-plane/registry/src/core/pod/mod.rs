//! Pods.

mod binding;
mod defaults;
mod ephemeral;
mod eviction;
mod qos;
mod resize;
mod resources;
mod table;
mod update;
mod validate;

use copepod_api::{Kind, Scope, Status, StatusResult, Subresource, field::Errors};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use defaults::template_defaults;
pub(crate) use validate::{validate_any_template, validate_template};

use crate::{
    Row, json as fields,
    json::{number, text},
    pipeline::World,
    row::{Hooks, PROXY_VERBS, STATUS, field_text, in_all, kind},
};

const BINDING: Subresource = Subresource { name: "binding", kind: Some(("", "v1", "Binding")), verbs: &["create"] };
const EVICTION: Subresource =
    Subresource { name: "eviction", kind: Some(("policy", "v1", "Eviction")), verbs: &["create"] };
const ATTACH: Subresource =
    Subresource { name: "attach", kind: Some(("", "v1", "PodAttachOptions")), verbs: &["create", "get"] };
const EXEC: Subresource =
    Subresource { name: "exec", kind: Some(("", "v1", "PodExecOptions")), verbs: &["create", "get"] };
const PORT_FORWARD: Subresource =
    Subresource { name: "portforward", kind: Some(("", "v1", "PodPortForwardOptions")), verbs: &["create", "get"] };
const PROXY: Subresource = Subresource { name: "proxy", kind: Some(("", "v1", "PodProxyOptions")), verbs: PROXY_VERBS };
const EPHEMERAL_CONTAINERS: Subresource =
    Subresource { name: "ephemeralcontainers", kind: None, verbs: &["get", "patch", "update"] };
const RESIZE: Subresource = Subresource { name: "resize", kind: None, verbs: &["get", "patch", "update"] };
const LOG: Subresource = Subresource { name: "log", kind: None, verbs: &["get"] };

pub(crate) fn pods() -> Kind {
    in_all(kind::<Pod>(
        "pods",
        "pod",
        &["po"],
        Scope::Namespaced,
        &[ATTACH, BINDING, EPHEMERAL_CONTAINERS, EVICTION, EXEC, LOG, PORT_FORWARD, PROXY, RESIZE, STATUS],
    ))
}

pub fn row() -> Row {
    Row::new(
        pods(),
        Hooks {
            default: defaults::pod_defaults,
            admit,
            validate: |object, errors| {
                validate::validate(&Pod::deserialize(object).map_err(|error| error.to_string())?, errors);
                ephemeral::validate(object, errors);
                Ok(())
            },
            validate_update: update::validate_update,
            leaving: eviction::mark_disrupted,
            grace: Some(grace),
            openings: &[ephemeral::OPENING, resize::OPENING],
            actions: &[("binding", binding::bind), ("eviction", eviction::evict)],
            fields: &[
                ("spec.nodeName", |pod| field_text(pod, "/spec/nodeName")),
                ("spec.restartPolicy", |pod| field_text(pod, "/spec/restartPolicy")),
                ("spec.schedulerName", |pod| field_text(pod, "/spec/schedulerName")),
                ("spec.serviceAccountName", |pod| field_text(pod, "/spec/serviceAccountName")),
                ("spec.hostNetwork", |pod| {
                    Some(pod.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false).to_string())
                }),
                ("status.phase", |pod| field_text(pod, "/status/phase")),
                ("status.podIP", |pod| field_text(pod, "/status/podIP")),
                ("status.podIPs", |pod| field_text(pod, "/status/podIPs/0/ip")),
                ("status.nominatedNodeName", |pod| field_text(pod, "/status/nominatedNodeName")),
            ],
            columns: table::COLUMNS,
            cells: table::cells,
            generation: true,
            returns_deleted: true,
            ..Hooks::NONE
        },
    )
}

/// Nothing has happened to a new pod yet.
fn admit(world: &mut World<'_>, object: &mut Value) -> StatusResult<()> {
    let name = text(object, "/metadata/name").unwrap_or_default().to_owned();
    if !fields::items(object, "/spec/ephemeralContainers").is_empty() {
        let mut errors = Errors::default();
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
        return Err(Status::invalid(&pods(), &name, errors));
    }
    let gated = !fields::items(object, "/spec/schedulingGates").is_empty();
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(object)});
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": copepod_api::time::rfc3339(world.now),
        }]);
        fields::drop_nulls(&mut status);
    }
    fields::set(object, "status", status);
    Ok(())
}

/// How long a pod may take to end. What runs nowhere ends at once.
fn grace(pod: &Value, wanted: Option<i64>) -> i64 {
    let ended = matches!(text(pod, "/status/phase"), Some("Succeeded" | "Failed"));
    if text(pod, "/spec/nodeName").is_none() || ended {
        return 0;
    }
    let grace = wanted.or_else(|| number(pod, "/spec/terminationGracePeriodSeconds")).unwrap_or(0);
    // A negative grace in a spec means the shortest there is; 0 would mean that nobody waits for the node.
    if grace < 0 { 1 } else { grace }
}

/// The condition `kind` of a status, set; its time of transition changes only with its value.
pub(crate) fn set_condition(object: &mut Value, condition: Value, now: &str) {
    let kind = condition.get("type").cloned().unwrap_or_default();
    let Some(status) = fields::object(object, "status") else { return };
    fields::default(status, "conditions", json!([]));
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let before = conditions.iter().position(|known| known.get("type") == Some(&kind));
    let since = before
        .map(|index| &conditions[index])
        .filter(|known| known.get("status") == condition.get("status"))
        .and_then(|known| text(known, "/lastTransitionTime"))
        .unwrap_or(now)
        .to_owned();
    let mut condition = condition;
    fields::set(&mut condition, "lastTransitionTime", since);
    match before {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}
