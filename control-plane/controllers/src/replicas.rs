//! Keeps as many pods of a template alive as are wanted: what ReplicaSets and ReplicationControllers have in common.

mod rank;
mod replace;

use std::{cmp::Ordering, sync::Arc};

use copepod_api::{
    Action, DeleteOptions, Key, Object, Of, Plan, Request, Status, Timestamp, Typed, User,
    k8s_openapi::api::core::v1::{Pod, PodTemplateSpec},
    resource,
    selector::LabelSelector,
    time as api_time,
};
use copepod_store::{Event, View};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    made,
    owned::Claims,
    pods::{self, Fate},
    time, write,
};

/// How many pods one plan creates or deletes. A larger set grows in several transactions, so that no single one holds up
/// everybody else's for long.
const BURST: usize = 500;

/// The condition of a set whose pods are refused.
const FAILURE: &str = "ReplicaFailure";

/// A kind whose objects want a number of equal pods.
pub trait Replicated: Typed {
    type Status: Serialize + PartialEq;
    /// Who writes.
    const USER: &'static str;

    fn selector(&self) -> Result<LabelSelector, String>;
    fn wanted(&self) -> Option<i32>;
    fn min_ready_seconds(&self) -> Option<i32>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn reported(&self) -> Option<&Self::Status>;
    fn status(set: &Of<Self>, counts: &Counts, conditions: Vec<Value>) -> Self::Status;
}

/// What a status says about the pods.
#[derive(Default)]
pub struct Counts {
    pub all: usize,
    pub fully_labeled: usize,
    pub ready: usize,
    pub available: usize,
    pub leaving: usize,
}

impl Counts {
    /// Kubernetes leaves zeros out.
    pub fn some(&self, count: usize) -> Option<i32> {
        (count > 0).then(|| number(count))
    }
}

pub fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Conditions as a kind types them; none where there are none.
pub fn conditions<C: DeserializeOwned>(conditions: Vec<Value>) -> Option<Vec<C>> {
    let typed: Vec<C> = conditions.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect();
    (!typed.is_empty()).then_some(typed)
}

pub fn all<S: Replicated>(view: &View) -> Vec<Key> {
    view.objects(&S::resource(), None).map(|set| set.key.clone()).collect()
}

pub fn wakes<S: Replicated>(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == S::resource() {
        return vec![key.clone()];
    }
    if key.resource != resource::PODS {
        return Vec::new();
    }
    let mut woken = Vec::new();
    for pod in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
        match pod.meta.controller() {
            Some(owner) if owner.kind == S::KIND => {
                woken.push(Key::new(S::resource(), key.name.namespace.clone(), owner.name.as_str()));
            }
            Some(_) => {}
            // Nobody's: whoever selects it may adopt it.
            None => woken.extend(
                view.list::<S>(Some(key.namespace()))
                    .filter(|set| set.selector().is_ok_and(|selector| selector.matches(&pod.meta.labels)))
                    .map(|set| set.key().clone()),
            ),
        }
    }
    woken.sort();
    woken.dedup();
    woken
}

pub fn reconcile<S: Replicated>(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let Some(set) = view.get::<S>(key.namespace(), key.name()) else {
        return Plan::nothing();
    };
    let mut plan = Plan::nothing();
    let selector = match set.selector() {
        Ok(selector) => selector,
        Err(error) => {
            plan.because(format!("spec.selector cannot be read: {error}"));
            return plan;
        }
    };
    let user = User::system(S::USER);
    let claims = Claims::of::<Pod, S>(view, &set, &selector);
    let pods = Pods::classify(&set, &claims.own, now);
    let mut conditions = known_conditions(&set);

    if !set.meta().is_leaving() && write::is_open(view, key.namespace()) {
        plan.requests.extend(claims.settle(&user, &set));
        let wanted = usize::try_from(set.wanted().unwrap_or(1)).unwrap_or(0);
        match pods.kept.len().cmp(&wanted) {
            Ordering::Less => create_missing(&mut plan, view, &user, &set, wanted - pods.kept.len(), now),
            Ordering::Greater => delete_surplus(&mut plan, view, &user, &set, &pods, wanted, now),
            Ordering::Equal => {}
        }
        if pods.kept.len() >= wanted {
            conditions.retain(|condition| !is_failure(condition));
        }
        let gone = replace::replaced(&pods.replaced, pods.kept_available, wanted);
        plan.requests.extend(gone.iter().map(|pod| write::delete(&user, pod, DeleteOptions::default())));
        if pods.counts.available < wanted {
            plan.because(format!("{} of {wanted} pods are available", pods.counts.available));
        }
    }
    let status = S::status(&set, &pods.counts, conditions);
    if set.reported() != Some(&status) {
        plan.push(write::status(&user, &set, &status));
    }
    plan.look_again_at(pods.next_change);
    plan
}

