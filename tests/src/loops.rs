//! The registry, all controllers and the scheduler in one small cluster without I/O.
//!
//! Woken by events alone, as the leader's driver does it; every plan goes through the real registry, and a plan that it
//! refuses fails the test. Nodes are played: what is bound to them runs, what is asked to go goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use copepod_api::{
    Action, DeleteOptions, Key, Plan, Request, Resource, Target, Timestamp, Typed, User, WriteOptions,
    k8s_openapi::api::{
        apps::v1::{ControllerRevision, Deployment, StatefulSet},
        core::v1::{Node, PersistentVolumeClaim, Pod, Service},
        policy::v1::PodDisruptionBudget,
    },
    request::Propagation,
    resource,
    time::{self, SignedDuration},
};
use copepod_controllers as controllers;
use copepod_registry::{Env, transact};
use copepod_scheduler::Scheduler;
use copepod_store::{Event, View};
use serde_json::{Value, json};

struct Cluster {
    view: View,
    now: Timestamp,
    dice: u64,
    scheduler: Scheduler,
    news: Vec<Event>,
    dirty: BTreeSet<(usize, Key)>,
    alarms: BTreeMap<(usize, Key), Timestamp>,
    transactions: usize,
}

/// More rounds than any of these worlds needs.
const ROUNDS_MAX: usize = 2000;

impl Cluster {
    fn new(n_nodes: usize) -> Cluster {
        let mut cluster = Cluster {
            view: View::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            dice: 1,
            scheduler: Scheduler::new(),
            news: Vec::new(),
            dirty: BTreeSet::new(),
            alarms: BTreeMap::new(),
            transactions: 0,
        };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        cluster.create::<copepod_api::k8s_openapi::api::core::v1::Namespace>("", namespace);
        for n in 1..=n_nodes {
            let name = format!("n{n}");
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
            cluster.create::<Node>("", node);
            cluster.node_says(&name, "True");
        }
        cluster
    }

    fn admin() -> User {
        User::system("admin")
    }

    fn create<T: copepod_api::Typed>(&mut self, namespace: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.submit(&[Request::of::<T>(&Self::admin(), namespace, &name, "", Action::Create { object })]);
    }

    fn patch<T: copepod_api::Typed>(&mut self, name: &str, patch: Value) {
        self.submit(&[Request::merge::<T>(&Self::admin(), "default", name, patch)]);
    }

    fn node_says(&mut self, name: &str, ready: &str) {
        let key = Key::new(resource::NODES, "", name);
        let mut object = self.view.object(&key).expect("the node exists").value().clone();
        object["status"]["allocatable"] = json!({"cpu": "64", "memory": "64Gi", "pods": "1000"});
        object["status"]["conditions"] =
            json!([{"type": "Ready", "status": ready, "lastTransitionTime": time::rfc3339(self.now)}]);
        self.submit(&[Request::of::<Node>(&Self::admin(), "", name, "status", Action::Update { object })]);
    }

