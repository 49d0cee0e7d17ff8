//! A second opinion on everything that is committed: what must be so of pods, nodes, deployments and budgets, whoever
//! decided it and however.
//!
//! Changes are looked at in their order, once, as the first server shows them. Where a decision may rest on a state that
//! is a little older than the one it changes (a pod has become ready or unready meanwhile, a deployment smaller), the law
//! allows for what was so within `LAG`.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::{
    Key, Object, Revision,
    resource::{DEPLOYMENTS, ENDPOINT_SLICES, PODS, REPLICA_SETS},
};
use copepod_store::{Event, EventKind};
use serde_json::Value;

use crate::{chores::EVICTED, node, plan::SECOND};

/// How old the state may be on which somebody has decided.
const LAG: u64 = 10 * SECOND;

/// A change that is not shown before so many later ones will not be.
const HELD_MAX: usize = 1000;

/// The budgets of the chores.
const BUDGET: i64 = 1;

#[derive(Default)]
pub struct Laws {
    next: Option<Revision>,
    /// Changes whose turn has not come.
    held: BTreeMap<Revision, Event>,
    pods: BTreeMap<Key, Seen>,
    /// By uid.
    deployments: BTreeMap<String, Deployment>,
    sets: BTreeMap<String, Set>,
    /// Which pods each slice offers.
    slices: BTreeMap<Key, BTreeSet<String>>,
    /// Pods that were offered, and the change from which on none offers each.
    withdrawn: BTreeMap<String, Revision>,
    /// Who each pod of a StatefulSet is, or was, by its uid.
    identities: BTreeMap<String, Key>,
    pub failure: Option<String>,
    pub n_bound: u64,
    pub n_evicted: u64,
}

struct Seen {
    uid: String,
    /// The uid of its owner.
    owner: String,
    node: Option<String>,
    cpu: u64,
    phase: String,
    is_ready: bool,
    ready_since: u64,
    /// Until when it was ready, where it is not any more.
    ready_until: Option<u64>,
    is_leaving: bool,
    left_at: u64,
    is_evicted: bool,
    /// Its node is taken for dead.
    is_lost: bool,
}

impl Seen {
    fn has_ended(&self) -> bool {
        self.phase == "Succeeded" || self.phase == "Failed"
    }

    fn counts(&self) -> bool {
        !self.is_leaving && !self.has_ended()
    }

    /// Whoever decides knows by now that it is ready.
    fn is_known_ready(&self, now: u64) -> bool {
        self.is_ready && now > self.ready_since + LAG
    }

    fn was_ready(&self, now: u64) -> bool {
        self.is_ready || self.ready_until.is_some_and(|until| now <= until + LAG)
    }
}

struct Deployment {
    unavailable: i64,
    surge: i64,
    replicas: Recent,
}

struct Set {
    /// The uid of its deployment.
    owner: String,
    replicas: Recent,
}

/// A number as it is, and as it was not long ago: with each, until when.
#[derive(Default)]
struct Recent(Vec<(i64, Option<u64>)>);

impl Recent {
    /// What it was before, if it changes.
    fn set(&mut self, number: i64, now: u64) -> Option<i64> {
        let before = self.0.last().map(|(last, _)| *last).filter(|last| *last != number);
        match self.0.last_mut() {
            Some((last, _)) if *last == number => return None,
            Some((_, until)) => *until = Some(now),
            None => (),
        }
        self.0.push((number, None));
        self.0.retain(|(_, until)| until.is_none_or(|until| now <= until + LAG));
        before
    }

    fn least(&self, now: u64) -> i64 {
        self.all(now).min().unwrap_or(0)
    }

    fn most(&self, now: u64) -> i64 {
        self.all(now).max().unwrap_or(0)
    }

    fn all(&self, now: u64) -> impl Iterator<Item = i64> {
        self.0.iter().filter(move |(_, until)| until.is_none_or(|until| now <= until + LAG)).map(|(n, _)| *n)
    }
}

impl Laws {
    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub fn saw(&mut self, event: &Event, now: u64) {
        if self.next.is_some_and(|next| event.revision < next) {
            return;
        }
        self.held.insert(event.revision, event.clone());
        let mut next = self.next.unwrap_or(Revision(1));
        // Who applied it ended before anybody saw that, and the others were sent a snapshot.
        if self.held.len() > HELD_MAX
            && let Some(first) = self.held.keys().next()
        {
            next = *first;
        }
        while let Some(event) = self.held.remove(&next) {
            next = next.next();
            self.look(&event, now);
        }
        self.next = Some(next);
    }

    fn look(&mut self, event: &Event, now: u64) {
        let object = &event.object;
        let is_gone = event.kind == EventKind::Deleted;
        if object.key.resource == PODS {
            self.pod(object, is_gone, now);
        } else if object.key.resource == DEPLOYMENTS {
            self.deployment(object, is_gone, now);
        } else if object.key.resource == REPLICA_SETS && !is_gone {
            self.set(object, now);
        } else if object.key.resource == ENDPOINT_SLICES {
            if is_gone {
                self.offers(&object.key, BTreeSet::new(), event.revision);
            } else {
                self.offers(&object.key, offered(object.value()), event.revision);
            }
        }
    }

