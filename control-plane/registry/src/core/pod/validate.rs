//! What is wrong with a pod, all at once.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::{
    ephemeral::as_container,
    field::{Errors, Path},
    names,
    quantity::Quantity,
};
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, EnvVar, Lifecycle, Pod, PodSpec, PodTemplateSpec, Probe, SecurityContext, Toleration,
        Volume, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::json;

use super::resources;
use crate::objectmeta;

/// A bound on lists in a spec that upstream bounds only by the size of the object. Checks below compare lists with each
/// other, and a pod with more containers than this runs nowhere.
const CONTAINERS_MAX: usize = 256;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
const OPERATORS: &[&str] = &["Equal", "Exists"];
const SCHEMES: &[&str] = &["HTTP", "HTTPS"];
const HOST_PATHS: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The fields of a pod that its containers may read.
const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub fn validate(pod: &Pod, errors: &mut Errors) {
    let path = Path::root("spec");
    match &pod.spec {
        Some(spec) => validate_spec(spec, &path, false, errors),
        None => errors.required(path.at("containers"), ""),
    }
}

/// The template of a workload that keeps its pods running.
pub fn validate_template(template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_any_template(template, path, &["Always"], errors);
    if template.spec.as_ref().is_some_and(|spec| spec.active_deadline_seconds.is_some()) {
        let spec_path = path.at("spec");
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(spec_path.at("activeDeadlineSeconds"), why);
    }
}

/// A template of pods with one of these restart policies.
pub fn validate_any_template(template: &PodTemplateSpec, path: &Path<'_>, policies: &[&str], errors: &mut Errors) {
    if let Some(metadata) = &template.metadata {
        let map = |map: &Option<BTreeMap<String, String>>| {
            map.iter().flatten().map(|(key, value)| (key.clone(), json!(value))).collect()
        };
        objectmeta::labels(&map(&metadata.labels), &path.at("metadata").at("labels"), errors);
        objectmeta::annotations(&map(&metadata.annotations), &path.at("metadata").at("annotations"), errors);
    }
    let spec_path = path.at("spec");
    match &template.spec {
        Some(spec) => {
            validate_spec(spec, &spec_path, true, errors);
            if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
                errors
                    .forbidden(spec_path.at("ephemeralContainers"), "ephemeral containers not allowed in pod template");
            }
            match spec.restart_policy.as_deref() {
                None => {}
                Some(policy) if policies.contains(&policy) => {}
                Some(other) => errors.not_supported(spec_path.at("restartPolicy"), other, policies),
            }
        }
        None => errors.required(spec_path.at("containers"), ""),
    }
}

pub fn one_of(value: Option<&str>, path: Path<'_>, supported: &[&str], errors: &mut Errors) {
    match value {
        None | Some("") => errors.required(path, ""),
        Some(known) if supported.contains(&known) => {}
        Some(other) => errors.not_supported(path, other, supported),
    }
}

fn at_least(value: Option<i64>, least: i64, path: Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| *value < least) {
        errors.invalid(path, value, &format!("must be greater than or equal to {least}"));
    }
}

pub fn checked(result: Result<(), String>, value: &str, path: Path<'_>, errors: &mut Errors) {
    if let Err(why) = result {
        errors.invalid(path, value, &why);
    }
}

