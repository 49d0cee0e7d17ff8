//! ReplicationControllers: ReplicaSets of the first days, driven by the same rules.

use std::collections::BTreeMap;

use copepod_api::{
    Of,
    k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerStatus},
    selector::LabelSelector,
};
use serde_json::Value;

use crate::{
    Controller,
    replicas::{self, Counts, Replicated, number},
};

pub const CONTROLLER: Controller = Controller {
    name: "replication-controller",
    wakes: replicas::wakes::<ReplicationController>,
    all: replicas::all::<ReplicationController>,
    reconcile: replicas::reconcile::<ReplicationController>,
    refused: replicas::refused::<ReplicationController>,
};

impl Replicated for ReplicationController {
    type Status = ReplicationControllerStatus;
    const USER: &'static str = "system:controller:replication-controller";

    fn selector(&self) -> Result<LabelSelector, String> {
        let labels = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Ok(LabelSelector::from_map(labels.unwrap_or(&BTreeMap::new())))
    }

    fn wanted(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn reported(&self) -> Option<&ReplicationControllerStatus> {
        self.status.as_ref()
    }

    fn status(set: &Of<Self>, counts: &Counts, conditions: Vec<Value>) -> ReplicationControllerStatus {
        ReplicationControllerStatus {
            replicas: number(counts.all),
            fully_labeled_replicas: counts.some(counts.fully_labeled),
            ready_replicas: counts.some(counts.ready),
            available_replicas: counts.some(counts.available),
            observed_generation: Some(set.meta().generation),
            conditions: replicas::conditions(conditions),
        }
    }
}

#[cfg(test)]
mod tests {
    use copepod_api::{Status, Typed, resource::PODS};
    use insta::assert_snapshot;
    use serde_json::json;

    use crate::world::World;

    fn world() -> World {
        let mut world = World::read("node n1");
        let spec = json!({"replicas": 3, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]},
        }});
        world.create("", "replicationcontrollers", "ReplicationController", "default", "web", json!({"spec": spec}));
        world
    }

    const KEY: &str = "replicationcontrollers default/web";

    #[test]
    fn pods_are_made_and_counted_as_those_of_a_set_are() {
        let mut world = world();
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @"
            create pod web-bmwlc
            create pod web-wnn6n
            create pod web-6cfrr
            event SuccessfulCreate: Created pods: web-bmwlc, web-wnn6n, web-6cfrr
            status replicationcontroller web {conditions:null,observedGeneration:1,replicas:0}
            because 0 of 3 pods are available
        ");
        world.settle();
        assert_eq!(world.print(&world.plan(&super::CONTROLLER, KEY)), "");
        assert_snapshot!(world.summary_of("pods"), @"3 × pod of web:1");
    }

    #[test]
    fn a_refusal_is_told_and_pods_are_then_tried_one_by_one() {
        let mut world = world();
        let why = Status::forbidden(&PODS, "web-x", "exceeded quota: pods");
        let key = world.view.objects(&super::ReplicationController::resource(), None).next().unwrap().key.clone();
        let told = (super::CONTROLLER.refused)(&world.view, &key, &why, world.now);
        assert_snapshot!(world.print(&told), @r#"
            status replicationcontroller web {conditions:[ReplicaFailure=True:FailedCreate]}
            event FailedCreate: Error creating: pods "web-x" is forbidden: exceeded quota: pods
        "#);
        world.apply(&told);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, KEY)), @"
            create pod web-9dsdv
            event SuccessfulCreate: Created pod: web-9dsdv
            status replicationcontroller web {conditions:[ReplicaFailure=True:FailedCreate],observedGeneration:1,replicas:0}
            because 0 of 3 pods are available
        ");
        world.settle();
        assert_snapshot!(world.value(&key)["status"].to_string(), @r#"{"availableReplicas":3,"fullyLabeledReplicas":3,"observedGeneration":1,"readyReplicas":3,"replicas":3}"#);
    }
}
