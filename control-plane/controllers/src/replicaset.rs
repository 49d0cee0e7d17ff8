//! ReplicaSets: the pods of one revision of a deployment.

use copepod_api::{
    Of,
    k8s_openapi::api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::PodTemplateSpec,
    },
    selector::LabelSelector,
};
use serde_json::Value;

use crate::{
    Controller,
    replicas::{self, Counts, Replicated, number},
};

pub const CONTROLLER: Controller = Controller {
    name: "replicaset-controller",
    wakes: replicas::wakes::<ReplicaSet>,
    all: replicas::all::<ReplicaSet>,
    reconcile: replicas::reconcile::<ReplicaSet>,
    refused: replicas::refused::<ReplicaSet>,
};

impl Replicated for ReplicaSet {
    type Status = ReplicaSetStatus;
    const USER: &'static str = "system:controller:replicaset-controller";

    fn selector(&self) -> Result<LabelSelector, String> {
        let spec = self.spec.as_ref().ok_or("it has no spec")?;
        LabelSelector::from_typed(&spec.selector)
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

    fn reported(&self) -> Option<&ReplicaSetStatus> {
        self.status.as_ref()
    }

    fn status(set: &Of<ReplicaSet>, counts: &Counts, conditions: Vec<Value>) -> ReplicaSetStatus {
        ReplicaSetStatus {
            replicas: number(counts.all),
            fully_labeled_replicas: counts.some(counts.fully_labeled),
            ready_replicas: counts.some(counts.ready),
            available_replicas: counts.some(counts.available),
            terminating_replicas: Some(number(counts.leaving)),
            observed_generation: Some(set.meta().generation),
            conditions: replicas::conditions(conditions),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    fn plan(fixture: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, "replicasets.apps default/web"))
    }

    #[test]
    fn missing_pods_are_created() {
        assert_snapshot!(plan("replicaset web 2"), @r"
            create pod web-g54v4
            create pod web-hlxjc
            event SuccessfulCreate: Created pods: web-g54v4, web-hlxjc
            status replicaset web {conditions:null,observedGeneration:1,replicas:0,terminatingReplicas:0}
            because 0 of 2 pods are available
        ");
    }

    #[test]
    fn a_failed_pod_is_replaced() {
        assert_snapshot!(plan("replicaset web 3 | pod web-a web ready | pod web-b web ready | pod web-c web failed"), @r"
            create pod web-g54v4
            event SuccessfulCreate: Created pod: web-g54v4
            status replicaset web {availableReplicas:2,conditions:null,fullyLabeledReplicas:2,observedGeneration:1,readyReplicas:2,replicas:2,terminatingReplicas:0}
            because 2 of 3 pods are available
        ");
    }

    #[test]
    fn a_leaving_pod_is_replaced_at_once() {
        assert_snapshot!(plan("replicaset web 1 | pod web-a web ready leaving"), @r"
            create pod web-g54v4
            event SuccessfulCreate: Created pod: web-g54v4
            status replicaset web {conditions:null,observedGeneration:1,replicas:0,terminatingReplicas:1}
            because 0 of 1 pods are available
        ");
    }

    #[test]
    fn surplus_goes_unready_first() {
        assert_snapshot!(
            plan("replicaset web 1 | pod web-a web ready on=n1 | pod web-b web on=n2 | pod web-c web"), @r"
            delete pod web-c
            delete pod web-b
            event SuccessfulDelete: Deleted pods: web-c, web-b
            status replicaset web {availableReplicas:1,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:1,replicas:3,terminatingReplicas:0}
        ");
    }

    #[test]
    fn of_equal_pods_the_one_with_company_goes() {
        assert_snapshot!(
            plan("replicaset web 2 | pod web-a web ready on=n1 | pod web-b web ready on=n2 | pod web-c web ready on=n2"),
            @r"
            delete pod web-b
            event SuccessfulDelete: Deleted pod: web-b
            status replicaset web {availableReplicas:3,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:3,replicas:3,terminatingReplicas:0}
        ");
    }

    #[test]
    fn orphans_are_adopted_and_strangers_let_go() {
        assert_snapshot!(plan("replicaset web 1 | pod stray - ready app=web | pod web-a web ready app=other"), @r"
            patch pod stray {metadata:{ownerReferences:[{apiVersion:apps/v1,blockOwnerDeletion:true,controller:true,kind:ReplicaSet,name:web,uid:u2}]}}
            patch pod web-a {metadata:{ownerReferences:[]}}
            status replicaset web {availableReplicas:1,conditions:null,fullyLabeledReplicas:1,observedGeneration:1,readyReplicas:1,replicas:1,terminatingReplicas:0}
        ");
    }

    #[test]
    fn a_pod_to_be_replaced_stays_until_another_is_available() {
        let world = "replicaset web 2 | pod web-a web ready | pod web-b web ready replace";
        assert_snapshot!(plan(world), @r"
            create pod web-g54v4
            event SuccessfulCreate: Created pod: web-g54v4
            status replicaset web {availableReplicas:2,conditions:null,fullyLabeledReplicas:2,observedGeneration:1,readyReplicas:2,replicas:2,terminatingReplicas:0}
        ");
        assert_snapshot!(plan(&format!("{world} | pod web-c web")), @r"
            status replicaset web {availableReplicas:2,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:2,replicas:3,terminatingReplicas:0}
        ");
        assert_snapshot!(plan(&format!("{world} | pod web-c web ready")), @r"
            delete pod web-b
            status replicaset web {availableReplicas:3,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:3,replicas:3,terminatingReplicas:0}
        ");
    }

    #[test]
    fn a_pod_to_be_replaced_that_serves_nobody_goes_at_once() {
        assert_snapshot!(plan("replicaset web 2 | pod web-a web ready | pod web-b web replace | pod web-c web"), @r"
            delete pod web-b
            status replicaset web {availableReplicas:1,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:1,replicas:3,terminatingReplicas:0}
            because 1 of 2 pods are available
        ");
    }

    #[test]
    fn a_set_at_rest_changes_nothing() {
        let mut world = World::read("replicaset web 2 | pod web-a web ready | pod web-b web ready");
        world.settle();
        assert_eq!(world.print(&world.plan(&super::CONTROLLER, "replicasets.apps default/web")), "");
    }
}