    fn pod(&mut self, object: &Object, is_gone: bool, now: u64) {
        if is_gone {
            if let Some(gone) = self.pods.remove(&object.key) {
                self.withdrawn.remove(&gone.uid);
            }
            return;
        }
        let mut new = seen(object, now);
        let old = self.pods.get(&object.key).filter(|old| old.uid == new.uid);
        let (mut is_bound, mut begins_to_leave, is_added) = (false, false, old.is_none());
        if let Some(old) = old {
            is_bound = old.node.is_none() && new.node.is_some();
            if old.node.is_some() && old.node != new.node {
                let what = format!("pod {} was bound to {:?} and then to {:?}", object.key, old.node, new.node);
                return self.fail(what);
            }
            if old.has_ended() && old.phase != new.phase {
                return self.fail(format!("pod {} was {} and then {}", object.key, old.phase, new.phase));
            }
            begins_to_leave = new.is_leaving && !old.is_leaving;
            new.left_at = if old.is_leaving { old.left_at } else { now };
            if old.is_ready {
                new.ready_since = old.ready_since;
            }
            if !new.is_ready {
                new.ready_until = if old.is_ready { Some(now) } else { old.ready_until };
            }
        }
        if is_added && object.meta.controller().is_some_and(|owner| owner.kind == "StatefulSet") {
            self.identities.insert(new.uid.clone(), object.key.clone());
        }
        let (set, was_ready) = (new.owner.clone(), new.is_ready);
        let (is_evicted, is_lost, node, counts) = (new.is_evicted, new.is_lost, new.node.clone(), new.counts());
        self.pods.insert(object.key.clone(), new);
        if let Some(node) = node.filter(|_| is_bound || is_added) {
            self.n_bound += 1;
            self.node(&node);
        }
        if begins_to_leave {
            self.n_evicted += u64::from(is_evicted);
            if was_ready && !is_lost {
                self.disruption(&object.key, &set, is_evicted, now);
            }
        }
        if is_added && counts {
            self.surplus(&object.key, &set, now);
        }
    }

    /// No node has more than it offers.
    fn node(&mut self, node: &str) {
        let here = || self.pods.values().filter(|pod| pod.node.as_deref() == Some(node) && !pod.has_ended());
        let (cpu, pods) = (here().map(|pod| pod.cpu).sum::<u64>(), here().count() as u64);
        if cpu > node::CPU_MILLIS || pods > node::PODS {
            self.fail(format!("{node} has {pods} pods that ask for {cpu}m, and offers {}m", node::CPU_MILLIS));
        }
    }

    /// A ready pod is asked to leave: are there enough others?
    fn disruption(&mut self, key: &Key, set: &str, is_evicted: bool, now: u64) {
        let Some((replicas, owner)) = self.sets.get(set).map(|set| (set.replicas.least(now), set.owner.clone())) else {
            return;
        };
        if !is_evicted {
            // What evictions took away meanwhile, the controller that counted its pods cannot know.
            let is_there = |pod: &Seen| pod.counts() || (pod.is_evicted && pod.is_leaving && now <= pod.left_at + LAG);
            let left = self.pods.values().filter(|pod| pod.owner == set && is_there(pod)).count() as i64;
            if left < replicas && self.deployments.contains_key(&owner) {
                self.fail(format!("{key} was deleted, and its set has {left} pods left of {replicas}"));
            }
            return;
        }
        let Some(deployment) = self.deployments.get(&owner) else { return };
        let wanted = deployment.replicas.least(now);
        let others = self.pods.iter().filter(|(other, pod)| *other != key && self.is_of(pod, &owner));
        // What somebody else took away meanwhile, an eviction cannot know; what evictions did, it must.
        let is_there = |pod: &Seen| !pod.is_leaving || (!pod.is_evicted && now <= pod.left_at + LAG);
        let n_others = others.filter(|(_, pod)| pod.was_ready(now) && is_there(pod)).count() as i64;
        if n_others < wanted - BUDGET {
            self.fail(format!(
                "{key} was evicted when {n_others} others of {wanted} were ready, and {BUDGET} may miss"
            ));
        }
    }

    /// A pod was made: are there too many?
    fn surplus(&mut self, key: &Key, set: &str, now: u64) {
        let Some(most) = self.sets.get(set).map(|set| set.replicas.most(now)) else { return };
        let there = self.pods.values().filter(|pod| pod.owner == set && pod.counts()).count() as i64;
        if there > most {
            self.fail(format!("{key} is pod {there} of its set, which may have {most}"));
        }
    }

    fn is_of(&self, pod: &Seen, deployment: &str) -> bool {
        self.sets.get(&pod.owner).is_some_and(|set| set.owner == deployment)
    }

