//! PodSecurity: what pods of a namespace may do to their node, by the level that its labels name.
//!
//! `pod-security.kubernetes.io/enforce` refuses pods; `warn` and `audit` let them pass, and `warn` says so. What makes pods
//! (a Deployment, a Job) is never refused, because its pods will be; it warns, so that people learn of it at once. The
//! levels are the Pod Security Standards (KEP-2579).

mod baseline;
mod restricted;

use std::collections::BTreeMap;

use copepod_api::{
    Status, StatusResult,
    field::Errors,
    resource::{NAMESPACES, PODS},
};
use serde_json::Value;

use super::{NONE, Plugin, Write};
use crate::{json::text, pipeline::World};

pub const PLUGIN: Plugin = Plugin { judge, ..NONE };

const PREFIX: &str = "pod-security.kubernetes.io/";
const LEVELS: [&str; 3] = ["privileged", "baseline", "restricted"];
const LATEST: &str = "latest";

/// How many pods of a namespace are held against a new level. Kubernetes looks at as many.
const PODS_CHECKED_MAX: usize = 3000;

/// Where kinds that make pods keep their template.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "/spec/template"),
    ("", "podtemplates", "/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
];

/// A fault of a pod against a level: what it is about, and where.
struct Fault {
    what: &'static str,
    details: Vec<String>,
}

type Check = fn(&Pod<'_>) -> Option<Fault>;

/// A pod as the checks see it.
struct Pod<'a> {
    spec: &'a Value,
    annotations: &'a Value,
}

impl<'a> Pod<'a> {
    /// `pod` or a template of one.
    fn of(pod: &'a Value) -> Pod<'a> {
        Pod { spec: &pod["spec"], annotations: &pod["metadata"]["annotations"] }
    }

    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let spec = self.spec;
        lists.into_iter().flat_map(move |list| spec[list].as_array().into_iter().flatten())
    }

    fn is_of_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// A fault of the containers of which `is_bad` says so: `container "a" must …`, `containers "a", "b" must …`.
    fn fault(&self, what: &'static str, rule: &str, is_bad: impl Fn(&Value) -> bool) -> Option<Fault> {
        let bad: Vec<&str> =
            self.containers().filter(|container| is_bad(container)).filter_map(|own| own["name"].as_str()).collect();
        (!bad.is_empty()).then(|| Fault { what, details: vec![format!("{} {rule}", named("container", &bad))] })
    }
}

/// `container "a"`, or `containers "a", "b"`.
fn named(what: &str, names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", quoted.join(", "))
}

/// All that is wrong with a pod at a level, in one sentence.
fn faults(level: &str, pod: &Value) -> Option<String> {
    let checks: &[&[Check]] = match level {
        "baseline" => &[baseline::CHECKS],
        "restricted" => &[baseline::CHECKS, restricted::CHECKS],
        _ => return None,
    };
    let pod = Pod::of(pod);
    let found = checks.iter().flat_map(|checks| checks.iter()).filter_map(|check| check(&pod));
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all: Vec<Fault> = Vec::new();
    for fault in found {
        // Of two levels that ask for the same, the stricter one is told.
        match said.get(fault.what) {
            Some(place) => all[*place] = fault,
            None => {
                said.insert(fault.what, all.len());
                all.push(fault);
            }
        }
    }
    let sentences: Vec<String> =
        all.into_iter().map(|fault| format!("{} ({})", fault.what, fault.details.join("; "))).collect();
    (!sentences.is_empty()).then(|| sentences.join(", "))
}

/// What a namespace's labels say of one of `enforce`, `warn`, `audit`.
struct Policy {
    level: String,
    version: String,
}

impl Policy {
    fn of(namespace: &Value, mode: &str) -> Policy {
        let label = |suffix: &str| namespace["metadata"]["labels"][format!("{PREFIX}{mode}{suffix}")].as_str();
        Policy {
            level: label("").unwrap_or(LEVELS[0]).to_owned(),
            version: label("-version").unwrap_or(LATEST).to_owned(),
        }
    }

    fn name(&self) -> String {
        format!("{}:{}", self.level, self.version)
    }
}

