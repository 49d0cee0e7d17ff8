//! What a pod is that says little. The same rules for pods and for templates of pods.

use serde_json::{Value, json};

use crate::json::{default, each, number, object, set, text};

const MODE: i64 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

pub fn pod_defaults(pod: &mut Value) {
    let Some(spec) = object(pod, "spec") else { return };
    pod_spec(spec);
    default(spec, "enableServiceLinks", true);
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
        }
    }
}

/// `spec.template` of a workload.
pub fn template_defaults(spec: &mut Value) {
    if let Some(spec) = object(spec, "template").and_then(|template| object(template, "spec")) {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    // `serviceAccount` is the old name of `serviceAccountName`; both are always shown.
    if let Some(account) =
        text(spec, "/serviceAccountName").or_else(|| text(spec, "/serviceAccount")).map(str::to_owned)
    {
        set(spec, "serviceAccountName", &*account);
        set(spec, "serviceAccount", account);
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for one in each(spec, list) {
            container(one, host_network);
        }
    }
    for one in each(spec, "volumes") {
        volume(one);
    }
    for constraint in each(spec, "topologySpreadConstraints") {
        default(constraint, "whenUnsatisfiable", "DoNotSchedule");
    }
}

fn container(container: &mut Value, host_network: bool) {
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    let moving = text(container, "/image").is_some_and(is_moving);
    default(container, "imagePullPolicy", if moving { "Always" } else { "IfNotPresent" });
    for port in each(container, "ports") {
        default(port, "protocol", "TCP");
        if let (true, Some(number)) = (host_network, number(port, "/containerPort")) {
            default(port, "hostPort", number);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(field).filter(|probe| probe.is_object()) {
            for (field, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                if number(probe, &format!("/{field}")).unwrap_or(0) == 0 {
                    set(probe, field, value);
                }
            }
            http_get(probe);
            if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
                default(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get_mut(field) {
                http_get(handler);
            }
        }
    }
    for variable in each(container, "env") {
        if let Some(reference) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            default(reference, "apiVersion", "v1");
        }
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

/// A tag that may point elsewhere tomorrow: `latest`, said or unsaid. A digest never moves.
fn is_moving(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |map| map.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        set(volume, "emptyDir", json!({}));
    }
    for field in ["secret", "configMap", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(field).filter(|source| source.is_object()) {
            default(source, "defaultMode", MODE);
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        default_type(path);
    }
    if let Some(source) = volume.get_mut("downwardAPI") {
        field_references(source);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in each(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                field_references(downward);
            }
        }
    }
}

/// `type: ""` says that nothing is checked; it is always shown.
fn default_type(path: &mut Value) {
    if path.is_object() && path.get("type").is_none() {
        set(path, "type", "");
    }
}

fn field_references(source: &mut Value) {
    for item in each(source, "items") {
        if let Some(reference) = item.get_mut("fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
}

/// What is limited and not asked for is asked for up to its limit.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else { return };
    let Some(requests) = object(container, "resources").and_then(|resources| object(resources, "requests")) else {
        return;
    };
    for (name, limit) in limits {
        default(requests, &name, limit);
    }
}