    fn submit(&mut self, requests: &[Request]) {
        let mut state = self.dice;
        let mut dice = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state
        };
        let mut env = Env { now: self.now, dice: &mut dice };
        let done = match transact(&self.view, requests, &mut env) {
            Ok(done) => done,
            Err(refusal) => panic!("{refusal}\n{:?}", requests.iter().map(|r| &r.target).collect::<Vec<_>>()),
        };
        self.dice = state;
        self.transactions += 1;
        self.view = done.view;
        for event in &done.events {
            for (index, controller) in controllers::ALL.iter().enumerate() {
                self.dirty.extend((controller.wakes)(&self.view, event).into_iter().map(|key| (index, key)));
            }
        }
        self.news.extend(done.events);
    }

    fn carry_out(&mut self, plan: &Plan) {
        if !plan.requests.is_empty() {
            self.submit(&plan.requests);
        }
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if let Some((index, key)) = self.dirty.pop_first() {
                let plan = (controllers::ALL[index].reconcile)(&self.view, &key, self.now);
                match plan.look_again {
                    Some(at) => self.alarms.insert((index, key), at),
                    None => self.alarms.remove(&(index, key)),
                };
                self.carry_out(&plan);
            } else if !self.news.is_empty() {
                let news = std::mem::take(&mut self.news);
                for plan in self.scheduler.schedule(&self.view, &news, self.now) {
                    self.carry_out(&plan);
                }
            } else if !self.play_nodes() {
                return;
            }
        }
        let dirty: Vec<String> = self.dirty.iter().map(|(_, key)| key.to_string()).collect();
        panic!("the cluster does not come to rest: {dirty:?}");
    }

    fn wait(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        let due = self.alarms.iter().filter(|(_, at)| **at <= self.now).map(|(key, _)| key.clone());
        self.dirty.extend(due);
        self.settle();
    }

    /// Every node that speaks runs its pods.
    fn play_nodes(&mut self) -> bool {
        let mut requests = Vec::new();
        for (index, pod) in self.view.list::<Pod>(None).enumerate() {
            let Some(node) = pod.object().node.clone() else { continue };
            let silent = self.view.get::<Node>("", &node).is_none_or(|node| {
                let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status != "True")
            });
            if silent {
                continue;
            }
            let (namespace, name) = (pod.key().namespace(), pod.key().name());
            if pod.meta().is_leaving() {
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                requests.push(Request::delete::<Pod>(&Self::admin(), namespace, name, options));
                continue;
            }
            let mut object = pod.object().value().clone();
            if object["status"]["phase"] == "Running" {
                continue;
            }
            object["status"]["phase"] = json!("Running");
            object["status"]["podIP"] = json!(format!("10.0.0.{}", index % 250 + 1));
            object["status"]["podIPs"] = json!([{"ip": format!("10.0.0.{}", index % 250 + 1)}]);
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": time::rfc3339(self.now)});
            if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
                conditions.push(ready);
            } else {
                object["status"]["conditions"] = json!([ready]);
            }
            requests.push(Request::of::<Pod>(&Self::admin(), namespace, name, "status", Action::Update { object }));
        }
        for chunk in requests.chunks(500) {
            self.submit(chunk);
        }
        !requests.is_empty()
    }

    fn deploy(&mut self, replicas: usize) {
        self.create::<Deployment>(
            "default",
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
                "spec": {
                    "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                    "template": {
                        "metadata": {"labels": {"app": "web"}},
                        "spec": {"containers": [{"name": "c", "image": "web:1"}]},
                    },
                },
            }),
        );
    }

    /// How many pods run on each node, and what the deployment says of itself.
    fn tell(&self) -> String {
        let mut on: BTreeMap<String, usize> = BTreeMap::new();
        for pod in self.view.objects(&resource::PODS, None) {
            let leaving = if pod.meta.is_leaving() { " leaving" } else { "" };
            *on.entry(format!("{}{leaving}", pod.node.as_deref().unwrap_or("nowhere"))).or_insert(0) += 1;
        }
        let mut text = format!("{on:?}");
        for deployment in self.view.list::<Deployment>(None) {
            let status = deployment.status.clone().unwrap_or_default();
            let reasons: Vec<String> =
                status.conditions.into_iter().flatten().filter_map(|condition| condition.reason).collect();
            write!(
                text,
                " web {}/{} {}",
                status.available_replicas.unwrap_or(0),
                status.updated_replicas.unwrap_or(0),
                reasons.join(" ")
            )
            .unwrap();
        }
        text
    }
}

#[test]
fn a_deployment_comes_up_rolls_and_goes() {
    let mut cluster = Cluster::new(3);
    cluster.settle();
    cluster.create::<Service>(
        "default",
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        }),
    );
    cluster.create::<PodDisruptionBudget>("default", json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "maxUnavailable": 1},
    }));
    cluster.deploy(6);
    cluster.settle();
    insta::assert_snapshot!(cluster.tell(), @r#"
        {"n1": 2, "n2": 2, "n3": 2} web 6/6 MinimumReplicasAvailable NewReplicaSetAvailable
    "#);

    cluster.patch::<Deployment>(
        "web",
        json!({"spec": {"template": {"spec": {
            "containers": [{"name": "c", "image": "web:2"}],
        }}}}),
    );
    cluster.settle();
    insta::assert_snapshot!(cluster.tell(), @r#"
        {"n1": 2, "n2": 2, "n3": 2} web 6/6 MinimumReplicasAvailable NewReplicaSetAvailable
    "#);

    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 30}}));
    cluster.settle();
    insta::assert_snapshot!(cluster.tell(), @r#"
        {"n1": 10, "n2": 10, "n3": 10} web 30/30 MinimumReplicasAvailable NewReplicaSetAvailable
    "#);

    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    cluster.submit(&[Request::delete::<Deployment>(&Cluster::admin(), "default", "web", options)]);
    cluster.settle();
    insta::assert_snapshot!(cluster.tell(), @"{}");
}

