//! A job from its first pod to its end.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::world::World;

const KEY: &str = "jobs.batch default/j";

fn world(more: Value) -> World {
    let mut world = World::read("node n1");
    let mut spec = json!({
        "parallelism": 2, "completions": 3, "backoffLimit": 6, "completionMode": "NonIndexed",
        "podReplacementPolicy": "TerminatingOrFailed",
        "selector": {"matchLabels": {"app": "j"}},
        "template": {
            "metadata": {"labels": {"app": "j"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "j:1"}]},
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    world.create("batch", "jobs", "Job", "default", "j", json!({"spec": spec}));
    world
}

fn look(world: &mut World) -> String {
    let plan = world.plan(&super::CONTROLLER, KEY);
    world.apply(&plan);
    world.print(&plan)
}

/// Ends the first pod that has not ended.
fn end(world: &mut World, phase: &str, code: i32) {
    let pods: Vec<_> = world.view.list::<copepod_api::k8s_openapi::api::core::v1::Pod>(None).collect();
    let pod = pods.iter().find(|pod| !crate::pods::has_ended(pod.object()) && !pod.meta().is_leaving()).unwrap();
    let (name, now) = (pod.key().name().to_owned(), copepod_api::time::rfc3339(world.now));
    world.edit(&format!("pods default/{name}"), |pod| {
        pod["status"] = json!({"phase": phase, "containerStatuses": [{
            "name": "c", "image": "j:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": now}},
        }]});
    });
}

fn status(world: &World) -> String {
    world.value(&world.key(KEY))["status"].to_string()
}