fn validate_spec(spec: &PodSpec, path: &Path<'_>, is_template: bool, errors: &mut Errors) {
    let volumes = validate_volumes(spec.volumes.as_deref().unwrap_or_default(), &path.at("volumes"), errors);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral: Vec<Container> = spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    if spec.containers.is_empty() {
        errors.required(path.at("containers"), "");
    }
    let count = spec.containers.len() + init.len() + ephemeral.len();
    if count > CONTAINERS_MAX {
        errors.invalid(path.at("containers"), count, &format!("a pod may have at most {CONTAINERS_MAX} containers"));
        return;
    }
    resources::of_pod(spec, path, errors);
    let mut names_seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let host_network = spec.host_network == Some(true);
    let never_restarts = spec.restart_policy.as_deref() == Some("Never");
    let lists = [("containers", &spec.containers[..]), ("initContainers", init), ("ephemeralContainers", &ephemeral)];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let path = path.at(list);
            let path = path.index(index);
            let is_init = list == "initContainers";
            validate_container(container, &path, is_init, &volumes, host_network, never_restarts, errors);
            if !container.name.is_empty() && !names_seen.insert(&container.name) {
                errors.duplicate(path.at("name"), &container.name);
            }
            for (index, port) in container.ports.iter().flatten().enumerate() {
                let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
                let protocol = port.protocol.as_deref().unwrap_or_default();
                let address = port.host_ip.as_deref().unwrap_or_default();
                if !host_ports.insert((number, protocol, address)) {
                    let text = format!("{address}/{protocol}/{number}");
                    errors.duplicate(path.at("ports").index(index).at("hostPort"), text);
                }
            }
        }
    }
    one_of(spec.restart_policy.as_deref(), path.at("restartPolicy"), RESTART_POLICIES, errors);
    one_of(spec.dns_policy.as_deref(), path.at("dnsPolicy"), DNS_POLICIES, errors);
    if spec.dns_policy.as_deref() == Some("None")
        && spec.dns_config.as_ref().and_then(|config| config.nameservers.as_ref()).is_none_or(Vec::is_empty)
    {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(path.at("dnsConfig").at("nameservers"), why);
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(path.at("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    if !is_template || spec.termination_grace_period_seconds.is_some() {
        at_least(spec.termination_grace_period_seconds, 0, path.at("terminationGracePeriodSeconds"), errors);
    }
    for (field, name, rule) in [
        ("nodeName", &spec.node_name, names::dns_subdomain as fn(&str) -> Result<(), String>),
        ("serviceAccountName", &spec.service_account_name, names::dns_subdomain),
        ("priorityClassName", &spec.priority_class_name, names::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, names::dns_subdomain),
        ("schedulerName", &spec.scheduler_name, names::dns_subdomain),
        ("hostname", &spec.hostname, names::dns_label),
        ("subdomain", &spec.subdomain, names::dns_label),
    ] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            checked(rule(name), name, path.at(field), errors);
        }
    }
    for (key, value) in spec.node_selector.iter().flatten() {
        checked(names::label_key(key), key, path.at("nodeSelector"), errors);
        checked(names::label_value(value), value, path.at("nodeSelector").key(key), errors);
    }
    for (index, toleration) in spec.tolerations.iter().flatten().enumerate() {
        validate_toleration(toleration, &path.at("tolerations").index(index), errors);
    }
    for (index, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = path.at("topologySpreadConstraints");
        let path = path.index(index);
        if constraint.max_skew <= 0 {
            errors.invalid(path.at("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        if constraint.topology_key.is_empty() {
            errors.required(path.at("topologyKey"), "can not be empty");
        }
        let when = Some(&*constraint.when_unsatisfiable);
        one_of(when, path.at("whenUnsatisfiable"), &["DoNotSchedule", "ScheduleAnyway"], errors);
    }
    if let Some(context) = &spec.security_context {
        let path = path.at("securityContext");
        for (field, id) in
            [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group), ("fsGroup", context.fs_group)]
        {
            validate_id(id, path.at(field), errors);
        }
    }
}