#[test]
fn a_stateful_set_comes_up_rolls_and_goes_with_its_claims() {
    let mut cluster = Cluster::new(2);
    cluster.create::<StatefulSet>(
        "default",
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"},
            "spec": {
                "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                }],
                "template": {
                    "metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "c", "image": "db:1"}]},
                },
            },
        }),
    );
    cluster.settle();
    let left = |cluster: &Cluster| {
        let count = |resource: Resource| cluster.view.count(&resource);
        let (claims, revisions) = (PersistentVolumeClaim::resource(), ControllerRevision::resource());
        let status = cluster.view.get::<StatefulSet>("default", "db").and_then(|set| set.status.clone());
        let is_over = status.is_some_and(|status| status.current_revision == status.update_revision);
        (count(resource::PODS), count(claims), count(revisions), is_over)
    };
    assert_eq!(left(&cluster), (3, 3, 1, true));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "db:2"}]}}}});
    cluster.patch::<StatefulSet>("db", image);
    cluster.settle();
    assert_eq!(left(&cluster), (3, 3, 2, true));
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}}));
    cluster.settle();
    assert_eq!(left(&cluster), (1, 1, 2, true));
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    cluster.submit(&[Request::delete::<StatefulSet>(&Cluster::admin(), "default", "db", options)]);
    cluster.settle();
    assert_eq!(left(&cluster), (0, 0, 0, false));
}

#[test]
fn the_pods_of_a_dead_node_run_elsewhere() {
    let mut cluster = Cluster::new(3);
    cluster.deploy(6);
    cluster.settle();
    cluster.node_says("n2", "Unknown");
    cluster.settle();
    cluster.wait(2);
    insta::assert_snapshot!(cluster.tell(), @r#"
        {"n1": 3, "n2 leaving": 2, "n3": 3} web 6/6 MinimumReplicasAvailable NewReplicaSetAvailable
    "#);
    cluster.node_says("n2", "True");
    cluster.settle();
    insta::assert_snapshot!(cluster.tell(), @r#"
        {"n1": 3, "n3": 3} web 6/6 MinimumReplicasAvailable NewReplicaSetAvailable
    "#);
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    let mut cluster = Cluster::new(1);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    cluster.create::<copepod_api::k8s_openapi::api::core::v1::Namespace>("", namespace);
    cluster.create::<Deployment>(
        "shop",
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "web:1"}]},
                },
            },
        }),
    );
    cluster.settle();
    let options = DeleteOptions::default();
    let delete =
        Request::delete::<copepod_api::k8s_openapi::api::core::v1::Namespace>(&Cluster::admin(), "", "shop", options);
    cluster.submit(&[delete]);
    cluster.settle();
    let left: Vec<String> = cluster.view.objects(&resource::PODS, None).map(|pod| pod.key.to_string()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(cluster.view.object(&Key::new(resource::NAMESPACES, "", "shop")).is_none());
}

#[test]
fn a_definition_leaves_with_all_that_it_defined() {
    let mut cluster = Cluster::new(0);
    let about = |plural: &'static str, group: &'static str, namespace: &str, action: Action| Request {
        user: Cluster::admin(),
        target: Target {
            resource: Resource::known(group, plural),
            version: "v1".into(),
            namespace: namespace.into(),
            name: "".into(),
            subresource: "".into(),
        },
        action,
        options: WriteOptions::default(),
    };
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
    }});
    let definitions = ("customresourcedefinitions", "apiextensions.k8s.io");
    cluster.submit(&[about(definitions.0, definitions.1, "", Action::Create { object: definition })]);
    for number in 0..3 {
        let object = json!({"metadata": {"name": format!("w{number}")}});
        cluster.submit(&[about("widgets", "example.com", "default", Action::Create { object })]);
    }
    cluster.settle();
    let widgets = Resource::known("example.com", "widgets");
    assert_eq!(cluster.view.count(&widgets), 3);

    let mut leave = about(definitions.0, definitions.1, "", Action::Delete { options: DeleteOptions::default() });
    leave.target.name = "widgets.example.com".into();
    cluster.submit(&[leave]);
    cluster.settle();
    assert_eq!(
        (cluster.view.count(&widgets), cluster.view.count(&Resource::known(definitions.1, definitions.0))),
        (0, 0)
    );
}
