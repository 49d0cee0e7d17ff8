//! What nodes know of pods elsewhere, for the sake of NetworkPolicies: which labels, addresses and named ports they have.
//!
//! It is the pods' objects with everything else left out, a list a node, under a name of its own, so that nobody takes them
//! for pods to run. Such a list changes much more seldom than the pods do.

use bytes::Bytes;
use copepod_api::{Object, k8s_openapi::api::core::v1::Pod};
use copepod_store::View;
use serde_json::{Value, json};

/// How they are called on the way to a node; each list is named after the node that the pods are on.
pub const NEIGHBOURS: &str = "neighbours";

/// `None` for a pod that has no address, or none of its own: it is known by its node's.
pub fn of(pod: &Object) -> Option<Value> {
    if pod.facts().has_ended() || pod.facts().addresses.is_empty() {
        return None;
    }
    let typed = pod.decoded::<Pod>().ok()?;
    let (spec, status) = (typed.spec.as_ref()?, typed.status.as_ref()?);
    let addresses = status.pod_ips.as_ref().filter(|addresses| !addresses.is_empty())?;
    if spec.host_network == Some(true) {
        return None;
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| {
        let ports = container.ports.iter().flatten().filter(|port| port.name.is_some());
        json!({"name": container.name, "ports": ports.collect::<Vec<_>>()})
    });
    Some(json!({
        "metadata": {
            "name": typed.metadata.name, "namespace": typed.metadata.namespace, "labels": typed.metadata.labels,
        },
        "spec": {"containers": containers.collect::<Vec<_>>()},
        "status": {"podIPs": addresses},
    }))
}

/// All of a node; `None` if there are none.
pub fn on(node: &str, view: &View) -> Option<Bytes> {
    let pods: Vec<Value> = view.pods_on(node).filter_map(|pod| of(pod)).collect();
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods});
    (!pods.is_empty()).then(|| list.to_string().into())
}
