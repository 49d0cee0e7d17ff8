//! Whether a cluster has become what it shall be, some time after nothing fails any more.

use std::collections::BTreeSet;

use copepod_api::{
    Object,
    resource::{DEPLOYMENTS, NODES, PODS, Resource, SERVICES},
};
use serde_json::Value;

use super::*;
use crate::node;

const JOBS: Resource = Resource::known("batch", "jobs");
const STATEFUL_SETS: Resource = Resource::known("apps", "statefulsets");
const QUOTAS: Resource = Resource::known("", "resourcequotas");

impl World {
    pub(super) fn judge_cluster(&mut self) {
        let Some(leader) = self.leader() else { return self.facts.fail("nobody leads".to_owned()) };
        let Some(server) = self.running(leader) else { return };
        let view = server.replica.view();
        self.tell(format!("{} pods bound, {} evicted", self.laws.n_bound, self.laws.n_evicted));
        let wrong = self.nodes_wrong(&view).or_else(|| self.pods_wrong(&view)).or_else(|| wrong(&view));
        if let Some(wrong) = wrong {
            self.facts.fail(format!("long after the calm, {wrong}"));
        }
    }

    fn is_dead(&self, node: &str) -> bool {
        self.nodes.iter().any(|other| other.name == node && other.is_dead)
    }

    fn nodes_wrong(&self, view: &View) -> Option<String> {
        for node in &self.nodes {
            let Some(object) = view.object(&Key::new(NODES, "", node.name.as_str())) else {
                return (!node.is_dead).then(|| format!("{} is no node", node.name));
            };
            if is_true(object, "Ready") == node.is_dead {
                return Some(format!("node {} is ready={}", node.name, !node.is_dead));
            }
            let shown = object.value().pointer("/status/nodeInfo/kubeletVersion").and_then(Value::as_str);
            if !node.is_dead && shown != Some(&*node.shown_version()) {
                return Some(format!("node {} runs {} and shows {shown:?}", node.name, node.shown_version()));
            }
        }
        None
    }

    fn pods_wrong(&self, view: &View) -> Option<String> {
        for node in self.nodes.iter().filter(|node| !node.is_dead) {
            let here: BTreeSet<&str> = view.pods_on(&node.name).map(|pod| pod.meta.uid.as_str()).collect();
            if let Some(process) = node.machine.running().find(|process| !here.contains(process.uid.as_str())) {
                return Some(format!("{} runs {}, which is no pod of it", node.name, process.id));
            }
        }
        for pod in view.objects(&PODS, None) {
            let name = pod.key.name();
            match pod.node.as_deref() {
                // Who will never say that it is gone is given up later.
                Some(node) if self.is_dead(node) && pod.meta.is_leaving() => (),
                Some(node) if self.is_dead(node) && !pod.facts().has_ended() => {
                    return Some(format!("pod {name} is on {node}, which is dead"));
                }
                _ if pod.meta.is_leaving() => return Some(format!("pod {name} is still leaving")),
                Some(node) if !pod.facts().has_ended() => {
                    let machine = self.nodes.iter().find(|other| other.name == node).map(|node| &node.machine);
                    let runs = machine.is_some_and(|it| it.running().any(|process| process.uid == pod.meta.uid));
                    if !runs || !is_true(pod, "Ready") {
                        let ready = is_true(pod, "Ready");
                        return Some(format!("pod {name} on {node} runs={runs} and is ready={ready}"));
                    }
                }
                Some(_) => (),
                None => {
                    if let Some(node) = self.has_room(view, pod) {
                        return Some(format!("pod {name} waits, and {node} has room"));
                    }
                }
            }
        }
        None
    }

    /// A living node on which the pod would fit.
    fn has_room(&self, view: &View, pod: &Object) -> Option<String> {
        let room = self.nodes.iter().filter(|node| !node.is_dead).find(|node| {
            let here = || view.pods_on(&node.name).filter(|pod| !pod.facts().has_ended());
            let used: u64 = here().map(|pod| cpu(pod)).sum();
            used + cpu(pod) <= node::CPU_MILLIS && (here().count() as u64) < node::PODS
        });
        room.map(|node| node.name.clone())
    }
}

