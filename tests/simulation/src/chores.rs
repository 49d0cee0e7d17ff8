//! People at work: Deployments with a Service and a budget come, grow, shrink, change and go, and so do StatefulSets; Jobs
//! run, nodes are drained.

use copepod_api::{
    Action, DeleteOptions, Key, Object, Patch, Request, User,
    k8s_openapi::api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::{Node, Pod, ResourceQuota, Service},
        policy::v1::PodDisruptionBudget,
    },
    request::{Disruption, Propagation},
    resource::{DEPLOYMENTS, NODES, PODS, Resource},
};
use copepod_store::View;
use serde_json::{Value, json};

use crate::{Mutation, dice::Dice, plan::SECOND};

const NAMESPACE: &str = "default";
const STATEFUL_SETS: Resource = Resource::known("apps", "statefulsets");
const JOBS: Resource = Resource::known("batch", "jobs");

/// How an eviction marks its pod.
pub const EVICTED: &str = "EvictionByEvictionAPI";

const DEPLOYMENTS_MAX: u64 = 3;

/// How many jobs, and how many pods of nobody, there are at a time.
const OTHERS_MAX: usize = 3;

/// A node that is not empty by then is used again.
const DRAIN_MAX: u64 = 20 * SECOND;

pub struct Chores {
    dice: Dice,
    n_nodes: u64,
    n_made: u64,
    draining: Option<(String, u64)>,
    mutation: Option<Mutation>,
}

/// What limits how much there is in the namespace; never reached, but counted.
pub fn quota(user: &User) -> Request {
    let object = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"},
        "spec": {"hard": {"pods": "500", "services": "50", "requests.cpu": "500"}},
    });
    Request::of::<ResourceQuota>(user, NAMESPACE, "all", "", Action::Create { object })
}

impl Chores {
    pub fn new(n_nodes: u64, dice: Dice, mutation: Option<Mutation>) -> Chores {
        Chores { dice, n_nodes, n_made: 0, draining: None, mutation }
    }

    /// The next thing to do, in the light of what somebody saw; and a line about it.
    pub fn next(&mut self, view: &View, now: u64) -> Option<(Vec<Request>, String)> {
        let user = User::system("admin");
        if let Some(drain) = self.drain(view, &user, now) {
            return Some(drain);
        }
        let name = format!("web{}", self.dice.below(DEPLOYMENTS_MAX));
        let deployment = view.object(&Key::new(DEPLOYMENTS, NAMESPACE, name.as_str()));
        match (self.dice.below(12), deployment) {
            (0..=5, None) => Some((self.create(&user, &name), format!("create {name}"))),
            (0..=2, Some(_)) => {
                let replicas = self.dice.below(self.n_nodes * 2 + 1);
                let scaled = json!({"spec": {"replicas": replicas}});
                Some((vec![patch::<Deployment>(&user, &name, scaled)], format!("scale {name} to {replicas}")))
            }
            (3..=4, Some(_)) => {
                self.n_made += 1;
                let containers = json!([{"name": "c", "image": format!("app:{}", self.n_made)}]);
                let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
                let request = Request::of::<Deployment>(&user, NAMESPACE, &name, "", Action::Patch { patch });
                Some((vec![request], format!("update {name}")))
            }
            (5, Some(_)) => Some((delete_all(&user, &name), format!("delete {name}"))),
            (6 | 7, _) => self.job(view, &user),
            (8, _) => self.pod(view, &user),
            (9, _) if self.n_nodes > 2 => {
                let nodes: Vec<&str> = view.objects(&NODES, None).map(|node| node.key.name()).collect();
                let node = (*nodes.get(self.dice.below(nodes.len() as u64) as usize)?).to_owned();
                self.draining = Some((node.clone(), now + DRAIN_MAX));
                Some((vec![cordon(&user, &node, true)], format!("drain {node}")))
            }
            (10, _) => Some(self.stateful(view, &user)),
            _ => None,
        }
    }

    /// Nodes that nobody drains any more are used again.
    pub fn tidy(&mut self, view: &View) -> Option<(Vec<Request>, String)> {
        let user = User::system("admin");
        let is_cordoned =
            |node: &&std::sync::Arc<Object>| node.value().pointer("/spec/unschedulable") == Some(&json!(true));
        let node = view.objects(&NODES, None).find(is_cordoned)?.key.name().to_owned();
        Some((vec![cordon(&user, &node, false)], format!("uncordon {node}")))
    }

    fn drain(&mut self, view: &View, user: &User, now: u64) -> Option<(Vec<Request>, String)> {
        let (node, until) = self.draining.clone()?;
        let left = view.pods_on(&node).find(|pod| !pod.meta.is_leaving() && !pod.facts().has_ended());
        match left.filter(|_| now < until) {
            Some(pod) if self.dice.chance(700) => {
                let name = pod.key.name();
                let requests = if self.mutation == Some(Mutation::IgnoreBudget) {
                    unasked(user, name)
                } else {
                    let object = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
                    vec![Request::of::<Pod>(user, NAMESPACE, name, "eviction", Action::Create { object })]
                };
                Some((requests, format!("evict {name}")))
            }
            Some(_) => None,
            None => {
                self.draining = None;
                Some((vec![cordon(user, &node, false)], format!("uncordon {node}")))
            }
        }
    }

