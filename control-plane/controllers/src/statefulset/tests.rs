//! What becomes of stateful sets, told as stories: what the controller does, and what the node says to it.

mod claims;
mod rollouts;

use std::collections::BTreeMap;

use copepod_api::{Phase, Status, resource::PODS};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::{pods, world::World};

const KEY: &str = "statefulsets.apps default/web";

/// Acts until nothing changes any more, one pod's step at a time, and tells it.
fn story(world: &mut World) -> String {
    let mut lines = Vec::new();
    for _ in 0..500 {
        let plan = world.plan(&super::CONTROLLER, KEY);
        if plan.requests.is_empty() {
            let before = standing(world);
            world.play_node();
            let after = standing(world);
            if before == after {
                return lines.join("\n");
            }
            for (name, was) in before {
                match after.get(&name) {
                    None => lines.push(format!("  {name} is gone")),
                    Some(is) if *is != was => lines.push(format!("  {name} is {is}")),
                    Some(_) => {}
                }
            }
            continue;
        }
        let told = world.print(&plan);
        let is_told = |line: &&str| line.starts_with("create ") || line.starts_with("delete ");
        lines.extend(told.lines().filter(is_told).map(short));
        world.apply(&plan);
    }
    panic!("it does not come to rest:\n{}", lines.join("\n"));
}

/// Revisions by their content, not by their hash.
fn short(line: &str) -> String {
    line.split_once("controllerrevision")
        .map_or(line.to_owned(), |(what, _)| format!("{what}revision"))
        .replace("persistentvolume", "")
}

fn standing(world: &World) -> BTreeMap<String, &'static str> {
    let of = |pod: &copepod_api::Object| match pod.facts().phase {
        _ if pod.meta.is_leaving() => "leaving",
        Phase::Failed => "failed",
        _ if pods::is_ready(pod) => "ready",
        _ => "starting",
    };
    world.view.objects(&PODS, None).map(|pod| (pod.key.name().to_owned(), of(pod))).collect()
}

/// The pods with their images, and what the set says.
fn state(world: &World) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    let mut images = BTreeMap::new();
    let revisions = world.key("controllerrevisions.apps x").resource;
    for revision in world.view.objects(&revisions, None) {
        let (value, name) = (revision.value(), revision.key.name().to_owned());
        let image = text(&value["data"]["spec"]["template"]["spec"]["containers"][0]["image"]);
        images.insert(name, image.clone());
        lines.push(format!("revision {} {image}", value["revision"]));
    }
    lines.sort();
    for pod in world.view.objects(&PODS, None) {
        let image = text(&pod.value()["spec"]["containers"][0]["image"]);
        let label = pod.meta.labels.get(super::identity::REVISION).unwrap_or_default();
        let label = images.get(label).filter(|labelled| **labelled != image).map(|image| format!(" labelled {image}"));
        lines.push(format!("{} {image}{}", pod.key.name(), label.unwrap_or_default()));
    }
    let mut status = world.value(&world.key(KEY))["status"].clone();
    for field in ["currentRevision", "updateRevision"] {
        let name = text(&status[field]);
        status[field] = json!(images.get(&name).cloned().unwrap_or(name));
    }
    lines.push(status.to_string().replace('"', ""));
    lines.join("\n")
}