fn validate_id(id: Option<i64>, path: Path<'_>, errors: &mut Errors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

fn validate_toleration(toleration: &Toleration, path: &Path<'_>, errors: &mut Errors) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    if !key.is_empty() {
        checked(names::label_key(key), key, path.at("key"), errors);
    } else if operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(path.at("operator"), operator, why);
    }
    if toleration.toleration_seconds.is_some() && toleration.effect.as_deref() != Some("NoExecute") {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        errors.invalid(path.at("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator {
        "" | "Equal" => {
            let value = toleration.value.as_deref().unwrap_or_default();
            checked(names::label_value(value), value, path.at("operator"), errors);
        }
        "Exists" => {
            if let Some(value) = toleration.value.as_deref().filter(|value| !value.is_empty()) {
                errors.invalid(path.at("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
        }
        other => errors.not_supported(path.at("operator"), other, OPERATORS),
    }
    match toleration.effect.as_deref().unwrap_or_default() {
        "" => {}
        known if EFFECTS.contains(&known) => {}
        other => errors.not_supported(path.at("effect"), other, EFFECTS),
    }
}

fn validate_volumes<'a>(volumes: &'a [Volume], path: &Path<'_>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        if volume.name.is_empty() {
            errors.required(path.at("name"), "");
        } else {
            checked(names::dns_label(&volume.name), &volume.name, path.at("name"), errors);
        }
        if !seen.insert(&*volume.name) {
            errors.duplicate(path.at("name"), &volume.name);
        }
        validate_source(volume, &path, errors);
    }
    seen
}

fn validate_source(volume: &Volume, path: &Path<'_>, errors: &mut Errors) {
    // Exactly one member beside the name says what the volume is.
    let value = serde_json::to_value(volume).unwrap_or_default();
    let sources = value.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name");
    for extra in sources.clone().skip(1) {
        errors.forbidden(path.at(extra), "may not specify more than 1 volume type");
    }
    if sources.count() == 0 {
        errors.required(path, "must specify a volume type");
    }
    if let Some(source) = &volume.host_path {
        let path = path.at("hostPath");
        if source.path.is_empty() {
            errors.required(path.at("path"), "");
        } else if source.path.split('/').any(|step| step == "..") {
            errors.invalid(path.at("path"), &source.path, "must not contain '..'");
        }
        let kind = source.type_.as_deref().unwrap_or_default();
        if !HOST_PATHS.contains(&kind) {
            errors.not_supported(path.at("type"), kind, HOST_PATHS);
        }
    }
    if let Some(source) = &volume.secret {
        let path = path.at("secret");
        if source.secret_name.as_deref().unwrap_or_default().is_empty() {
            errors.required(path.at("secretName"), "");
        }
        validate_mode(source.default_mode, path.at("defaultMode"), errors);
        for (index, item) in source.items.iter().flatten().enumerate() {
            validate_item(&item.key, &item.path, item.mode, &path.at("items").index(index), errors);
        }
    }
    if let Some(source) = &volume.config_map {
        let path = path.at("configMap");
        if source.name.is_empty() {
            errors.required(path.at("name"), "");
        }
        validate_mode(source.default_mode, path.at("defaultMode"), errors);
        for (index, item) in source.items.iter().flatten().enumerate() {
            validate_item(&item.key, &item.path, item.mode, &path.at("items").index(index), errors);
        }
    }
    if let Some(source) = &volume.downward_api {
        let path = path.at("downwardAPI");
        validate_mode(source.default_mode, path.at("defaultMode"), errors);
        for (index, item) in source.items.iter().flatten().enumerate() {
            let path = path.at("items");
            let path = path.index(index);
            validate_inner_path(&item.path, path.at("path"), errors);
            match (&item.field_ref, &item.resource_field_ref) {
                (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
                (Some(_), Some(_)) => {
                    errors.invalid(
                        path,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
                (Some(field), None) => validate_field(&field.field_path, path.at("fieldRef").at("fieldPath"), errors),
                (None, Some(_)) => {}
            }
        }
    }
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()) {
        match Quantity::parse(&limit.0) {
            Ok(limit) if !limit.is_negative() => {}
            Ok(_) => errors
                .forbidden(path.at("emptyDir").at("sizeLimit"), "SizeLimit field must be a valid resource quantity"),
            Err(why) => errors.invalid(path.at("emptyDir").at("sizeLimit"), &limit.0, &why),
        }
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        errors.required(path.at("persistentVolumeClaim").at("claimName"), "");
    }
}

fn validate_mode(mode: Option<i32>, path: Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn validate_item(key: &str, inner: &str, mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if key.is_empty() {
        errors.required(path.at("key"), "");
    }
    validate_inner_path(inner, path.at("path"), errors);
    validate_mode(mode, path.at("mode"), errors);
}

/// A path inside a volume stays inside.
fn validate_inner_path(inner: &str, path: Path<'_>, errors: &mut Errors) {
    if inner.is_empty() {
        errors.required(path, "");
    } else if inner.starts_with('/') {
        errors.invalid(path, inner, "must be a relative path");
    } else if inner.split('/').any(|step| step == "..") {
        errors.invalid(path, inner, "must not contain '..'");
    }
}

fn validate_field(field: &str, path: Path<'_>, errors: &mut Errors) {
    let keyed = ["metadata.labels['", "metadata.annotations['"].iter().any(|start| field.starts_with(start));
    if field.is_empty() {
        errors.required(path, "");
    } else if !(DOWNWARD_FIELDS.contains(&field) || keyed && field.ends_with("']")) {
        errors.not_supported(path, field, DOWNWARD_FIELDS);
    }
}

fn validate_container(
    container: &Container,
    path: &Path<'_>,
    is_init: bool,
    volumes: &BTreeSet<&str>,
    host_network: bool,
    never_restarts: bool,
    errors: &mut Errors,
) {
    if container.name.is_empty() {
        errors.required(path.at("name"), "");
    } else {
        checked(names::dns_label(&container.name), &container.name, path.at("name"), errors);
    }
    match container.image.as_deref().unwrap_or_default() {
        "" => errors.required(path.at("image"), ""),
        image if image.trim() != image => {
            errors.invalid(path.at("image"), image, "must not have leading or trailing whitespace");
        }
        _ => {}
    }
    one_of(container.image_pull_policy.as_deref(), path.at("imagePullPolicy"), PULL_POLICIES, errors);
    let termination = container.termination_message_policy.as_deref();
    one_of(termination, path.at("terminationMessagePolicy"), &["FallbackToLogsOnError", "File"], errors);
    validate_ports(container.ports.as_deref().unwrap_or_default(), &path.at("ports"), host_network, errors);
    for (index, variable) in container.env.iter().flatten().enumerate() {
        validate_variable(variable, &path.at("env").index(index), errors);
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let path = path.at("envFrom");
        let path = path.index(index);
        match (&source.config_map_ref, &source.secret_ref) {
            (Some(reference), None) if reference.name.is_empty() => {
                errors.required(path.at("configMapRef").at("name"), "")
            }
            (None, Some(reference)) if reference.name.is_empty() => {
                errors.required(path.at("secretRef").at("name"), "")
            }
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
    validate_mounts(container.volume_mounts.as_deref().unwrap_or_default(), volumes, &path.at("volumeMounts"), errors);
    resources::of_container(container, is_init, never_restarts, path, errors);
    let is_sidecar = is_init && container.restart_policy.as_deref() == Some("Always");
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        if is_init && !is_sidecar {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(path.at(field), why);
        } else {
            validate_probe(probe, field, &path.at(field), errors);
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        match is_init && !is_sidecar {
            true => {
                let why = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(path.at("lifecycle"), why);
            }
            false => validate_lifecycle(lifecycle, &path.at("lifecycle"), errors),
        }
    }
    if let Some(context) = &container.security_context {
        validate_security(context, &path.at("securityContext"), errors);
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path<'_>, host_network: bool, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            checked(names::port_name(name), name, path.at("name"), errors);
            if !seen.insert(name) {
                errors.duplicate(path.at("name"), name);
            }
        }
        match port.container_port {
            0 => errors.required(path.at("containerPort"), ""),
            number => {
                if let Err(why) = names::port_number(number.into()) {
                    errors.invalid(path.at("containerPort"), number, &why);
                }
            }
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            if let Err(why) = names::port_number(number.into()) {
                errors.invalid(path.at("hostPort"), number, &why);
            } else if host_network && number != port.container_port {
                errors.invalid(path.at("hostPort"), number, "must match `containerPort` when `hostNetwork` is true");
            }
        }
        one_of(port.protocol.as_deref(), path.at("protocol"), PROTOCOLS, errors);
    }
}

fn validate_variable(variable: &EnvVar, path: &Path<'_>, errors: &mut Errors) {
    if variable.name.is_empty() {
        errors.required(path.at("name"), "");
    } else {
        checked(names::env_var(&variable.name), &variable.name, path.at("name"), errors);
    }
    let Some(from) = &variable.value_from else { return };
    let path = path.at("valueFrom");
    if variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    }
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        validate_field(&field.field_path, path.at("fieldRef").at("fieldPath"), errors);
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        if resource.resource.is_empty() {
            errors.required(path.at("resourceFieldRef").at("resource"), "");
        }
    }
    for (field, name, key) in [
        (
            "configMapKeyRef",
            from.config_map_key_ref.as_ref().map(|source| &source.name),
            from.config_map_key_ref.as_ref().map(|source| &source.key),
        ),
        (
            "secretKeyRef",
            from.secret_key_ref.as_ref().map(|source| &source.name),
            from.secret_key_ref.as_ref().map(|source| &source.key),
        ),
    ] {
        let (Some(name), Some(key)) = (name, key) else { continue };
        sources += 1;
        if name.is_empty() {
            errors.required(path.at(field).at("name"), "");
        }
        if key.is_empty() {
            errors.required(path.at(field).at("key"), "");
        } else {
            checked(names::config_key(key), key, path.at(field).at("key"), errors);
        }
    }
    match sources {
        1 => {}
        0 if from.file_key_ref.is_some() => {}
        0 => errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn validate_mounts(mounts: &[VolumeMount], volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            errors.required(path.at("name"), "");
        } else if !volumes.contains(&*mount.name) {
            errors.not_found(path.at("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(path.at("mountPath"), "");
        } else if !seen.insert(&mount.mount_path) {
            errors.invalid(path.at("mountPath"), &mount.mount_path, "must be unique");
        }
        let sub = mount.sub_path.as_deref().unwrap_or_default();
        if !sub.is_empty() {
            validate_inner_path(sub, path.at("subPath"), errors);
        }
    }
}

fn validate_probe(probe: &Probe, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let kinds = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
    handler(kinds.iter().filter(|is| **is).count(), path, errors);
    if probe.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
        errors.required(path.at("exec").at("command"), "");
    }
    if let Some(get) = &probe.http_get {
        let path = path.at("httpGet");
        validate_target(&get.port, path.at("port"), errors);
        one_of(get.scheme.as_deref(), path.at("scheme"), SCHEMES, errors);
    }
    if let Some(socket) = &probe.tcp_socket {
        validate_target(&socket.port, path.at("tcpSocket").at("port"), errors);
    }
    for (field, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        at_least(number.map(i64::from), 0, path.at(field), errors);
    }
    if field != "readinessProbe" && probe.success_threshold.is_some_and(|count| count != 1) {
        errors.invalid(path.at("successThreshold"), probe.success_threshold, "must be 1");
    }
    if let Some(seconds) = probe.termination_grace_period_seconds {
        match field {
            "readinessProbe" => {
                let why = "must not be set for readinessProbes";
                errors.invalid(path.at("terminationGracePeriodSeconds"), seconds, why);
            }
            _ => at_least(Some(seconds), 1, path.at("terminationGracePeriodSeconds"), errors),
        }
    }
}

fn handler(kinds: usize, path: &Path<'_>, errors: &mut Errors) {
    match kinds {
        1 => {}
        0 => errors.required(path, "must specify a handler type"),
        _ => errors.forbidden(path, "may not specify more than 1 handler type"),
    }
}

fn validate_target(port: &IntOrString, path: Path<'_>, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => {
            if let Err(why) = names::port_number((*number).into()) {
                errors.invalid(path, number, &why);
            }
        }
        IntOrString::String(name) => checked(names::port_name(name), name, path, errors),
    }
}

fn validate_lifecycle(lifecycle: &Lifecycle, path: &Path<'_>, errors: &mut Errors) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(hook) = hook else { continue };
        let kinds = [hook.exec.is_some(), hook.http_get.is_some(), hook.tcp_socket.is_some(), hook.sleep.is_some()];
        handler(kinds.iter().filter(|is| **is).count(), &path.at(field), errors);
        if hook.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
            errors.required(path.at(field).at("exec").at("command"), "");
        }
        if let Some(get) = &hook.http_get {
            validate_target(&get.port, path.at(field).at("httpGet").at("port"), errors);
        }
    }
}

fn validate_security(context: &SecurityContext, path: &Path<'_>, errors: &mut Errors) {
    validate_id(context.run_as_user, path.at("runAsUser"), errors);
    validate_id(context.run_as_group, path.at("runAsGroup"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, "", why);
        }
        let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
        if added.is_some_and(|added| added.iter().any(|name| name == "CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, "", why);
        }
    }
}
