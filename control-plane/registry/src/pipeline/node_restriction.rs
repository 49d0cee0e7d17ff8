//! A node changes what is its own, and nothing else: its Node, its lease, the pods that it runs.
//!
//! What the node front writes for a node is not looked at here: it comes without `system:authenticated`, and the front
//! has judged it already.

use copepod_access::node;
use copepod_api::{Request, Status, StatusResult};
use serde_json::Value;

use super::World;
use crate::{Row, json::text};

const AUTHENTICATED: &str = "system:authenticated";
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES_NAMESPACE: &str = "kube-node-lease";

/// Labels of Kubernetes' own domains that nodes may set on themselves; besides those in `FREE_DOMAINS`.
const FREE_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const FREE_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Judges a write: the object after it and before it.
pub fn check(row: &Row, request: &Request, new: Option<&Value>, old: Option<&Value>) -> StatusResult<()> {
    let Some(node) = node::name(&request.user).filter(|_| request.user.is_in(AUTHENTICATED)) else { return Ok(()) };
    let judged = match (&*row.kind.group, &*row.kind.plural) {
        ("", "pods") => pod(node, &request.target.subresource, new, old),
        ("", "nodes") => own_node(node, new, old),
        ("coordination.k8s.io", "leases") if &*request.target.namespace != LEASES_NAMESPACE => {
            Err(format!("can only access leases in the {LEASES_NAMESPACE:?} system namespace"))
        }
        ("coordination.k8s.io", "leases") if name(new, old) != node => {
            Err("can only access lease with the same name as the requesting node".to_owned())
        }
        ("storage.k8s.io", "csinodes") if name(new, old) != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => Ok(()),
    };
    judged.map_err(|why| Status::forbidden(&request.target.resource, name(new, old), why))
}

/// Judges what is done with an object by a subresource of its own meaning.
pub fn check_action(world: &World<'_>, row: &Row, request: &Request) -> StatusResult<()> {
    if node::name(&request.user).is_none() {
        return Ok(());
    }
    let live = world.find(row, &request.target)?;
    check(row, request, Some(live.value()), Some(live.value()))
}

fn name<'a>(new: Option<&'a Value>, old: Option<&'a Value>) -> &'a str {
    old.or(new).and_then(|object| text(object, "/metadata/name")).unwrap_or_default()
}

fn pod(node: &str, subresource: &str, new: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    let is_own = |pod: &Value| text(pod, "/spec/nodeName") == Some(node);
    match (new, old) {
        (Some(new), None) => {
            if !new["metadata"]["annotations"][MIRROR].is_string() {
                return Err(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            if !is_own(new) {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            match text(new, "/spec/serviceAccountName").is_some_and(|account| !account.is_empty()) {
                true => Err(format!("node {node:?} can not create pods that reference a service account")),
                false => Ok(()),
            }
        }
        (Some(new), Some(old)) => {
            if !is_own(old) {
                let what = if subresource == "eviction" { "evict pods" } else { "update pod status for pods" };
                return Err(format!("node {node:?} can only {what} with spec.nodeName set to itself"));
            }
            match new.pointer("/metadata/labels") == old.pointer("/metadata/labels") {
                true => Ok(()),
                false => Err(format!("node {node:?} cannot update labels through pod status")),
            }
        }
        (None, Some(old)) if !is_own(old) => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        _ => Ok(()),
    }
}

fn own_node(node: &str, new: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    let own = name(new, old);
    if own != node {
        return Err(format!("node {node:?} is not allowed to modify node {own:?}"));
    }
    let Some(new) = new else { return Ok(()) };
    // What schedules pods to a node is for others to say, or a taken node would draw theirs to itself.
    if let Some(old) = old
        && new.pointer("/spec/taints") != old.pointer("/spec/taints")
    {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let labels = |object: Option<&Value>| object.and_then(|object| object["metadata"]["labels"].as_object().cloned());
    let (after, before) = (labels(Some(new)).unwrap_or_default(), labels(old).unwrap_or_default());
    let changed = after.keys().chain(before.keys()).filter(|key| after.get(*key) != before.get(*key));
    let mut refused: Vec<&str> = changed.map(String::as_str).filter(|key| !is_free(key)).collect();
    refused.sort_unstable();
    refused.dedup();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(format!("is not allowed to modify labels: {}", refused.join(", "))),
    }
}

fn is_free(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let is_of = |own: &str| domain == own || domain.ends_with(&format!(".{own}"));
    let is_kubernetes = is_of("kubernetes.io") || is_of("k8s.io");
    !is_kubernetes || FREE_LABELS.contains(&label) || FREE_DOMAINS.iter().any(|own| is_of(own))
}
