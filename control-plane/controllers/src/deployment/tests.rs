//! Plans of the deployment controller, world by world.

use crate::world::World;
use insta::assert_snapshot;

const KEY: &str = "deployments.apps default/web";

fn plan(fixture: &str) -> String {
    let world = World::read(fixture);
    world.print(&world.plan(&super::CONTROLLER, KEY))
}

#[test]
fn the_first_set_gets_all_replicas() {
    assert_snapshot!(plan("deployment web 3"), @r#"
        create replicaset web-qlmbsgw527 replicas=3 {"deployment.kubernetes.io/desired-replicas":"3","deployment.kubernetes.io/max-replicas":"4","deployment.kubernetes.io/revision":"1"}
        event ScalingReplicaSet: Scaled up replica set web-qlmbsgw527 from 0 to 3
        status deployment web {conditions:[Available=False:MinimumReplicasUnavailable,Progressing=True:NewReplicaSetCreated],observedGeneration:1,terminatingReplicas:0,unavailableReplicas:3}
        patch deployment web {metadata:{annotations:{deployment.kubernetes.io/revision:1}}}
        look again in 600s
        because Scaled up replica set web-qlmbsgw527 from 0 to 3
        because 0 of 3 pods are of the newest template, 0 available
    "#);
}

#[test]
fn a_rollout_replaces_every_pod_within_its_bounds() {
    let mut world = World::read("node n1 | node n2 | deployment web 4");
    world.settle();
    world.bounds("web", 3, 5);
    world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into());
    world.settle();
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("2") {availableReplicas:4,observedGeneration:2,readyReplicas:4,replicas:4,terminatingReplicas:0,updatedReplicas:4} ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]
        set of web:1 rev 1 history None: 0 wanted, 0 available
        set of web:2 rev 2 history None: 4 wanted, 4 available
        4 × pod of web:2
    "#);
}

#[test]
fn a_rollback_takes_the_old_set_again() {
    let mut world = World::read("node n1 | deployment web 2");
    world.settle();
    for image in ["web:2", "web:1"] {
        world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
        world.settle();
    }
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("3") {availableReplicas:2,observedGeneration:3,readyReplicas:2,replicas:2,terminatingReplicas:0,updatedReplicas:2} ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]
        set of web:1 rev 3 history Some("1"): 2 wanted, 2 available
        set of web:2 rev 2 history None: 0 wanted, 0 available
        2 × pod of web:1
    "#);
}

#[test]
fn a_broken_image_stops_the_rollout_and_old_pods_stay() {
    let mut world = World::read("node n1 | deployment web 4");
    world.settle();
    world.bounds("web", 3, 5);
    world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = "broken:1".into());
    world.settle();
    world.wait(700);
    world.settle();
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("2") {availableReplicas:3,observedGeneration:2,readyReplicas:3,replicas:5,terminatingReplicas:0,unavailableReplicas:2,updatedReplicas:2} ["MinimumReplicasAvailable", "ProgressDeadlineExceeded"]
        set of broken:1 rev 2 history None: 2 wanted, 0 available
        set of web:1 rev 1 history None: 3 wanted, 3 available
        2 × pod of broken:1
        3 × pod of web:1
    "#);
}

#[test]
fn pods_that_serve_are_not_taken_for_broken_when_the_clock_is_set_back() {
    let mut world = World::read("node n1 | deployment web 10");
    world.edit(KEY, |object| object["spec"]["minReadySeconds"] = 1.into());
    world.settle();
    world.wait(5);
    world.settle();
    world.bounds("web", 8, 13);
    for image in ["broken:1", "broken:2"] {
        world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
        world.settle();
        world.wait(-30);
    }
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("3") {observedGeneration:4,readyReplicas:8,replicas:13,terminatingReplicas:0,unavailableReplicas:13,updatedReplicas:5} ["MinimumReplicasUnavailable", "ReplicaSetUpdated"]
        set of broken:1 rev 2 history None: 0 wanted, 0 available
        set of broken:2 rev 3 history None: 5 wanted, 0 available
        set of web:1 rev 1 history None: 8 wanted, 0 available
        5 × pod of broken:2
        8 × pod of web:1
    "#);
}

#[test]
fn recreate_first_stops_everything_old() {
    let mut world = World::read("node n1 | deployment web 2 recreate");
    world.settle();
    world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into());
    world.settle();
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("2") {availableReplicas:2,observedGeneration:2,readyReplicas:2,replicas:2,terminatingReplicas:0,updatedReplicas:2} ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]
        set of web:1 rev 1 history None: 0 wanted, 0 available
        set of web:2 rev 2 history None: 2 wanted, 2 available
        2 × pod of web:2
    "#);
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled() {
    let mut world = World::read("node n1 | deployment web 2");
    world.settle();
    world.edit(KEY, |object| {
        object["spec"]["paused"] = true.into();
        object["spec"]["replicas"] = 3.into();
        object["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
    });
    world.settle();
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("1") {availableReplicas:3,observedGeneration:2,readyReplicas:3,replicas:3,terminatingReplicas:0} ["MinimumReplicasAvailable", "DeploymentPaused"]
        set of web:1 rev 1 history None: 3 wanted, 3 available
        3 × pod of web:1
    "#);
    world.edit(KEY, |object| object["spec"]["paused"] = false.into());
    world.settle();
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("2") {availableReplicas:3,observedGeneration:3,readyReplicas:3,replicas:3,terminatingReplicas:0,updatedReplicas:3} ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]
        set of web:1 rev 1 history None: 0 wanted, 0 available
        set of web:2 rev 2 history None: 3 wanted, 3 available
        3 × pod of web:2
    "#);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared() {
    let mut world = World::read("node n1 | deployment web 10");
    world.settle();
    world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = "broken:1".into());
    world.settle();
    world.edit(KEY, |object| object["spec"]["replicas"] = 20.into());
    world.settle();
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("2") {availableReplicas:15,observedGeneration:3,readyReplicas:15,replicas:25,terminatingReplicas:0,unavailableReplicas:10,updatedReplicas:10} ["MinimumReplicasAvailable", "ReplicaSetUpdated"]
        set of broken:1 rev 2 history None: 10 wanted, 0 available
        set of web:1 rev 1 history None: 15 wanted, 15 available
        10 × pod of broken:1
        15 × pod of web:1
    "#);
}

#[test]
fn old_sets_beyond_the_limit_are_forgotten() {
    let mut world = World::read("node n1 | deployment web 1");
    world.edit(KEY, |object| object["spec"]["revisionHistoryLimit"] = 1.into());
    for image in ["web:1", "web:2", "web:3", "web:4"] {
        world.edit(KEY, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
        world.settle();
    }
    assert_snapshot!(world.summary(), @r#"
        deployment web rev Some("4") {availableReplicas:1,observedGeneration:5,readyReplicas:1,replicas:1,terminatingReplicas:0,updatedReplicas:1} ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]
        set of web:3 rev 3 history None: 0 wanted, 0 available
        set of web:4 rev 4 history None: 1 wanted, 1 available
        pod of web:4
    "#);
}
