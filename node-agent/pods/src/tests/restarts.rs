//! What runs again, when, and what does not.

use serde_json::json;

use super::life::{BEGIN, Life, one, story};

#[test]
fn crashes_are_spaced_out_and_clean_exits_are_not_punished() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "a exits 1\nstatus\nuntil 1s", "Running a=Error:1(0)\n1.0s start a 1");
    story(
        &mut life,
        "a exits 1\nstatus\nuntil 3s\nstatus",
        "Running a=Waiting:CrashLoopBackOff<1(1)\n3.0s start a 2\nRunning Ready a=Running<1(2)",
    );
    story(&mut life, "a exits 1\nuntil 10s", "7.0s start a 3");
    story(&mut life, "a exits 0\nuntil 20s", "11.0s start a 4");
    // A clean exit cleared the slate.
    story(&mut life, "a exits 1\nuntil 30s", "21.0s start a 5");
}

#[test]
fn the_longest_wait_is_a_minute_and_a_long_run_clears_the_slate() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    for _ in 0..12 {
        let now = life.now.as_second() - BEGIN;
        life.tell(&format!("a exits 1\nuntil {}s", now + 61));
        assert!(life.observed.containers["a"].running().is_some(), "waited longer than a minute");
    }
    let now = life.now.as_second() - BEGIN + 600;
    story(&mut life, &format!("until {now}s\na exits 1\nuntil {}s", now + 1), &format!("{}.0s start a 13", now + 1));
}

#[test]
fn restart_policies_decide_who_runs_again() {
    let cases = [
        ("Never", 0, "0.0s stop sandbox\nSucceeded a=Completed:0(0)"),
        ("Never", 3, "0.0s stop sandbox\nFailed a=Error:3(0)"),
        ("OnFailure", 0, "0.0s stop sandbox\nSucceeded a=Completed:0(0)"),
        ("OnFailure", 3, "1.0s start a 1\nRunning Ready a=Running<3(1)"),
        ("Always", 0, "1.0s start a 1\nRunning Ready a=Running<0(1)"),
    ];
    for (policy, code, expected) in cases {
        let mut life = Life::of(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "x:1"}]}));
        life.tell("until 0s");
        story(&mut life, &format!("a exits {code}\nuntil 2s\nstatus"), expected);
    }
}

#[test]
fn an_image_that_is_always_looked_up_is_looked_up_for_each_run() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "x", "imagePullPolicy": "Always"}]}));
    life.tell("until 0s");
    story(&mut life, "a exits 1\nuntil 2s", "0.0s image a\n1.0s start a 1");
}

#[test]
fn a_changed_image_replaces_the_container_at_once() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "a image y:1\nuntil 1s", "0.0s stop a 30s\n0.0s start a 1");
}

#[test]
fn after_a_reboot_everything_is_made_anew() {
    let mut life = Life::of(one());
    life.tell("until 1s");
    story(
        &mut life,
        "reboot\nuntil 3s\nstatus",
        "1.0s remove sandbox\n1.0s sandbox 0\n2.0s start a 1\nRunning Ready a=Running<137(1)",
    );
}

#[test]
fn another_sandbox_is_initialized_anew() {
    let mut life = Life::of(json!({
        "initContainers": [{"name": "i", "image": "x:1"}, {"name": "s", "image": "x:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}],
    }));
    life.tell("until 0s\ni exits 0\nuntil 1s");
    story(
        &mut life,
        "status\nreboot\nuntil 4s\nstatus\ni exits 0\nuntil 5s\nstatus",
        "Running Ready i=Completed:0(0) s=Running(0) a=Running(0) b=Running(0)
         1.0s remove sandbox
         1.0s sandbox 0
         1.0s start i 1
         Running i=Running<0(1) s=Error:137(0) a=Error:137(0) b=Error:137(0)
         4.0s start s 1
         4.0s start a 1
         4.0s start b 1
         Running Ready i=Completed:0<0(1) s=Running<137(1) a=Running<137(1) b=Running<137(1)",
    );
}

#[test]
fn a_pod_that_is_known_to_be_over_is_not_run_again() {
    let mut life = Life::of(one());
    life.pod.status = serde_json::from_value(json!({"phase": "Succeeded", "podIP": "10.0.0.9"})).unwrap();
    story(&mut life, "until 9s", "");
    let status = life.status();
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Succeeded"), Some("10.0.0.9")));
}
