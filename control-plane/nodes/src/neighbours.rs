//! What nodes know of pods elsewhere, for the sake of NetworkPolicies: which labels, addresses and named ports they have.
//!
//! It is a pod's object with everything else left out, under a name of its own, so that nobody takes it for a pod to run.
//! It changes much more seldom than the pod does.

use bytes::Bytes;
use copepod_api::{Object, k8s_openapi::api::core::v1::Pod};
use serde_json::json;

/// How they are called on the way to a node, where pods are those to be run.
pub const NEIGHBOURS: &str = "neighbours";

/// `None` for a pod that has no address, or none of its own: it is known by its node's.
pub fn of(pod: &Object) -> Option<Bytes> {
    let typed = pod.typed::<Pod>().ok()?;
    let (spec, status) = (typed.spec.as_ref()?, typed.status.as_ref()?);
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let addresses = status.pod_ips.as_ref().filter(|addresses| !addresses.is_empty())?;
    if has_ended || spec.host_network == Some(true) {
        return None;
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| {
        let ports = container.ports.iter().flatten().filter(|port| port.name.is_some());
        json!({"name": container.name, "ports": ports.collect::<Vec<_>>()})
    });
    let known = json!({
        "metadata": {
            "name": typed.metadata.name, "namespace": typed.metadata.namespace, "labels": typed.metadata.labels,
        },
        "spec": {"nodeName": spec.node_name, "containers": containers.collect::<Vec<_>>()},
        "status": {"podIPs": addresses},
    });
    serde_json::to_vec(&known).ok().map(Bytes::from)
}