    fn deployment(&mut self, object: &Object, is_gone: bool, now: u64) {
        if is_gone {
            self.deployments.remove(&object.meta.uid);
            return;
        }
        let number = |path: &str| object.value().pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let known = self.deployments.entry(object.meta.uid.clone()).or_insert_with(|| Deployment {
            unavailable: number("/spec/strategy/rollingUpdate/maxUnavailable"),
            surge: number("/spec/strategy/rollingUpdate/maxSurge"),
            replicas: Recent::default(),
        });
        known.replicas.set(number("/spec/replicas"), now);
    }

    /// A ReplicaSet changes: does its deployment keep to what it was told?
    fn set(&mut self, object: &Object, now: u64) {
        let pointer = |path: &str| object.value().pointer(path);
        let replicas = pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        let owner = pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        let uid = object.meta.uid.clone();
        let known =
            self.sets.entry(uid.clone()).or_insert_with(|| Set { owner: owner.clone(), replicas: Recent::default() });
        let is_new = known.replicas.0.is_empty();
        let before = known.replicas.set(replicas, now).unwrap_or(if is_new { 0 } else { replicas });
        let Some(deployment) = self.deployments.get(&owner) else { return };
        if replicas > before {
            let own = self.sets.values().filter(|set| set.owner == owner);
            let all: i64 = own.filter_map(|set| set.replicas.0.last()).map(|(n, _)| *n).sum();
            let most = deployment.replicas.most(now) + deployment.surge;
            if all > most {
                self.fail(format!("{} makes it {all} pods of a deployment that may have {most}", object.key));
            }
        } else if replicas < before {
            // That a node took pods with it, the set may not have said yet.
            let is_taken = |pod: &Seen| pod.is_leaving && (pod.is_lost || pod.is_evicted) && now <= pod.left_at + LAG;
            let own = |pod: &&Seen| (pod.counts() || is_taken(pod)) && self.is_of(pod, &owner);
            let pods = || self.pods.values().filter(own);
            let ready = pods().filter(|pod| pod.was_ready(now)).count() as i64;
            // Those that are not ready, or not there yet, may always go.
            let known = |pod: &&Seen| pod.owner == uid && pod.is_known_ready(now) && pod.counts();
            let unready = before - pods().filter(known).count() as i64;
            let left = ready - (before - replicas - unready).max(0);
            let least = deployment.replicas.least(now) - deployment.unavailable;
            // One that has another size shares the change among its sets, whatever is ready.
            let is_resized = deployment.replicas.all(now).count() > 1;
            if left < least && before - replicas > unready && !is_resized {
                self.fail(format!("{} leaves {left} pods ready of a deployment that needs {least}", object.key));
            }
        }
    }

    /// A slice offers these pods from this change on.
    fn offers(&mut self, slice: &Key, offered: BTreeSet<String>, revision: Revision) {
        let before = self.slices.insert(slice.clone(), offered.clone()).unwrap_or_default();
        let gone = before.difference(&offered).map(|uid| (uid.clone(), revision));
        self.withdrawn.extend(gone);
        self.withdrawn.retain(|uid, _| !offered.contains(uid));
    }

    /// What a node's data path must contain before this pod is stopped; `None` if it was never offered, or is still.
    pub fn withdrawn(&self, uid: &str) -> Option<Revision> {
        self.withdrawn.get(uid).copied()
    }

    /// No two pods of one identity run at once. `here` and `all` are the uids of pods with running containers.
    pub fn run<'a>(&mut self, here: impl Iterator<Item = &'a str>, all: impl Iterator<Item = &'a str> + Clone) {
        let running = here.filter_map(|uid| Some((uid, self.identities.get(uid)?)));
        let twins = running.filter_map(|(uid, key)| {
            let twin = all.clone().find(|other| *other != uid && self.identities.get(*other) == Some(key))?;
            Some(format!("{key} runs twice, as {uid} and as {twin}"))
        });
        if let Some(twins) = { twins }.next() {
            self.fail(twins);
        }
    }

    pub fn is_offered(&self, uid: &str) -> bool {
        self.slices.values().any(|offered| offered.contains(uid))
    }
}

fn seen(object: &Object, now: u64) -> Seen {
    let value = object.value();
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
    let condition = |kind: &str| conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    let cpu = text("/spec/containers/0/resources/requests/cpu");
    Seen {
        uid: object.meta.uid.clone(),
        owner: text("/metadata/ownerReferences/0/uid"),
        node: object.node.as_deref().map(str::to_owned),
        cpu: cpu.strip_suffix('m').and_then(|milli| milli.parse().ok()).unwrap_or(0),
        phase: text("/status/phase"),
        is_ready: condition("Ready").is_some_and(|condition| condition["status"] == "True"),
        ready_since: now,
        ready_until: None,
        is_leaving: object.meta.is_leaving(),
        left_at: now,
        is_evicted: condition("DisruptionTarget").is_some_and(|condition| condition["reason"] == EVICTED),
        is_lost: condition("DisruptionTarget").is_some_and(|condition| condition["reason"] != EVICTED),
    }
}

/// The uids of pods that a slice offers.
fn offered(slice: &Value) -> BTreeSet<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)));
    ready.filter_map(|endpoint| endpoint.pointer("/targetRef/uid")?.as_str()).map(str::to_owned).collect()
}