#[test]
fn pods_run_until_enough_have_succeeded() {
    let mut world = world(json!({"ttlSecondsAfterFinished": 30}));
    assert_snapshot!(look(&mut world), @"
        create pod j-bmwlc
        create pod j-wnn6n
        event SuccessfulCreate: Created pods: j-bmwlc, j-wnn6n
        status job j {active:2,conditions:null,ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
    ");
    end(&mut world, "Succeeded", 0);
    assert_snapshot!(look(&mut world), @"
        patch pod j-bmwlc {metadata:{finalizers:[]}}
        create pod j-nc8xx
        event SuccessfulCreate: Created pod: j-nc8xx
        status job j {active:2,conditions:null,ready:0,startTime:2001-09-09T01:46:40Z,succeeded:1,terminating:0,uncountedTerminatedPods:{}}
    ");
    end(&mut world, "Succeeded", 0);
    end(&mut world, "Succeeded", 0);
    assert_snapshot!(look(&mut world), @"
        patch pod j-nc8xx {metadata:{finalizers:[]}}
        patch pod j-wnn6n {metadata:{finalizers:[]}}
        event Completed: Job completed
        status job j {completionTime:2001-09-09T01:46:40Z,conditions:[SuccessCriteriaMet=True:CompletionsReached,Complete=True:CompletionsReached],ready:0,startTime:2001-09-09T01:46:40Z,succeeded:3,terminating:0,uncountedTerminatedPods:{}}
    ");
    assert_snapshot!(look(&mut world), @"look again in 30s");
    world.wait(30);
    assert_snapshot!(look(&mut world), @"delete job j Foreground");
}

#[test]
fn failures_are_tried_again_after_a_pause_until_there_are_too_many() {
    let mut world = world(json!({"parallelism": 1, "completions": 1, "backoffLimit": 1}));
    look(&mut world);
    end(&mut world, "Failed", 1);
    assert_snapshot!(look(&mut world), @"
        patch pod j-bmwlc {metadata:{finalizers:[]}}
        status job j {conditions:null,failed:1,ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
        look again in 10s
        because 1 pods have failed; the next ones wait
    ");
    world.wait(10);
    assert_snapshot!(look(&mut world), @"
        create pod j-rn42l
        event SuccessfulCreate: Created pod: j-rn42l
        status job j {active:1,conditions:null,failed:1,ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
    ");
    end(&mut world, "Failed", 1);
    assert_snapshot!(look(&mut world), @"
        patch pod j-rn42l {metadata:{finalizers:[]}}
        event BackoffLimitExceeded: Job has reached the specified backoff limit
        status job j {conditions:[FailureTarget=True:BackoffLimitExceeded,Failed=True:BackoffLimitExceeded],failed:2,ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
    ");
}

#[test]
fn each_index_has_a_pod_and_may_fail_for_itself() {
    let mut world = world(json!({
        "completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": 100, "parallelism": 3,
    }));
    assert_snapshot!(look(&mut world), @"
        create pod j-0-bmwlc
        create pod j-1-bmwlc
        create pod j-2-bmwlc
        event SuccessfulCreate: Created pods: j-0-bmwlc, j-1-bmwlc, j-2-bmwlc
        status job j {active:3,conditions:null,failedIndexes:,ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
    ");
    let pod = world.view.list::<copepod_api::k8s_openapi::api::core::v1::Pod>(None).next().unwrap();
    let spec = &pod.object().value()["spec"];
    assert_snapshot!(format!("{} {}", spec["hostname"], spec["containers"][0]["env"]), @r#"
        "j-0" [{"name":"JOB_COMPLETION_INDEX","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.annotations['batch.kubernetes.io/job-completion-index']"}}}]
    "#);
    end(&mut world, "Failed", 1);
    look(&mut world);
    end(&mut world, "Succeeded", 0);
    end(&mut world, "Succeeded", 0);
    assert_snapshot!(look(&mut world), @"
        patch pod j-1-bmwlc {metadata:{finalizers:[]}}
        patch pod j-2-bmwlc {metadata:{finalizers:[]}}
        event FailedIndexes: Job has failed indexes
        status job j {completedIndexes:1,2,conditions:[FailureTarget=True:FailedIndexes,Failed=True:FailedIndexes],failed:1,failedIndexes:0,ready:0,startTime:2001-09-09T01:46:40Z,succeeded:2,terminating:0,uncountedTerminatedPods:{}}
    ");
    assert_snapshot!(status(&world), @r#"
        {"completedIndexes":"1,2","conditions":[{"lastProbeTime":"2001-09-09T01:46:40Z","lastTransitionTime":"2001-09-09T01:46:40Z","message":"Job has failed indexes","reason":"FailedIndexes","status":"True","type":"FailureTarget"},{"lastProbeTime":"2001-09-09T01:46:40Z","lastTransitionTime":"2001-09-09T01:46:40Z","message":"Job has failed indexes","reason":"FailedIndexes","status":"True","type":"Failed"}],"failed":1,"failedIndexes":"0","ready":0,"startTime":"2001-09-09T01:46:40Z","succeeded":2,"terminating":0,"uncountedTerminatedPods":{}}
    "#);
}

#[test]
fn policies_say_what_an_end_means() {
    let rule = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let rules = json!({"podFailurePolicy": {"rules": [rule("Ignore", 2), rule("FailJob", 3)]}, "parallelism": 1});
    let mut world = world(rules);
    look(&mut world);
    end(&mut world, "Failed", 2);
    look(&mut world);
    world.wait(10);
    look(&mut world);
    end(&mut world, "Failed", 3);
    assert_snapshot!(look(&mut world), @"
        patch pod j-rn42l {metadata:{finalizers:[]}}
        event PodFailurePolicy: Container c for pod default/j-rn42l failed with exit code 3 matching FailJob rule at index 1
        status job j {conditions:[FailureTarget=True:PodFailurePolicy,Failed=True:PodFailurePolicy],failed:1,ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
    ");
}

#[test]
fn enough_indexes_by_a_success_policy_end_the_job() {
    let mut world = world(json!({
        "completionMode": "Indexed", "parallelism": 3, "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    }));
    look(&mut world);
    end(&mut world, "Succeeded", 0);
    assert_snapshot!(look(&mut world), @"
        patch pod j-0-bmwlc {metadata:{finalizers:[]}}
        delete pod j-1-bmwlc
        delete pod j-2-bmwlc
        event SuccessfulDelete: Deleted pods: j-1-bmwlc, j-2-bmwlc
        status job j {completedIndexes:0,conditions:[SuccessCriteriaMet=True:SuccessPolicy],ready:0,startTime:2001-09-09T01:46:40Z,succeeded:1,terminating:2,uncountedTerminatedPods:{}}
        because 2 pods are on their way out
    ");
    world.settle();
    assert_snapshot!(status(&world), @r#"
        {"completedIndexes":"0","completionTime":"2001-09-09T01:46:40Z","conditions":[{"lastProbeTime":"2001-09-09T01:46:40Z","lastTransitionTime":"2001-09-09T01:46:40Z","message":"Matched rules at index 0","reason":"SuccessPolicy","status":"True","type":"SuccessCriteriaMet"},{"lastProbeTime":"2001-09-09T01:46:40Z","lastTransitionTime":"2001-09-09T01:46:40Z","message":"Matched rules at index 0","reason":"SuccessPolicy","status":"True","type":"Complete"}],"failed":2,"ready":0,"startTime":"2001-09-09T01:46:40Z","succeeded":1,"terminating":0,"uncountedTerminatedPods":{}}
    "#);
}

#[test]
fn a_suspended_job_runs_nothing_and_loses_nothing() {
    let mut world = world(json!({}));
    look(&mut world);
    world.edit(KEY, |job| job["spec"]["suspend"] = json!(true));
    assert_snapshot!(look(&mut world), @"
        event Suspended: Job suspended
        patch pod j-bmwlc {metadata:{finalizers:[]}}
        patch pod j-wnn6n {metadata:{finalizers:[]}}
        delete pod j-bmwlc
        delete pod j-wnn6n
        event SuccessfulDelete: Deleted pods: j-bmwlc, j-wnn6n
        status job j {conditions:[Suspended=True:JobSuspended],ready:0,terminating:2,uncountedTerminatedPods:{}}
    ");
    world.settle();
    world.edit(KEY, |job| job["spec"]["suspend"] = json!(false));
    assert_snapshot!(look(&mut world), @"
        event Resumed: Job resumed
        create pod j-9bzzx
        create pod j-bwtkc
        event SuccessfulCreate: Created pods: j-9bzzx, j-bwtkc
        status job j {active:2,conditions:[Suspended=False:JobResumed],ready:0,startTime:2001-09-09T01:46:40Z,terminating:0,uncountedTerminatedPods:{}}
    ");
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let mut world = world(json!({"parallelism": 1}));
    look(&mut world);
    world.delete(KEY);
    let strays = (super::CONTROLLER.all)(&world.view);
    assert_eq!(strays.len(), 1, "the pod is looked at for itself");
    let plan = (super::CONTROLLER.reconcile)(&world.view, &strays[0], world.now);
    assert_eq!(world.print(&plan), "patch pod j-bmwlc {metadata:{finalizers:[]}}");
}