fn wrong(view: &View) -> Option<String> {
    let waiting = view.objects(&PODS, None).filter(|pod| pod.node.is_none()).count();
    for deployment in view.objects(&DEPLOYMENTS, None) {
        let number = |path: &str| deployment.value().pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let wanted = number("/spec/replicas");
        let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        let has = fields.map(|field| number(&format!("/status/{field}")));
        let is_seen = number("/status/observedGeneration") == number("/metadata/generation");
        if (has != [wanted; 4] || !is_seen) && waiting == 0 {
            let name = deployment.key.name();
            return Some(format!("deployment {name} wants {wanted} and has {has:?} (seen={is_seen})"));
        }
    }
    let is_over = |job: &Object| is_true(job, "Complete") || is_true(job, "Failed");
    // A job is not over before its pods are gone, and those on dead machines are given up later.
    let leaving = view.objects(&PODS, None).filter(|pod| pod.meta.is_leaving()).count();
    if let Some(job) = view.objects(&JOBS, None).find(|job| !is_over(job) && waiting + leaving == 0) {
        return Some(format!("{} is not over: {}", job.key, job.value()["status"]));
    }
    for set in view.objects(&STATEFUL_SETS, None).filter(|_| waiting + leaving == 0) {
        let at = |path: &str| set.value().pointer(path).cloned().unwrap_or_default();
        let number = |path: &str| at(path).as_u64().unwrap_or(0);
        let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "currentReplicas"];
        let has = fields.map(|field| number(&format!("/status/{field}")));
        let is_seen = number("/status/observedGeneration") == number("/metadata/generation");
        if has != [number("/spec/replicas"); 5]
            || !is_seen
            || at("/status/currentRevision") != at("/status/updateRevision")
        {
            return Some(format!("{} wants {} and is {}", set.key, number("/spec/replicas"), at("/status")));
        }
    }
    orphans(view).or_else(|| shared(view)).or_else(|| miscounted(view))
}

/// Nothing is there whose owners are all gone.
fn orphans(view: &View) -> Option<String> {
    let objects = || view.resources().flat_map(|resource| view.objects(resource, None));
    let there: BTreeSet<&str> = objects().map(|object| object.meta.uid.as_str()).collect();
    let is_orphan = |object: &&std::sync::Arc<Object>| {
        let owners = object.meta.owner_references();
        // What leaves with a dead machine is given up later.
        !owners.is_empty()
            && !object.meta.is_leaving()
            && owners.iter().all(|owner| !there.contains(owner.uid.as_str()))
    };
    objects().find(is_orphan).map(|object| format!("{} is there, and its owner is not", object.key))
}

/// No address and no port has two services.
fn shared(view: &View) -> Option<String> {
    let mut taken = BTreeSet::new();
    for service in view.objects(&SERVICES, None) {
        let address = service.value().pointer("/spec/clusterIP").cloned();
        let ports = service.value().pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let ports = ports.filter_map(|port| port.get("nodePort").cloned());
        for own in address.into_iter().chain(ports) {
            if !taken.insert(own.to_string()) {
                return Some(format!("{} shares {own} with another service", service.key));
            }
        }
    }
    None
}

/// The quota counts what is there.
fn miscounted(view: &View) -> Option<String> {
    let quota = view.objects(&QUOTAS, Some("default")).next()?;
    let used = |name: &str| quota.value().pointer(&format!("/status/used/{name}"))?.as_str()?.parse::<usize>().ok();
    let pods = view.objects(&PODS, Some("default")).filter(|pod| !pod.facts().has_ended()).count();
    let services = view.objects(&SERVICES, Some("default")).count();
    (used("pods") != Some(pods) || used("services") != Some(services)).then(|| {
        format!("the quota counts {}, and there are {pods} pods and {services} services", quota.value()["status"])
    })
}

fn is_true(object: &Object, condition: &str) -> bool {
    let conditions = object.value().pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|it| it["type"] == condition && it["status"] == "True")
}

fn cpu(pod: &Object) -> u64 {
    let asked = pod.value().pointer("/spec/containers/0/resources/requests/cpu").and_then(Value::as_str);
    asked.and_then(|text| text.strip_suffix('m')?.parse().ok()).unwrap_or(0)
}