    fn create(&mut self, user: &User, name: &str) -> Vec<Request> {
        self.n_made += 1;
        let replicas = self.dice.between(1, self.n_nodes * 2);
        let (unavailable, surge) = [(0, 1), (1, 0), (1, 1), (2, 2)][self.dice.below(4) as usize];
        let labels = json!({"app": name});
        let cpu = format!("{}m", self.dice.between(1, 3) * 100);
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels}, "minReadySeconds": self.dice.below(2),
                "strategy": {"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}},
                "template": {"metadata": {"labels": labels}, "spec": {
                    "terminationGracePeriodSeconds": self.dice.between(1, 5),
                    "containers": [{
                        "name": "c", "image": format!("app:{}", self.n_made), "resources": {"requests": {"cpu": cpu}},
                    }],
                }},
            },
        });
        let kind = if self.dice.chance(300) { "NodePort" } else { "ClusterIP" };
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": kind, "selector": labels, "ports": [{"port": 80}]},
        });
        let budget = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        });
        let create = |object| Action::Create { object };
        vec![
            Request::of::<Service>(user, NAMESPACE, name, "", create(service)),
            Request::of::<PodDisruptionBudget>(user, NAMESPACE, name, "", create(budget)),
            Request::of::<Deployment>(user, NAMESPACE, name, "", create(deployment)),
        ]
    }

    fn stateful(&mut self, view: &View, user: &User) -> (Vec<Request>, String) {
        let name = "db";
        let replicas = self.dice.below(self.n_nodes + 2);
        if view.object(&Key::new(STATEFUL_SETS, NAMESPACE, name)).is_none() {
            let labels = json!({"app": name});
            let policy = if self.dice.chance(500) { "Parallel" } else { "OrderedReady" };
            let object = json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
                "spec": {
                    "replicas": replicas, "serviceName": name, "podManagementPolicy": policy,
                    "selector": {"matchLabels": labels}, "minReadySeconds": self.dice.below(2),
                    "template": {"metadata": {"labels": labels}, "spec": {
                        "terminationGracePeriodSeconds": self.dice.between(1, 5),
                        "containers": [{"name": "c", "image": "app:1", "resources": {"requests": {"cpu": "100m"}}}],
                    }},
                },
            });
            let request = Request::of::<StatefulSet>(user, NAMESPACE, name, "", Action::Create { object });
            return (vec![request], format!("create {name}"));
        }
        match self.dice.below(4) {
            0 | 1 => {
                let scaled = json!({"spec": {"replicas": replicas}});
                (vec![patch::<StatefulSet>(user, name, scaled)], format!("scale {name} to {replicas}"))
            }
            2 => {
                self.n_made += 1;
                let containers = json!([{"name": "c", "image": format!("app:{}", self.n_made)}]);
                let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
                let request = Request::of::<StatefulSet>(user, NAMESPACE, name, "", Action::Patch { patch });
                (vec![request], format!("update {name}"))
            }
            _ => {
                let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
                (vec![Request::delete::<StatefulSet>(user, NAMESPACE, name, options)], format!("delete {name}"))
            }
        }
    }

    fn job(&mut self, view: &View, user: &User) -> Option<(Vec<Request>, String)> {
        let jobs: Vec<&str> = view.objects(&JOBS, None).map(|job| job.key.name()).collect();
        if jobs.len() >= OTHERS_MAX {
            let name = jobs[0];
            let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
            return Some((vec![Request::delete::<Job>(user, NAMESPACE, name, options)], format!("delete {name}")));
        }
        self.n_made += 1;
        let name = format!("job{}", self.n_made);
        let policy = if self.dice.chance(500) { "Never" } else { "OnFailure" };
        let object = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {
                "completions": self.dice.between(1, 4), "parallelism": self.dice.between(1, 3),
                "template": {"spec": {
                    "restartPolicy": policy, "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "c", "image": "task:1", "resources": {"requests": {"cpu": "100m"}}}],
                }},
            },
        });
        let request = Request::of::<Job>(user, NAMESPACE, &name, "", Action::Create { object });
        Some((vec![request], format!("create {name}")))
    }

    fn pod(&mut self, view: &View, user: &User) -> Option<(Vec<Request>, String)> {
        let alone = |pod: &&str| pod.starts_with("one");
        let pods: Vec<&str> = view.objects(&PODS, None).map(|pod| pod.key.name()).filter(alone).collect();
        if pods.len() >= OTHERS_MAX {
            let name = pods[0];
            let delete = Request::delete::<Pod>(user, NAMESPACE, name, DeleteOptions::default());
            return Some((vec![delete], format!("delete {name}")));
        }
        self.n_made += 1;
        let name = format!("one{}", self.n_made);
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{"name": "c", "image": "one:1", "resources": {"requests": {"cpu": "200m"}}}],
            },
        });
        let request = Request::of::<Pod>(user, NAMESPACE, &name, "", Action::Create { object });
        Some((vec![request], format!("create {name}")))
    }
}

/// What an eviction amounts to that asks no budget.
fn unasked(user: &User, name: &str) -> Vec<Request> {
    let disruption = Some(Disruption { reason: EVICTED.into(), message: String::new() });
    vec![Request::delete::<Pod>(user, NAMESPACE, name, DeleteOptions { disruption, ..DeleteOptions::default() })]
}

fn cordon(user: &User, node: &str, is_cordoned: bool) -> Request {
    Request::merge::<Node>(user, "", node, json!({"spec": {"unschedulable": is_cordoned}}))
}

fn patch<T: copepod_api::Typed>(user: &User, name: &str, patch: Value) -> Request {
    Request::merge::<T>(user, NAMESPACE, name, patch)
}

fn delete_all(user: &User, name: &str) -> Vec<Request> {
    let options = || DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    vec![
        Request::delete::<Service>(user, NAMESPACE, name, options()),
        Request::delete::<PodDisruptionBudget>(user, NAMESPACE, name, options()),
        Request::delete::<Deployment>(user, NAMESPACE, name, options()),
    ]
}