fn set_image(world: &mut World, image: &str) {
    world.edit(KEY, |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
}

fn resize(world: &mut World, replicas: i32) {
    world.edit(KEY, |set| set["spec"]["replicas"] = replicas.into());
}

fn started(fixture: &str) -> World {
    let mut world = World::read(fixture);
    story(&mut world);
    world
}

#[test]
fn pods_come_in_order_each_when_the_one_before_is_ready() {
    let mut world = World::read("node n1 | statefulset web 3");
    assert_snapshot!(story(&mut world), @r"
        create revision
        create pod web-0
          web-0 is ready
        create pod web-1
          web-1 is ready
        create pod web-2
          web-2 is ready
    ");
    assert_snapshot!(state(&world), @r"
        revision 1 web:1
        web-0 web:1
        web-1 web:1
        web-2 web:1
        {availableReplicas:3,collisionCount:0,currentReplicas:3,currentRevision:web:1,observedGeneration:1,readyReplicas:3,replicas:3,updateRevision:web:1,updatedReplicas:3}
    ");
    let pod = world.value(&world.key("pods default/web-1"));
    assert_snapshot!(pod["metadata"]["labels"].to_string().replace('"', ""), @"{app:web,apps.kubernetes.io/pod-index:1,controller-revision-hash:web-qlmbsgw527,statefulset.kubernetes.io/pod-name:web-1}");
    assert_snapshot!(pod["spec"].to_string().replace('"', ""), @"{containers:[{image:web:1,name:c}],hostname:web-1,nodeName:n1,subdomain:web}");
}

#[test]
fn a_plan_says_what_it_waits_for() {
    let mut world = World::read("node n1 | statefulset web 2");
    let mut told = Vec::new();
    for _ in 0..3 {
        let plan = world.plan(&super::CONTROLLER, KEY);
        told.push(world.print(&plan));
        world.apply(&plan);
    }
    assert_snapshot!(told.join("\n---\n"), @r"
        create controllerrevision web-qlmbsgw527
        status statefulset web {availableReplicas:0,collisionCount:0,conditions:null,currentRevision:web-qlmbsgw527,observedGeneration:1,replicas:0,updateRevision:web-qlmbsgw527}
        ---
        create pod web-0
        event SuccessfulCreate: create Pod web-0 in StatefulSet web successful
        ---
        status statefulset web {availableReplicas:0,collisionCount:0,conditions:null,currentReplicas:1,currentRevision:web-qlmbsgw527,observedGeneration:1,replicas:1,updateRevision:web-qlmbsgw527,updatedReplicas:1}
        because pod web-0 is not ready
    ");
}

#[test]
fn in_parallel_nobody_waits() {
    let mut world = World::read("node n1 | statefulset web 3 parallel");
    assert_snapshot!(story(&mut world), @r"
        create revision
        create pod web-0
        create pod web-1
        create pod web-2
          web-0 is ready
          web-1 is ready
          web-2 is ready
    ");
    resize(&mut world, 1);
    assert_snapshot!(story(&mut world), @r"
        delete pod web-2
        delete pod web-1
          web-1 is gone
          web-2 is gone
    ");
}

#[test]
fn pods_go_from_the_highest_one_at_a_time() {
    let mut world = started("node n1 | statefulset web 3");
    resize(&mut world, 0);
    assert_snapshot!(story(&mut world), @r"
        delete pod web-2
          web-2 is gone
        delete pod web-1
          web-1 is gone
        delete pod web-0
          web-0 is gone
    ");
    assert_snapshot!(state(&world), @r"
        revision 1 web:1
        {availableReplicas:0,collisionCount:0,currentRevision:web:1,observedGeneration:2,replicas:0,updateRevision:web:1}
    ");
}

#[test]
fn a_pod_has_to_stay_ready_before_the_next_one_comes() {
    let mut world = World::read("node n1 | statefulset web 2");
    world.edit(KEY, |set| set["spec"]["minReadySeconds"] = 10.into());
    assert_snapshot!(story(&mut world), @r"
        create revision
        create pod web-0
          web-0 is ready
    ");
    assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @r"
        look again in 10s
        because pod web-0 is not ready for long enough
    ");
    world.wait(10);
    assert_snapshot!(story(&mut world), @r"
        create pod web-1
          web-1 is ready
    ");
}

#[test]
fn an_ended_pod_goes_before_its_successor_comes() {
    let mut world = started("node n1 | statefulset web 2");
    world.edit("pods default/web-0", |pod| pod["status"] = json!({"phase": "Failed"}));
    assert_snapshot!(story(&mut world), @r"
        delete pod web-0
          web-0 is gone
        create pod web-0
          web-0 is ready
    ");
    world.edit("pods default/web-1", |pod| pod["status"] = json!({"phase": "Succeeded"}));
    assert_snapshot!(story(&mut world), @r"
        delete pod web-1
          web-1 is gone
        create pod web-1
          web-1 is ready
    ");
}

#[test]
fn a_pod_whose_node_is_lost_has_no_successor() {
    let mut world = started("node n1 | statefulset web 2 parallel");
    world.edit("pods default/web-1", |pod| {
        pod["metadata"]["deletionTimestamp"] = "2001-09-09T01:46:40Z".into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown", "reason": "NodeLost"}]);
    });
    world.wait(100_000);
    let plan = world.plan(&super::CONTROLLER, KEY);
    assert_snapshot!(world.print(&plan), @"status statefulset web {availableReplicas:1,collisionCount:0,conditions:null,currentReplicas:1,currentRevision:web-qlmbsgw527,observedGeneration:1,readyReplicas:1,replicas:2,updateRevision:web-qlmbsgw527,updatedReplicas:1}");
}

#[test]
fn ordinals_may_begin_anywhere() {
    let mut world = started("node n1 | statefulset web 3");
    world.edit(KEY, |set| set["spec"]["ordinals"] = json!({"start": 2}));
    assert_snapshot!(story(&mut world), @r"
        create pod web-3
          web-3 is ready
        create pod web-4
          web-4 is ready
        delete pod web-1
          web-1 is gone
        delete pod web-0
          web-0 is gone
    ");
}

#[test]
fn orphans_are_adopted_and_strangers_let_go() {
    let mut world = World::read(
        "node n1 | statefulset web 1 | pod web-0 - ready on=n1 app=web | pod web-01 - on=n1 app=web | pod web-x - app=web",
    );
    let uid = world.value(&world.key(KEY))["metadata"]["uid"].clone();
    let own = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": uid, "controller": true}]);
    world.edit("pods default/web-x", |pod| pod["metadata"]["ownerReferences"] = own);
    let data = json!({"revision": 1, "metadata": {"labels": {"app": "web"}}, "data": {"spec": {"template": {
        "$patch": "replace", "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]},
    }}}});
    world.create("apps", "controllerrevisions", "ControllerRevision", "default", "web-old", data);
    let plan = world.plan(&super::CONTROLLER, KEY);
    assert_snapshot!(world.print(&plan), @r"
        patch pod web-0 {metadata:{ownerReferences:[{apiVersion:apps/v1,blockOwnerDeletion:true,controller:true,kind:StatefulSet,name:web,uid:u3}]}}
        patch pod web-x {metadata:{ownerReferences:[]}}
        patch controllerrevision web-old {metadata:{ownerReferences:[{apiVersion:apps/v1,blockOwnerDeletion:true,controller:true,kind:StatefulSet,name:web,uid:u3}]}}
    ");
    world.apply(&plan);
    let plan = world.plan(&super::CONTROLLER, KEY);
    assert_snapshot!(world.print(&plan), @r"
        patch pod web-0 {metadata:{labels:{apps.kubernetes.io/pod-index:0,statefulset.kubernetes.io/pod-name:web-0}}}
        delete pod web-0
        event SuccessfulDelete: delete Pod web-0 in StatefulSet web successful
        status statefulset web {availableReplicas:1,collisionCount:0,conditions:null,currentRevision:web-old,observedGeneration:1,readyReplicas:1,replicas:1,updateRevision:web-old}
    ");
}

#[test]
fn a_taken_name_is_waited_for() {
    let mut world = World::read("node n1 | statefulset web 2 parallel | pod web-0 - ready on=n1 app=other");
    story(&mut world);
    assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @"because there is a pod web-0 that is not of the set");
    let gone = world.view.object(&world.key("pods default/web-0")).cloned().unwrap();
    let event = copepod_store::Event {
        revision: gone.revision,
        kind: copepod_store::EventKind::Deleted,
        previous: Some(gone.clone()),
        object: gone,
    };
    assert_eq!((super::CONTROLLER.wakes)(&world.view, &event), [world.key(KEY)]);
}

#[test]
fn refused_pods_are_told_and_tried_one_by_one() {
    let mut world = World::read("node n1 | statefulset web 3 parallel");
    world.apply(&world.plan(&super::CONTROLLER, KEY));
    let why = Status::forbidden(&PODS, "web-0", "exceeded quota: all");
    let told = (super::CONTROLLER.refused)(&world.view, &world.key(KEY), &why, world.now);
    assert_snapshot!(world.print(&told), @r#"
        status statefulset web {availableReplicas:0,collisionCount:0,conditions:[ReplicaFailure=True:FailedCreate],currentRevision:web-qlmbsgw527,observedGeneration:1,replicas:0,updateRevision:web-qlmbsgw527}
        event FailedCreate: create Pod web-0 in StatefulSet web failed error: pods "web-0" is forbidden: exceeded quota: all
    "#);
    world.apply(&told);
    assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @r"
        create pod web-0
        event SuccessfulCreate: create Pod web-0 in StatefulSet web successful
    ");
}

#[test]
fn a_set_that_leaves_touches_nothing() {
    let mut world = started("node n1 | statefulset web 2");
    world.edit(KEY, |set| {
        set["metadata"]["deletionTimestamp"] = "2001-09-09T01:46:40Z".into();
        set["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    });
    world.delete("pods default/web-0");
    assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @"status statefulset web {availableReplicas:1,collisionCount:0,conditions:null,currentReplicas:1,currentRevision:web-qlmbsgw527,observedGeneration:1,readyReplicas:1,replicas:1,updateRevision:web-qlmbsgw527,updatedReplicas:1}");
}

#[test]
fn a_huge_number_of_replicas_is_only_a_number() {
    let mut world = World::read("node n1 | statefulset web 2147483647 parallel");
    world.edit(KEY, |set| set["spec"]["ordinals"] = json!({"start": 2_147_483_647}));
    world.apply(&world.plan(&super::CONTROLLER, KEY));
    let plan = world.plan(&super::CONTROLLER, KEY);
    assert!(plan.requests.len() < 1000, "{}", plan.requests.len());
}
