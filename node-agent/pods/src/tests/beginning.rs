//! How pods come up.

use serde_json::json;

use super::life::{BEGIN, Life, one, story};

#[test]
fn a_pod_comes_up() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]}));
    story(&mut life, "status", "Pending a=Waiting:ContainerCreating(0) b=Waiting:ContainerCreating(0)");
    story(
        &mut life,
        "until 1s
         status",
        "0.0s volumes
         0.0s sandbox 0
         0.0s image a
         0.0s image b
         0.0s start a 0
         0.0s start b 0
         Running Ready a=Running(0) b=Running(0)",
    );
    let status = life.status();
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.0.0.5"), Some("198.18.0.1")));
    assert_eq!(status.start_time.unwrap().0.as_second(), BEGIN);
    assert_eq!(status.container_statuses.unwrap()[0].container_id.as_deref(), Some("copepod://a-0"));
}

#[test]
fn init_containers_run_in_order() {
    let mut life = Life::of(json!({
        "initContainers": [{"name": "i", "image": "x:1"}, {"name": "j", "image": "x:1"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    life.tell("until 0s");
    story(
        &mut life,
        "status
         i exits 1
         until 2s
         i exits 0
         until 3s
         j exits 0
         status
         until 4s
         status",
        "Pending i=Running(0) j=Waiting:PodInitializing(0) a=Waiting:PodInitializing(0)
         1.0s start i 1
         2.0s start j 0
         Pending i=Completed:0<1(1) j=Completed:0(0) a=Waiting:PodInitializing(0)
         3.0s start a 0
         Running Ready i=Completed:0<1(1) j=Completed:0(0) a=Running(0)",
    );
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let mut life = Life::of(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "x:1"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    life.tell("until 0s");
    story(
        &mut life,
        "i exits 1\nuntil 5s\nstatus",
        "0.0s stop sandbox\nFailed i=Error:1(0) a=Waiting:PodInitializing(0)",
    );
}

#[test]
fn sidecars_start_before_and_end_after_the_others() {
    let mut life = Life::of(json!({
        "initContainers": [
            {"name": "s", "image": "x:1", "restartPolicy": "Always", "startupProbe": {"periodSeconds": 1}},
            {"name": "t", "image": "x:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    story(
        &mut life,
        "s Startup fails
         until 1s
         status
         s Startup passes
         until 3s
         status
         delete 30
         released
         a ignores signals
         until 4s
         a exits 0
         until 5s",
        "0.0s volumes
         0.0s sandbox 0
         0.0s image s
         0.0s image t
         0.0s image a
         0.0s start s 0
         Pending s=Running(0) t=Waiting:PodInitializing(0) a=Waiting:PodInitializing(0)
         1.5s start t 0
         1.5s start a 0
         Running Ready s=Running(0) t=Running(0) a=Running(0)
         3.0s stop a 30s
         4.0s stop t 30s
         4.0s stop s 30s
         4.0s tear down",
    );
}

#[test]
fn images_that_cannot_be_had_are_named_and_tried_again() {
    let mut life = Life::of(one());
    life.tell("a image missing ErrImagePull\nuntil 0s");
    story(
        &mut life,
        "status
         until 3s
         status
         a image there
         until 7s
         status",
        "Pending a=Waiting:ErrImagePull(0)
         2.0s image a
         Pending a=Waiting:ImagePullBackOff(0)
         6.0s image a
         6.0s start a 0
         Running Ready a=Running(0)",
    );
    let mut life = Life::of(one());
    life.tell("a image missing InvalidImageName\nuntil 0s");
    story(&mut life, "until 900s\nstatus", "Pending a=Waiting:InvalidImageName(0)");
}

#[test]
fn hooks_run_at_their_moments() {
    let mut life = Life::of(
        json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "a", "image": "x:1", "lifecycle": {
        "postStart": {"exec": {"command": ["x"]}}, "preStop": {"exec": {"command": ["x"]}}}}]}),
    );
    let told = life.tell("until 1s\nstatus");
    assert!(told.ends_with("0.0s start a 0\n0.0s postStart a\nRunning Ready a=Running(0)"), "{told}");
    story(&mut life, "vanish\nuntil 2s", "1.0s preStop a 5s\n1.0s stop a 5s\n1.0s tear down");
}

#[test]
fn who_joins_a_pod_waits_for_its_target_runs_once_and_leaves_with_the_pod() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    life.tell("until 1s");
    let told = life.tell("shell joins a\n until 2s\n status");
    assert_eq!(told, "1.0s image shell\n1.0s start shell 0\nRunning Ready a=Running(0) shell=Running(0)");
    let told = life.tell("shell exits 7\n until 100s\n status");
    assert_eq!(told, "Running Ready a=Running(0) shell=Error:7(0)", "it is not repeated, and nobody minds");
    life.tell("other joins a\n until 101s");
    let told = life.tell("vanish\n until 103s");
    assert_eq!(told, "101.0s stop a 30s\n101.0s stop other 30s\n101.0s tear down");

    let mut early = Life::of(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let told = early.tell("shell joins a\n a image missing ErrImagePull\n until 1s\n a image there\n until 9s");
    assert!(told.ends_with("start a 0\n2.0s image shell\n2.0s start shell 0"), "{told}");
}
