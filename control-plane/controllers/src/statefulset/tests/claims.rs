//! What becomes of claims when pods and sets go.

use insta::assert_snapshot;
use serde_json::json;

use super::{KEY, resize, story};
use crate::{statefulset::CONTROLLER, world::World};

/// A set whose pods have a claim each.
fn with_claims(when_deleted: &str, when_scaled: &str) -> World {
    let mut world = World::read("node n1 | statefulset web 2");
    world.edit(KEY, |set| {
        set["spec"]["volumeClaimTemplates"] = json!([{
            "metadata": {"name": "data", "labels": {"tier": "db"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }]);
        set["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}, {"name": "tmp"}]);
        set["spec"]["persistentVolumeClaimRetentionPolicy"] =
            json!({"whenDeleted": when_deleted, "whenScaled": when_scaled});
    });
    world
}

/// The claims, each with the kinds of its owners.
fn claims(world: &World) -> String {
    let resource = world.key("persistentvolumeclaims x").resource;
    let tell = |claim: &std::sync::Arc<copepod_api::Object>| {
        let owners: Vec<&str> = claim.meta.owner_references().iter().map(|owner| owner.kind.as_str()).collect();
        format!("{} {owners:?}", claim.key.name()).replace('"', "")
    };
    world.view.objects(&resource, None).map(tell).collect::<Vec<_>>().join("\n")
}

#[test]
fn claims_come_before_their_pods_and_outlive_them() {
    let mut world = with_claims("Retain", "Retain");
    assert_snapshot!(story(&mut world), @r"
        create revision
        create claim data-web-0
        create pod web-0
          web-0 is ready
        create claim data-web-1
        create pod web-1
          web-1 is ready
    ");
    let claim = world.value(&world.key("persistentvolumeclaims default/data-web-0"));
    assert_snapshot!(claim["metadata"]["labels"].to_string().replace('"', ""), @"{app:web,tier:db}");
    let pod = world.value(&world.key("pods default/web-0"));
    assert_snapshot!(pod["spec"]["volumes"].to_string().replace('"', ""), @"[{name:data,persistentVolumeClaim:{claimName:data-web-0}},{name:tmp}]");
    resize(&mut world, 1);
    world.settle();
    resize(&mut world, 2);
    assert_snapshot!(story(&mut world), @r"
        create pod web-1
          web-1 is ready
    ");
    world.delete(KEY);
    world.settle();
    assert_snapshot!(claims(&world), @r"
        data-web-0 []
        data-web-1 []
    ");
}

#[test]
fn claims_go_with_their_set_where_it_says_so() {
    let mut world = with_claims("Delete", "Retain");
    world.settle();
    assert_snapshot!(claims(&world), @r"
        data-web-0 [StatefulSet]
        data-web-1 [StatefulSet]
    ");
    resize(&mut world, 1);
    world.settle();
    assert_snapshot!(claims(&world), @r"
        data-web-0 [StatefulSet]
        data-web-1 [StatefulSet]
    ");
    world.delete(KEY);
    world.settle();
    assert_snapshot!(claims(&world), @"");
}

#[test]
fn claims_go_with_surplus_pods_where_the_set_says_so() {
    let mut world = with_claims("Delete", "Delete");
    world.settle();
    assert_snapshot!(claims(&world), @r"
        data-web-0 [StatefulSet]
        data-web-1 [StatefulSet]
    ");
    resize(&mut world, 1);
    let plan = world.plan(&CONTROLLER, KEY);
    assert_snapshot!(world.print(&plan), @r"
        patch persistentvolumeclaim data-web-1 {metadata:{ownerReferences:[{apiVersion:v1,blockOwnerDeletion:true,controller:true,kind:Pod,name:web-1,uid:u11}]}}
        delete pod web-1
        event SuccessfulDelete: delete Pod web-1 in StatefulSet web successful
        status statefulset web {availableReplicas:2,collisionCount:0,conditions:null,currentReplicas:1,currentRevision:web-czwgzz2kdr,observedGeneration:3,readyReplicas:2,replicas:2,updateRevision:web-czwgzz2kdr,updatedReplicas:1}
    ");
    world.apply(&plan);
    world.delete("pods default/web-1");
    // Somebody wants it back when it is gone, and its claim is not yet.
    resize(&mut world, 2);
    assert_snapshot!(world.print(&world.plan(&CONTROLLER, KEY)), @r"
        status statefulset web {availableReplicas:1,collisionCount:0,conditions:null,currentReplicas:1,currentRevision:web-czwgzz2kdr,observedGeneration:4,readyReplicas:1,replicas:1,updateRevision:web-czwgzz2kdr,updatedReplicas:1}
        because claim data-web-1 of the former web-1 has to go first
    ");
    world.settle();
    assert_snapshot!(claims(&world), @r"
        data-web-0 [StatefulSet]
        data-web-1 [StatefulSet]
    ");
    resize(&mut world, 1);
    world.settle();
    assert_snapshot!(claims(&world), @"data-web-0 [StatefulSet]");
}

#[test]
fn a_surplus_pod_that_is_wanted_again_leaves_its_claim() {
    let mut world = with_claims("Retain", "Delete");
    world.settle();
    resize(&mut world, 1);
    world.apply(&world.plan(&CONTROLLER, KEY));
    assert_snapshot!(claims(&world), @r"
        data-web-0 []
        data-web-1 [Pod]
    ");
    resize(&mut world, 2);
    world.apply(&world.plan(&CONTROLLER, KEY));
    assert_snapshot!(claims(&world), @r"
        data-web-0 []
        data-web-1 []
    ");
}

#[test]
fn a_policy_that_changes_changes_the_owners() {
    let mut world = with_claims("Retain", "Retain");
    world.settle();
    let mut told = Vec::new();
    for (when_deleted, when_scaled) in [("Delete", "Retain"), ("Retain", "Delete")] {
        world.edit(KEY, |set| {
            set["spec"]["persistentVolumeClaimRetentionPolicy"] =
                json!({"whenDeleted": when_deleted, "whenScaled": when_scaled});
        });
        world.settle();
        told.push(claims(&world));
    }
    assert_snapshot!(told.join("\n---\n"), @r"
        data-web-0 [StatefulSet]
        data-web-1 [StatefulSet]
        ---
        data-web-0 []
        data-web-1 []
    ");
}
