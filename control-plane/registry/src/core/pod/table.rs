//! Pods in a table.

use copepod_api::{NODE_LOST, Object, Timestamp};
use serde_json::{Value, json};

use crate::{
    age,
    json::{items, number, text},
    row::{self, AGE, Column, NAME, column, wide},
};

pub const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of its containers are ready."),
    column("Status", "string", "What it is doing, or what keeps it from running."),
    column("Restarts", "string", "How often its containers were restarted, and when last."),
    AGE,
    wide("IP", "Its address."),
    wide("Node", "Where it runs."),
    wide("Nominated Node", "Where others make room for it."),
    wide("Readiness Gates", "How many of its readiness gates are open."),
];

pub fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let pod = object.value();
    let state = state(pod, object.meta.is_leaving());
    let restarts = match state.last_restart.filter(|_| state.restarts > 0) {
        Some(at) => format!("{} ({} ago)", state.restarts, age::since(Some(at), now)),
        None => state.restarts.to_string(),
    };
    let or_none = |pointer: &str| json!(text(pod, pointer).unwrap_or("<none>"));
    vec![
        row::name(object),
        json!(format!("{}/{}", state.ready, state.containers)),
        json!(state.reason),
        json!(restarts),
        row::age(object, now),
        match text(pod, "/status/podIPs/0/ip") {
            Some(address) => json!(address),
            None => or_none("/status/podIP"),
        },
        or_none("/spec/nodeName"),
        or_none("/status/nominatedNodeName"),
        json!(gates(pod)),
    ]
}

struct State {
    reason: String,
    ready: usize,
    containers: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl State {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += number(status, "/restartCount").unwrap_or(0);
        let at = text(status, "/lastState/terminated/finishedAt").and_then(|at| at.parse().ok());
        self.last_restart = self.last_restart.max(at);
    }
}

fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(pod, "/status/conditions").iter().find(|condition| text(condition, "/type") == Some(kind))
}

fn holds(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| text(condition, "/status") == Some("True"))
}

/// One word for what a pod is doing. The pod says little; its containers say more, and the last word is theirs.
fn state(pod: &Value, leaving: bool) -> State {
    let phase = text(pod, "/status/phase").unwrap_or("Unknown");
    let said = text(pod, "/status/reason");
    let init = items(pod, "/spec/initContainers");
    let sidecar = |name: Option<&str>| {
        init.iter()
            .any(|container| text(container, "/name") == name && text(container, "/restartPolicy") == Some("Always"))
    };
    let sidecars = init.iter().filter(|container| sidecar(text(container, "/name"))).count();
    let mut state = State {
        reason: said.unwrap_or(phase).to_owned(),
        ready: 0,
        containers: items(pod, "/spec/containers").len() + sidecars,
        restarts: 0,
        last_restart: None,
    };
    if condition(pod, "PodScheduled").and_then(|condition| text(condition, "/reason")) == Some("SchedulingGated") {
        state.reason = "SchedulingGated".to_owned();
    }

    let mut only_sidecars = State { reason: String::new(), ready: 0, containers: 0, restarts: 0, last_restart: None };
    let mut initializing = false;
    for (index, status) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
        state.count_restarts(status);
        let is_sidecar = sidecar(text(status, "/name"));
        if is_sidecar {
            only_sidecars.count_restarts(status);
        }
        if number(status, "/state/terminated/exitCode") == Some(0) {
            continue;
        }
        if is_sidecar && is_true(status, "/started") {
            state.ready += usize::from(is_true(status, "/ready"));
            continue;
        }
        state.reason = match (status.pointer("/state/terminated"), text(status, "/state/waiting/reason")) {
            (Some(terminated), _) => format!("Init:{}", ended(terminated)),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{}", init.len()),
        };
        initializing = true;
        break;
    }

    if !initializing || holds(pod, "Initialized") {
        (state.restarts, state.last_restart) = (only_sidecars.restarts, only_sidecars.last_restart);
        let mut running = false;
        for status in items(pod, "/status/containerStatuses").iter().rev() {
            state.count_restarts(status);
            if let Some(reason) = text(status, "/state/waiting/reason") {
                state.reason = reason.to_owned();
            } else if let Some(terminated) = status.pointer("/state/terminated") {
                state.reason = ended(terminated);
            } else if is_true(status, "/ready") && status.pointer("/state/running").is_some() {
                running = true;
                state.ready += 1;
            }
        }
        if state.reason == "Completed" && running {
            state.reason = if holds(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    // Nobody knows what happens on a lost node: that is said whether or not the pod is already being replaced.
    let lost = condition(pod, "Ready").and_then(|ready| text(ready, "/reason")) == Some(NODE_LOST);
    if said == Some(NODE_LOST) || lost && !matches!(phase, "Succeeded" | "Failed") {
        state.reason = "Unknown".to_owned();
    } else if leaving && !matches!(phase, "Succeeded" | "Failed") {
        state.reason = "Terminating".to_owned();
    }
    state
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal").unwrap_or(0)) {
        (Some(reason), _) => reason.to_owned(),
        (None, 0) => format!("ExitCode:{}", number(terminated, "/exitCode").unwrap_or(0)),
        (None, signal) => format!("Signal:{signal}"),
    }
}

fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| holds(pod, text(gate, "/conditionType").unwrap_or_default())).count();
    format!("{open}/{}", gates.len())
}
