//! Requests and limits: what they make of a pod, and how they change.

use serde_json::{Value, json};

use super::life::Life;
use crate::QosClass;

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let cases = [
        (json!([{}]), QosClass::BestEffort),
        (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}]), QosClass::Guaranteed),
        (
            json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}]),
            QosClass::Guaranteed,
        ),
        (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}]), QosClass::Burstable),
        (json!([{"requests": {"cpu": "1"}}]), QosClass::Burstable),
        (json!([{"requests": {"cpu": "0"}}]), QosClass::BestEffort),
    ];
    for (resources, expected) in cases {
        let containers: Vec<Value> =
            resources.as_array().unwrap().iter().map(|r| json!({"name": "a", "resources": r})).collect();
        assert_eq!(QosClass::of(&Life::of(json!({"containers": containers})).pod), expected, "{resources}");
    }
}

#[test]
fn amounts_change_in_place_when_there_is_room() {
    let container = json!({"name": "a", "image": "a:1", "resources": {"requests": {"cpu": "100m"}}});
    let mut life = Life::of(json!({"containers": [container]}));
    life.tell("until 1s");
    assert_eq!(life.tell("room 2 1\n a cpu 500m\n until 2s\n status"), "1.0s resize a\nRunning Ready a=Running(0)");
    let told = life.tell("a cpu 1500m\n until 3s\n status");
    assert_eq!(told, "Running Ready PodResizePending:Deferred a=Running(0)");
    let status = life.status();
    let shown = &status.container_statuses.unwrap()[0];
    assert_eq!(shown.allocated_resources.as_ref().unwrap()["cpu"].0, "500m", "what is not taken is not promised");
    let told = life.tell("a cpu 3\n until 4s\n status");
    assert_eq!(told, "Running Ready PodResizePending:Infeasible a=Running(0)");
    assert_eq!(life.tell("room 4 1\n until 20s\n status"), "4.0s resize a\nRunning Ready a=Running(0)");
}

#[test]
fn a_container_that_wants_it_is_run_anew_with_other_amounts() {
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    let container = json!({"name": "a", "image": "a:1", "resizePolicy": policy});
    let mut life = Life::of(json!({"containers": [container]}));
    life.tell("until 1s");
    let told = life.tell("a cpu 500m\n until 9s\n status");
    assert_eq!(told, "1.0s stop a 30s\n1.0s start a 1\nRunning Ready a=Running<143(1)");
}
