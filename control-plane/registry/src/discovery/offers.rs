//! No slice begins to offer a pod that is on its way out.
//!
//! A leaving pod is stopped when no slice offers it and every node knows that (`control-plane/nodes/src/release.rs`). A slice
//! that was decided before the pod was asked to leave, and is written after it was stopped, would lead requests to
//! nobody. So what a slice offers anew must be as it was when that was decided; the controller is refused otherwise, and
//! decides again.

use std::collections::BTreeSet;

use copepod_api::{Status, resource};
use serde_json::Value;

use crate::{
    json::{items, text},
    pipeline::World,
};

/// What people and other controllers write into slices of their own is their affair.
const MANAGED_BY: &str = "/metadata/labels/endpointslice.kubernetes.io~1managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// A pod that an endpoint leads to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Offered<'v> {
    uid: &'v str,
    namespace: &'v str,
    name: &'v str,
}

fn offered(slice: &Value) -> impl Iterator<Item = Offered<'_>> {
    let says = |endpoint: &Value, condition: &str| endpoint.pointer(condition).and_then(Value::as_bool);
    let is_offered = move |endpoint: &&Value| {
        says(endpoint, "/conditions/ready") != Some(false) && says(endpoint, "/conditions/terminating") != Some(true)
    };
    items(slice, "/endpoints").iter().filter(is_offered).filter_map(|endpoint| {
        Some(Offered {
            uid: text(endpoint, "/targetRef/uid")?,
            namespace: text(endpoint, "/targetRef/namespace")?,
            name: text(endpoint, "/targetRef/name")?,
        })
    })
}

/// Refuses a slice that offers a pod anew which leaves or is gone; otherwise has the transaction rest on those pods.
pub(super) fn check(world: &mut World<'_>, slice: &Value, before: Option<&Value>) -> Result<(), Status> {
    if text(slice, MANAGED_BY) != Some(MANAGER) {
        return Ok(());
    }
    let known: BTreeSet<Offered<'_>> = before.into_iter().flat_map(offered).collect();
    for pod in offered(slice).filter(|pod| !known.contains(pod)) {
        let live = world.get(&resource::PODS, pod.namespace, pod.name).cloned();
        match live.filter(|live| live.meta.uid == pod.uid && !live.meta.is_leaving()) {
            Some(live) => world.rests_on(&live),
            None => return Err(Status::changed_meanwhile(&resource::PODS, pod.name)),
        }
    }
    Ok(())
}
