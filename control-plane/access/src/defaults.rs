//! The roles that every cluster has, and who holds them.
//!
//! They are kept as a table of facts. An administrator may change them; what is missing from them is put back when a
//! leader starts, and what was added stays, unless `rbac.authorization.kubernetes.io/autoupdate` is `false`.

use copepod_api::Key;
use copepod_store::View;
use serde_json::{Value, json};

use crate::{
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Rule, escalation::missing_from, resources::GROUP,
};

const TABLE: &str = include_str!("../facts/roles.txt");

/// Whoever sets it to `false` keeps the object as it is.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// An object that every cluster has.
pub struct Default {
    pub key: Key,
    pub object: Value,
}

/// What to do about one of them.
pub enum Mend {
    Create,
    /// A merge patch that puts back what is missing.
    Patch(Value),
}

/// All of them; roles first.
pub fn all() -> Vec<Default> {
    read(TABLE)
}

pub(crate) fn read(table: &str) -> Vec<Default> {
    let mut defaults: Vec<Default> = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        match (line.strip_prefix("  "), defaults.last_mut()) {
            (Some(part), Some(last)) => add(&mut last.object, part),
            _ => defaults.extend(begin(line)),
        }
    }
    defaults
}

/// What `view` lacks of this one, if anything.
pub fn mend(view: &View, wanted: &Default) -> Option<Mend> {
    let Some(stands) = view.object(&wanted.key) else { return Some(Mend::Create) };
    if stands.meta.annotations.get(AUTOUPDATE).is_some_and(|value| value == "false") {
        return None;
    }
    // A copy of our own, so that the stored object does not keep its decoded form.
    let stands: Value = serde_json::from_slice(&stands.bytes()).unwrap_or_default();
    let mut patch = json!({});
    for field in ["labels", "annotations"] {
        for (name, value) in wanted.object["metadata"][field].as_object().into_iter().flatten() {
            if stands["metadata"][field][name] != *value {
                patch["metadata"][field][name] = value.clone();
            }
        }
    }
    if wanted.object.get("aggregationRule").is_some() {
        if stands["aggregationRule"] != wanted.object["aggregationRule"] {
            patch["aggregationRule"] = wanted.object["aggregationRule"].clone();
        }
    } else if let Some(rules) = with_missing(&stands, &wanted.object, "rules", missing_from) {
        patch["rules"] = rules;
    } else if let Some(subjects) = with_missing(&stands, &wanted.object, "subjects", |own, wanted| {
        wanted.iter().filter(|subject| !own.contains(subject)).cloned().collect()
    }) {
        patch["subjects"] = subjects;
    }
    (patch != json!({})).then_some(Mend::Patch(patch))
}

/// The list with what is missing added to it; `None` where nothing is.
fn with_missing(
    stands: &Value,
    wanted: &Value,
    field: &str,
    missing: impl Fn(&[Value], &[Value]) -> Vec<Value>,
) -> Option<Value> {
    let list = |object: &Value| object[field].as_array().cloned().unwrap_or_default();
    let own = list(stands);
    let missing = missing(&own, &list(wanted));
    (!missing.is_empty()).then(|| Value::from([own, missing].concat()))
}

fn begin(line: &str) -> Option<Default> {
    let mut words = line.split(' ');
    let (kind, place) = (words.next()?, words.next()?);
    let (namespace, name) = match kind {
        "Role" | "RoleBinding" => place.split_once('/')?,
        _ => ("", place),
    };
    let resource = match kind {
        "Role" => ROLES,
        "ClusterRole" => CLUSTER_ROLES,
        "RoleBinding" => ROLE_BINDINGS,
        _ => CLUSTER_ROLE_BINDINGS,
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTOUPDATE: "true"},
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if kind.ends_with("Binding") {
        object["roleRef"] = json!({"apiGroup": GROUP, "kind": words.next()?, "name": words.next()?});
    } else {
        object["rules"] = json!([]);
    }
    for word in words {
        if let Some(role) = word.strip_prefix("to:") {
            object["metadata"]["labels"][part_of(role)] = json!("true");
        } else if let Some(role) = word.strip_prefix("from:") {
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {part_of(role): "true"}}]});
        }
    }
    Some(Default { key: Key::new(resource, namespace, name), object })
}

fn part_of(role: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{role}")
}

/// A line under a role or a binding.
fn add(object: &mut Value, line: &str) {
    let (field, part) =
        if object.get("roleRef").is_some() { ("subjects", subject(line)) } else { ("rules", rule(line)) };
    if let Some(part) = part {
        match object.get_mut(field).and_then(Value::as_array_mut) {
            Some(list) => list.push(part),
            None => object[field] = json!([part]),
        }
    }
}

fn rule(line: &str) -> Option<Value> {
    let mut parts = line.split(" | ").map(|part| -> Vec<String> {
        part.split_whitespace().map(|word| if word == "core" { "" } else { word }.to_owned()).collect()
    });
    let (verbs, second) = (parts.next()?, parts.next()?);
    let rule = match parts.next() {
        None => Rule { verbs, non_resource_urls: second, ..Rule::default() },
        Some(resources) => Rule {
            verbs,
            api_groups: second,
            resources,
            resource_names: parts.next().unwrap_or_default(),
            ..Rule::default()
        },
    };
    serde_json::to_value(rule).ok()
}

fn subject(line: &str) -> Option<Value> {
    let (kind, name) = line.split_once(' ')?;
    Some(match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    })
}
