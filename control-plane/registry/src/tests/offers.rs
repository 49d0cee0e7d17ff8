//! Slices of the control plane, and the pods that they offer.

use copepod_api::{Action, DeleteOptions, Expect, Op};
use serde_json::{Value, json};

use super::fixture::{Fixture, pod, refusal, request};

fn slice(world: &Fixture, manager: &str, pods: &[(&str, bool)]) -> Value {
    let endpoints = pods.iter().map(|(name, ready)| {
        let uid = world.get(&format!("pods/{name}")).map_or(json!("gone"), |pod| pod["metadata"]["uid"].clone());
        json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready},
               "targetRef": {"kind": "Pod", "namespace": "default", "name": name, "uid": uid}})
    });
    json!({
        "metadata": {"name": "web-1", "labels": {"endpointslice.kubernetes.io/managed-by": manager}},
        "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

const MANAGER: &str = "endpointslice-controller.k8s.io";

#[test]
fn no_slice_begins_to_offer_a_pod_that_leaves_or_is_gone() {
    let mut world = Fixture::new();
    // One that runs somewhere is not gone at once when it is deleted.
    for name in ["a", "b"] {
        world.create("pods", pod(name)).unwrap();
        world.create(&format!("pods/{name}/binding"), json!({"target": {"name": "n1"}})).unwrap();
    }
    let offered = slice(&world, MANAGER, &[("a", true), ("b", false)]);
    world.create("endpointslices", offered.clone()).unwrap();
    for name in ["a", "b"] {
        let leaving = world.delete(&format!("pods/{name}"), DeleteOptions::default()).unwrap();
        assert!(leaving["metadata"]["deletionTimestamp"].is_string());
    }
    world.update("endpointslices/web-1", offered.clone()).expect("that it was offered is not undone by leaving");
    for names in [["a", "b"], ["a", "c"]] {
        let late = slice(&world, MANAGER, &names.map(|name| (name, true)));
        let why = refusal(world.update("endpointslices/web-1", late));
        assert!(why.contains("the object has been modified"), "{why}");
    }
    let own = slice(&world, "somebody", &[("a", true), ("b", true)]);
    world.update("endpointslices/web-1", own).expect("others know what they do");
}

/// Decided one after the other, and written later: what was decided in between may be lost.
#[test]
fn the_transaction_rests_on_the_pods_that_are_offered_anew() {
    let mut world = Fixture::new();
    world.create("pods", pod("a")).unwrap();
    let offered = slice(&world, MANAGER, &[("a", true)]);
    let decided = world.decide(&[request("endpointslices", Action::Create { object: offered })]).unwrap();
    let checks: Vec<_> = decided.txn.ops.iter().filter(|op| matches!(op, Op::Check { .. })).collect();
    assert_eq!(checks.len(), 1);
    assert_eq!((checks[0].key().name(), matches!(checks[0].expect(), Expect::At(_))), ("a", true));
}
