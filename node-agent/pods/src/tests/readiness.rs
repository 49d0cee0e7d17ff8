//! Probes, and the conditions that follow from them.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::json;

use super::life::{BEGIN, Life, one, story};

#[test]
fn readiness_is_found_early_and_liveness_restarts() {
    let probe = |threshold: i32| json!({"periodSeconds": 10, "failureThreshold": threshold, "httpGet": {"port": 80}});
    let mut life = Life::of(
        json!({"containers": [{"name": "a", "image": "x:1", "readinessProbe": probe(3), "livenessProbe": probe(2)}]}),
    );
    life.tell("a Readiness fails\nuntil 0s");
    story(
        &mut life,
        "status\nuntil 1s\na Readiness passes\nuntil 2s\nstatus",
        "Running a=Running(0)\nRunning Ready a=Running(0)",
    );
    // Not ready only after three failures in a row, ten seconds apart.
    story(
        &mut life,
        "a Readiness fails\nuntil 30s\nstatus\nuntil 45s\nstatus",
        "Running Ready a=Running(0)\nRunning a=Running(0)",
    );
    story(
        &mut life,
        "a Liveness fails\nuntil 62s\nstatus",
        "60.0s stop a 30s\n61.0s start a 1\nRunning a=Running<143(1)",
    );
}

#[test]
fn a_slow_start_holds_the_other_probes_back() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "x:1",
        "startupProbe": {"periodSeconds": 5, "failureThreshold": 4},
        "livenessProbe": {"periodSeconds": 1, "failureThreshold": 1}}]}));
    life.tell("a Startup fails\na Liveness fails\nuntil 0s");
    story(&mut life, "until 14s\nstatus", "Running a=Running(0)");
    let told = life.tell("until 16s");
    assert!(told.contains("stop a 30s"), "given up after four periods: {told}");
}

#[test]
fn times_of_conditions_tell_when_they_changed() {
    let mut life = Life::of(one());
    let since = |status: &PodStatus, type_: &str| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
        condition.last_transition_time.as_ref().unwrap().0.as_second() - BEGIN
    };
    life.tell("status\nuntil 3s\nstatus\nuntil 9s");
    let status = life.status();
    assert_eq!((since(&status, "PodScheduled"), since(&status, "Ready")), (0, 3));
    life.tell("a exits 1");
    assert_eq!(since(&life.status(), "Ready"), 9);
}

#[test]
fn readiness_gates_and_foreign_conditions_are_respected() {
    let mut life =
        Life::of(json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a", "image": "x:1"}]}));
    life.tell("until 1s");
    story(&mut life, "status", "Running a=Running(0)");
    life.pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    story(&mut life, "status", "Running Ready a=Running(0)");
    assert!(life.status().conditions.unwrap().iter().any(|condition| condition.type_ == "x/y"));
}