fn judge(world: &mut World<'_>, write: &Write<'_>, object: &Value) -> StatusResult<()> {
    if write.is_of(&NAMESPACES) {
        return judge_namespace(world, write, object);
    }
    let changed = |at: &str| write.old.is_none_or(|old| old.pointer(at) != object.pointer(at));
    if write.is_of(&PODS) {
        let is_concerned = ["", "ephemeralcontainers"].contains(&&*write.request.target.subresource);
        return if is_concerned && changed("/spec") { judge_pod(world, write, object) } else { Ok(()) };
    }
    let kind = &write.row.kind;
    let of_kind = TEMPLATES.iter().find(|(group, plural, _)| kind.group == *group && kind.plural == *plural);
    if let Some((_, _, at)) = of_kind
        && write.request.target.subresource.is_empty()
        && changed(at)
        && let Some(template) = object.pointer(at)
    {
        warn(world, write, template, &["enforce", "warn"]);
    }
    Ok(())
}

fn judge_pod(world: &mut World<'_>, write: &Write<'_>, pod: &Value) -> StatusResult<()> {
    let Some(namespace) = world.get(&NAMESPACES, "", write.namespace()) else { return Ok(()) };
    let policy = Policy::of(namespace.value(), "enforce");
    if let Some(why) = faults(&policy.level, pod) {
        return Err(write.forbidden(pod, format!("violates PodSecurity {:?}: {why}", policy.name())));
    }
    warn(world, write, pod, &["warn"]);
    Ok(())
}

/// Says what would be refused, once for a level.
fn warn(world: &mut World<'_>, write: &Write<'_>, pod: &Value, modes: &[&str]) {
    let Some(namespace) = world.get(&NAMESPACES, "", write.namespace()) else { return };
    let policies: BTreeMap<String, String> = modes
        .iter()
        .map(|mode| Policy::of(namespace.value(), mode))
        .map(|policy| (policy.name(), policy.level))
        .collect();
    for (name, level) in policies {
        if let Some(why) = faults(&level, pod) {
            world.warn(format!("would violate PodSecurity {name:?}: {why}"));
        }
    }
}

/// The labels make sense; pods that are there and would be refused now are told.
fn judge_namespace(world: &mut World<'_>, write: &Write<'_>, namespace: &Value) -> StatusResult<()> {
    let mut errors = Errors::default();
    for mode in ["enforce", "warn", "audit"] {
        let policy = Policy::of(namespace, mode);
        if !LEVELS.contains(&&*policy.level) {
            let why = format!("must be one of {}", LEVELS.join(", "));
            errors.invalid(format!("metadata.labels[{PREFIX}{mode}]"), &policy.level, &why);
        }
        let minor = policy.version.strip_prefix("v1.").and_then(|minor| minor.parse::<u32>().ok());
        if policy.version != LATEST && minor.is_none() {
            let why = "must be \"latest\" or \"v1.x\"";
            errors.invalid(format!("metadata.labels[{PREFIX}{mode}-version]"), &policy.version, why);
        }
    }
    if !errors.is_empty() {
        let name = text(namespace, "/metadata/name").unwrap_or_default();
        return Err(Status::invalid(&write.row.kind, name, errors));
    }
    let Some(old) = write.old else { return Ok(()) };
    let policy = Policy::of(namespace, "enforce");
    if Policy::of(old, "enforce").name() == policy.name() {
        return Ok(());
    }
    let name = text(namespace, "/metadata/name").unwrap_or_default().to_owned();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in world.view.objects(&PODS, Some(&name)).take(PODS_CHECKED_MAX) {
        if let Some(why) = faults(&policy.level, pod.value()) {
            found.entry(why).or_default().push(pod.key.name().to_owned());
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let level = policy.name();
    world.warn(format!("existing pods in namespace {name:?} violate the new PodSecurity enforce level {level:?}"));
    for (why, pods) in found {
        let others = match pods.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other pod)".to_owned(),
            more => format!(" (and {more} other pods)"),
        };
        world.warn(format!("{}{others}: {why}", pods[0]));
    }
    Ok(())
}

/// Kinds whose templates are looked at are really served.
#[cfg(test)]
pub(crate) fn watched() -> Vec<copepod_api::Resource> {
    TEMPLATES.iter().map(|(group, plural, _)| copepod_api::Resource::new(*group, *plural)).collect()
}
