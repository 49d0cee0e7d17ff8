//! How a new template reaches the pods.

use insta::assert_snapshot;
use serde_json::json;

use super::{KEY, set_image, started, state, story};
use crate::{statefulset::CONTROLLER, world::World};

#[test]
fn an_update_goes_from_the_highest_down() {
    let mut world = started("node n1 | statefulset web 3");
    set_image(&mut world, "web:2");
    assert_snapshot!(story(&mut world), @r"
        create revision
        delete pod web-2
          web-2 is gone
        create pod web-2
          web-2 is ready
        delete pod web-1
          web-1 is gone
        create pod web-1
          web-1 is ready
        delete pod web-0
          web-0 is gone
        create pod web-0
          web-0 is ready
    ");
    assert_snapshot!(state(&world), @r"
        revision 1 web:1
        revision 2 web:2
        web-0 web:2
        web-1 web:2
        web-2 web:2
        {availableReplicas:3,collisionCount:0,currentReplicas:3,currentRevision:web:2,observedGeneration:2,readyReplicas:3,replicas:3,updateRevision:web:2,updatedReplicas:3}
    ");
}

#[test]
fn a_partition_keeps_the_pods_below_it_as_they_were() {
    let mut world = started("node n1 | statefulset web 3");
    world.edit(KEY, |set| set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 2.into());
    set_image(&mut world, "web:2");
    story(&mut world);
    for pod in ["pods default/web-0", "pods default/web-2"] {
        world.delete(pod);
    }
    assert_snapshot!(story(&mut world), @r"
        create pod web-0
          web-0 is ready
        create pod web-2
          web-2 is ready
    ");
    assert_snapshot!(state(&world), @r"
        revision 1 web:1
        revision 2 web:2
        web-0 web:1
        web-1 web:1
        web-2 web:2
        {availableReplicas:3,collisionCount:0,currentReplicas:2,currentRevision:web:1,observedGeneration:3,readyReplicas:3,replicas:3,updateRevision:web:2,updatedReplicas:1}
    ");
    world.edit(KEY, |set| set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 0.into());
    assert_snapshot!(story(&mut world), @r"
        delete pod web-1
          web-1 is gone
        create pod web-1
          web-1 is ready
        delete pod web-0
          web-0 is gone
        create pod web-0
          web-0 is ready
    ");
}

#[test]
fn several_may_be_missing_where_the_set_says_so() {
    let mut world = started("node n1 | statefulset web 4 parallel");
    world.edit(KEY, |set| set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = "50%".into());
    set_image(&mut world, "web:2");
    assert_snapshot!(story(&mut world), @r"
        create revision
        delete pod web-3
        delete pod web-2
          web-2 is gone
        create pod web-2
          web-3 is gone
        create pod web-3
          web-2 is ready
        delete pod web-1
          web-1 is gone
        create pod web-1
          web-1 is ready
        delete pod web-0
          web-0 is gone
        create pod web-0
          web-0 is ready
          web-3 is ready
    ");
}

#[test]
fn on_delete_waits_for_people() {
    let mut world = started("node n1 | statefulset web 2");
    world.edit(KEY, |set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    set_image(&mut world, "web:2");
    assert_snapshot!(story(&mut world), @"create revision");
    world.delete("pods default/web-0");
    story(&mut world);
    assert_snapshot!(state(&world), @r"
        revision 1 web:1
        revision 2 web:2
        web-0 web:2
        web-1 web:1
        {availableReplicas:2,collisionCount:0,currentReplicas:1,currentRevision:web:1,observedGeneration:3,readyReplicas:2,replicas:2,updateRevision:web:2,updatedReplicas:1}
    ");
}

#[test]
fn a_template_that_comes_back_is_its_old_revision() {
    let mut world = started("node n1 | statefulset web 1");
    for image in ["web:2", "web:1"] {
        set_image(&mut world, image);
        story(&mut world);
    }
    assert_snapshot!(state(&world), @r"
        revision 2 web:2
        revision 3 web:1
        web-0 web:1
        {availableReplicas:1,collisionCount:0,currentReplicas:1,currentRevision:web:1,observedGeneration:3,readyReplicas:1,replicas:1,updateRevision:web:1,updatedReplicas:1}
    ");
}

#[test]
fn old_revisions_beyond_the_limit_are_forgotten() {
    let mut world = started("node n1 | statefulset web 1");
    world.edit(KEY, |set| set["spec"]["revisionHistoryLimit"] = 1.into());
    for image in ["web:2", "web:3", "web:4"] {
        set_image(&mut world, image);
        story(&mut world);
    }
    assert_snapshot!(state(&world), @r"
        revision 3 web:3
        revision 4 web:4
        web-0 web:4
        {availableReplicas:1,collisionCount:0,currentReplicas:1,currentRevision:web:4,observedGeneration:5,readyReplicas:1,replicas:1,updateRevision:web:4,updatedReplicas:1}
    ");
}

#[test]
fn a_name_that_is_taken_is_counted_as_a_collision() {
    let mut world = World::read("node n1 | statefulset web 1");
    let taken = world.plan(&CONTROLLER, KEY).requests[0].target.name.to_string();
    world.create("apps", "controllerrevisions", "ControllerRevision", "default", &taken, json!({"revision": 1}));
    story(&mut world);
    assert_eq!(world.value(&world.key(KEY))["status"]["collisionCount"], 1);
}

#[test]
fn a_broken_template_stops_at_the_first_pod() {
    let mut world = started("node n1 | statefulset web 3");
    set_image(&mut world, "broken:1");
    assert_snapshot!(story(&mut world), @r"
        create revision
        delete pod web-2
          web-2 is gone
        create pod web-2
    ");
    set_image(&mut world, "web:1");
    assert_snapshot!(story(&mut world), @"");
    world.delete("pods default/web-2");
    assert_snapshot!(story(&mut world), @r"
        create pod web-2
          web-2 is ready
    ");
    assert_snapshot!(state(&world), @r"
        revision 2 broken:1
        revision 3 web:1
        web-0 web:1
        web-1 web:1
        web-2 web:1
        {availableReplicas:3,collisionCount:0,currentReplicas:3,currentRevision:web:1,observedGeneration:3,readyReplicas:3,replicas:3,updateRevision:web:1,updatedReplicas:3}
    ");
}

#[test]
fn in_parallel_broken_pods_are_replaced_first() {
    let mut world = started("node n1 | statefulset web 3 parallel");
    set_image(&mut world, "broken:1");
    story(&mut world);
    set_image(&mut world, "web:2");
    assert_snapshot!(story(&mut world), @r"
        create revision
        delete pod web-2
        create pod web-2
          web-2 is ready
        delete pod web-1
          web-1 is gone
        create pod web-1
          web-1 is ready
        delete pod web-0
          web-0 is gone
        create pod web-0
          web-0 is ready
    ");
    assert_snapshot!(state(&world), @r"
        revision 1 web:1
        revision 2 broken:1
        revision 3 web:2
        web-0 web:2
        web-1 web:2
        web-2 web:2
        {availableReplicas:3,collisionCount:0,currentReplicas:3,currentRevision:web:2,observedGeneration:3,readyReplicas:3,replicas:3,updateRevision:web:2,updatedReplicas:3}
    ");
}