/// Says on the object why its pods cannot be made (a quota is used up, a policy forbids them), for who looks after it.
pub fn refused<S: Replicated>(view: &View, key: &Key, why: &Status, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let Some(set) = view.get::<S>(key.namespace(), key.name()).filter(|set| !set.meta().is_leaving()) else {
        return Plan::nothing();
    };
    let user = User::system(S::USER);
    let mut plan = Plan::nothing();
    let message = why.message().to_owned();
    let mut known = known_conditions(&set);
    let is_known = known.iter().any(|condition| is_failure(condition) && condition["message"] == message);
    if !is_known {
        known.retain(|condition| !is_failure(condition));
        known.push(json!({
            "type": FAILURE, "status": "True", "reason": "FailedCreate", "message": message,
            "lastTransitionTime": api_time::rfc3339(now),
        }));
        let mut status = set.object().value()["status"].clone();
        status["conditions"] = json!(known);
        plan.push(write::status(&user, &set, &status));
    }
    let message = format!("Error creating: {message}");
    write::announce(
        &mut plan,
        view,
        &user,
        set.object(),
        write::News { kind: "Warning", reason: "FailedCreate", message },
        now,
    );
    plan
}

fn known_conditions<S: Replicated>(set: &Of<S>) -> Vec<Value> {
    set.object().value()["status"]["conditions"].as_array().cloned().unwrap_or_default()
}

fn is_failure(condition: &Value) -> bool {
    condition["type"] == FAILURE
}

/// The pods of a set, classified and counted.
struct Pods<'a> {
    /// Those that count: neither leaving nor ended, and not to be replaced.
    kept: Vec<&'a Arc<Object>>,
    kept_available: usize,
    /// Those that stay until others have taken their place.
    replaced: Vec<&'a Arc<Object>>,
    counts: Counts,
    /// When a ready pod will count as available.
    next_change: Option<Timestamp>,
}

impl<'a> Pods<'a> {
    fn classify<S: Replicated>(set: &Of<S>, own: &'a [Arc<Object>], now: Timestamp) -> Pods<'a> {
        let min_ready = set.min_ready_seconds().unwrap_or(0);
        let template = set.template().and_then(|template| template.metadata.as_ref());
        let template_labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let mut pods = Pods {
            kept: Vec::new(),
            kept_available: 0,
            replaced: Vec::new(),
            counts: Counts::default(),
            next_change: None,
        };
        for pod in own {
            let fate = pods::fate(pod, min_ready, now);
            match fate {
                Fate::Ended => continue,
                Fate::Leaving => {
                    pods.counts.leaving += 1;
                    continue;
                }
                Fate::Available => {
                    pods.counts.ready += 1;
                    pods.counts.available += 1;
                }
                Fate::Ready => {
                    pods.counts.ready += 1;
                    let at = pods::available_at(pod, min_ready);
                    pods.next_change = [pods.next_change, at].into_iter().flatten().min();
                }
                Fate::Starting => {}
            }
            let labels = &pod.meta.labels;
            if template_labels.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                pods.counts.fully_labeled += 1;
            }
            pods.counts.all += 1;
            if replace::is_wanted(&pod.meta) {
                pods.replaced.push(pod);
            } else {
                pods.kept_available += usize::from(fate == Fate::Available);
                pods.kept.push(pod);
            }
        }
        pods
    }
}

fn create_missing<S: Replicated>(
    plan: &mut Plan,
    view: &View,
    user: &User,
    set: &Of<S>,
    missing: usize,
    now: Timestamp,
) {
    // A plan goes whole or not at all. Where pods were refused before, as many as still fit are made one by one.
    let burst = if known_conditions(set).iter().any(is_failure) { 1 } else { BURST };
    let object = made::pod(set, &set.object().value()["spec"]["template"]);
    let names: Vec<String> = made::names(view, set, set.key().name()).take(missing.min(burst)).collect();
    for name in &names {
        let mut object = object.clone();
        object["metadata"]["name"] = json!(name);
        plan.push(Request::of::<Pod>(user, set.key().namespace(), name, "", Action::Create { object }));
    }
    let news = write::News { kind: "Normal", reason: "SuccessfulCreate", message: made::sentence("Created", &names) };
    write::announce(plan, view, user, set.object(), news, now);
}

fn delete_surplus<S: Replicated>(
    plan: &mut Plan,
    view: &View,
    user: &User,
    set: &Of<S>,
    pods: &Pods<'_>,
    wanted: usize,
    now: Timestamp,
) {
    let mut leaving = rank::first_to_go(view, set, &pods.kept, now);
    leaving.truncate((pods.kept.len() - wanted).min(BURST));
    let names: Vec<String> = leaving.iter().map(|pod| pod.key.name().to_owned()).collect();
    plan.requests.extend(leaving.iter().map(|pod| write::delete(user, pod, DeleteOptions::default())));
    let news = write::News { kind: "Normal", reason: "SuccessfulDelete", message: made::sentence("Deleted", &names) };
    write::announce(plan, view, user, set.object(), news, now);
}
