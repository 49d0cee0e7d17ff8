//! What nodes may do: what their pods need, and nothing of the pods of others.
//!
//! The rules of the role `system:node` say what nodes do at all. For what is secret, and for what belongs to one node, a
//! rule is not enough: a node reads a Secret only while one of its pods names it.

use std::sync::LazyLock;

use copepod_api::{Key, Object, Resource, User, resource::PODS};
use copepod_store::View;
use serde_json::Value;

use crate::{Attributes, Rule, Wish, defaults};

const GROUP: &str = "system:nodes";
const USER: &str = "system:node:";
const LEASES_NAMESPACE: &str = "kube-node-lease";

const CLAIMS: Resource = Resource::known("", "persistentvolumeclaims");
const ATTACHMENTS: Resource = Resource::known("storage.k8s.io", "volumeattachments");

const READS: &[&str] = &["get", "list", "watch"];
const KEEPS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// The node that a user is.
pub fn name(user: &User) -> Option<&str> {
    user.name.strip_prefix(USER).filter(|name| !name.is_empty() && user.is_in(GROUP))
}

/// Whether this node may; other users are none of this function's business.
pub fn allows(view: &View, node: &str, wish: &Wish<'_>) -> bool {
    let Wish::Object(own) = wish else { return false };
    let read = READS.contains(&own.verb) && own.subresource.is_empty() && !own.name.is_empty();
    match (own.group, own.resource, own.subresource) {
        ("", "secrets", _) => read && names(view, node, own, secret),
        ("", "configmaps", _) => read && names(view, node, own, config_map),
        ("", "persistentvolumeclaims", "status") => {
            ["get", "patch", "update"].contains(&own.verb) && names(view, node, own, claim)
        }
        ("", "persistentvolumeclaims", _) => own.verb == "get" && read && names(view, node, own, claim),
        ("", "persistentvolumes", _) => own.verb == "get" && read && shows_volume(view, node, own.name),
        ("", "serviceaccounts", "token") => own.verb == "create" && names(view, node, own, account),
        ("", "serviceaccounts", "") => own.verb == "get" && names(view, node, own, account),
        ("", "pods", "") if own.verb == "get" => runs(view, node, own),
        ("", "pods", "") if READS.contains(&own.verb) => own.selected_node == node || read && runs(view, node, own),
        ("", "nodes", "") if READS.contains(&own.verb) => own.name == node,
        ("storage.k8s.io", "volumeattachments", _) => own.verb == "get" && read && attaches(view, node, own.name),
        ("coordination.k8s.io", "leases", "") => {
            own.namespace == LEASES_NAMESPACE && KEEPS.contains(&own.verb) && (own.name == node || own.verb == "create")
        }
        ("storage.k8s.io", "csinodes", "") => KEEPS.contains(&own.verb) && (own.name == node || own.verb == "create"),
        _ => rules().iter().any(|rule| rule.allows(wish)),
    }
}

/// The rules of `system:node`, whatever became of the object of that name.
fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let role = defaults::all().into_iter().find(|part| part.key.name() == "system:node");
        let rules = role.map(|role| role.object["rules"].clone()).unwrap_or_default();
        serde_json::from_value(rules).unwrap_or_default()
    });
    &RULES
}

fn runs(view: &View, node: &str, wish: &Attributes<'_>) -> bool {
    let pod = view.object(&Key::new(PODS, wish.namespace, wish.name));
    pod.is_some_and(|pod| pod.node.as_deref() == Some(node))
}

fn spec(pod: &Object) -> Value {
    let pod: Value = serde_json::from_slice(&pod.bytes()).unwrap_or_default();
    pod["spec"].clone()
}

/// Whether a pod of the node, in the namespace of the wish, names what is wished for.
fn names(view: &View, node: &str, wish: &Attributes<'_>, is_named: fn(&str, &Value, &str) -> bool) -> bool {
    let mut pods = view.pods_on(node).filter(|pod| pod.key.namespace() == wish.namespace);
    pods.any(|pod| is_named(pod.key.name(), &spec(pod), wish.name))
}

fn account(_: &str, spec: &Value, name: &str) -> bool {
    spec["serviceAccountName"].as_str().unwrap_or("default") == name
}

fn secret(_: &str, spec: &Value, name: &str) -> bool {
    found(spec, &|field, value| match field {
        "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => value["name"] == name,
        "secret" => value["secretName"] == name || value["name"] == name,
        "imagePullSecrets" => value.as_array().into_iter().flatten().any(|pull| pull["name"] == name),
        _ => false,
    })
}

fn config_map(_: &str, spec: &Value, name: &str) -> bool {
    found(spec, &|field, value| {
        ["configMap", "configMapRef", "configMapKeyRef"].contains(&field) && value["name"] == name
    })
}

fn claim(pod: &str, spec: &Value, name: &str) -> bool {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes.into_iter().any(|volume| {
        let own = volume["name"].as_str().unwrap_or_default();
        volume["persistentVolumeClaim"]["claimName"] == name
            || volume["ephemeral"].is_object() && name == format!("{pod}-{own}")
    })
}

/// Whether somewhere in a pod's spec a field is as wanted. Pods name things at many places, and always by such fields.
fn found(value: &Value, is_wanted: &dyn Fn(&str, &Value) -> bool) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(field, value)| is_wanted(field, value) || found(value, is_wanted)),
        Value::Array(items) => items.iter().any(|item| found(item, is_wanted)),
        _ => false,
    }
}

/// Whether a pod of the node claims this volume.
fn shows_volume(view: &View, node: &str, volume: &str) -> bool {
    view.pods_on(node).any(|pod| {
        let (namespace, spec) = (pod.key.namespace(), spec(pod));
        let mut claims = view.objects(&CLAIMS, Some(namespace));
        claims.any(|own| {
            let bound: Value = serde_json::from_slice(&own.bytes()).unwrap_or_default();
            bound["spec"]["volumeName"] == volume && claim(pod.key.name(), &spec, own.key.name())
        })
    })
}

fn attaches(view: &View, node: &str, name: &str) -> bool {
    let attachment = view.object(&Key::new(ATTACHMENTS, "", name));
    attachment.is_some_and(|attachment| spec(attachment)["nodeName"] == node)
}
