//! Keeps pods that are somebody: each with a number, a name that stays, and storage that waits for it.
//!
//! A plan is one of three, and the next view brings the next one. First the set takes what it may adopt; then its template
//! gets a revision; then pods come and go (`order`), with their claims (`claims`).

mod claims;
mod history;
mod identity;
mod members;
mod order;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use copepod_api::{
    Action, DeleteOptions, Key, Object, Of, Plan, Request, Status, Timestamp, Typed, User,
    k8s_openapi::{
        self,
        api::{
            apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus},
            core::v1::{PersistentVolumeClaim, Pod},
        },
    },
    resource,
    selector::LabelSelector,
    time as api_time,
};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use self::{history::History, members::Members, order::Draft};
use crate::{
    Controller, made,
    owned::Claims,
    pods,
    replicas::{self, number},
    time, write,
};

pub const CONTROLLER: Controller = Controller { name: "statefulset-controller", wakes, all, reconcile, refused };

/// The condition of a set whose pods are refused.
const FAILURE: &str = "ReplicaFailure";

fn all(view: &View) -> Vec<Key> {
    view.objects(&StatefulSet::resource(), None).map(|set| set.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let (key, is_gone) = (&event.object.key, event.kind == EventKind::Deleted);
    let named = |name: &str| Key::new(StatefulSet::resource(), key.name.namespace.clone(), name);
    let mut woken = Vec::new();
    if key.resource == StatefulSet::resource() {
        woken.push(key.clone());
    } else if key.resource == resource::PODS || key.resource == ControllerRevision::resource() {
        for object in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
            match object.meta.controller() {
                Some(owner) if owner.kind == <StatefulSet as k8s_openapi::Resource>::KIND => {
                    woken.push(named(&owner.name));
                }
                Some(_) => {}
                // Nobody's: whoever selects it may adopt it.
                None => woken.extend(
                    view.list::<StatefulSet>(Some(key.namespace()))
                        .filter(|set| selector(set).is_ok_and(|selector| selector.matches(&object.meta.labels)))
                        .map(|set| set.key().clone()),
                ),
            }
        }
        // Whoever it belonged to, its name is free.
        let set = identity::set_of(key.name()).filter(|_| is_gone && key.resource == resource::PODS).map(named);
        woken.extend(set.filter(|set| view.object(set).is_some()));
    } else if key.resource == PersistentVolumeClaim::resource() && is_gone {
        let sets = view.list::<StatefulSet>(Some(key.namespace()));
        woken.extend(sets.filter(|set| claims::is_of(set, key.name())).map(|set| set.key().clone()));
    }
    woken.sort();
    woken.dedup();
    woken
}

fn selector(set: &StatefulSet) -> Result<LabelSelector, String> {
    let spec = set.spec.as_ref().ok_or("it has no spec")?;
    LabelSelector::from_typed(&spec.selector)
}

/// What a decision about a set rests on.
struct Work<'a> {
    view: &'a View,
    user: &'a User,
    set: &'a Of<StatefulSet>,
    spec: &'a StatefulSetSpec,
    now: Timestamp,
}

impl Work<'_> {
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn say(&self, plan: &mut Plan, kind: &str, reason: &str, message: String) {
        write::announce(plan, self.view, self.user, self.set.object(), write::News { kind, reason, message }, self.now);
    }
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let user = User::system("system:controller:statefulset-controller");
    let mut plan = Plan::nothing();
    let Some(set) = view.get::<StatefulSet>(key.namespace(), key.name()) else { return plan };
    let selector = match selector(&set) {
        Ok(selector) => selector,
        Err(error) => {
            plan.because(format!("spec.selector cannot be read: {error}"));
            return plan;
        }
    };
    let Some(spec) = set.spec.as_ref() else { return plan };
    let work = Work { view, user: &user, set: &set, spec, now };
    let (pods, revisions) = claim(&work, &selector);
    let members = Members::of(&work, &pods.own);

    if set.meta().is_leaving() || !write::is_open(view, key.namespace()) {
        // What it has is the garbage collector's; only the status is kept true.
        report(&mut plan, &work, &members, &Names::known(&set), &Draft::default());
        return plan;
    }
    plan.requests.extend(pods.settle(&user, &set));
    plan.requests.extend(revisions.settle(&user, &set));
    if !plan.requests.is_empty() {
        return plan;
    }
    let history = History::read(&work, &revisions.own);
    let names = Names::of(&history);
    if let Some(request) = history.request.clone() {
        plan.push(request);
        report(&mut plan, &work, &members, &names, &Draft::default());
        return plan;
    }
    let is_refused = known_conditions(&set).iter().any(is_failure);
    let draft = order::draft(&work, &members, &history.update.name, is_refused);
    tend(&mut plan, &work, &members);
    create(&mut plan, &work, &members, &history, &draft);
    delete(&mut plan, &work, &draft);
    plan.requests.extend(history.forget(&work, members.all()));
    report(&mut plan, &work, &members, &names, &draft);
    plan.look_again_at(members.next_change());
    plan.reasons.extend(draft.waits);
    plan
}

/// Pods and revisions of the set. Only a pod of the right name can be one of its pods.
fn claim(work: &Work<'_>, selector: &LabelSelector) -> (Claims, Claims) {
    let mut pods = Claims::of::<Pod, StatefulSet>(work.view, work.set, selector);
    let set = work.set.key().name();
    let is_member = |pod: &Arc<Object>| identity::ordinal(set, pod.key.name()).is_some();
    pods.adopt.retain(is_member);
    let strangers = pods.own.extract_if(.., |pod| !is_member(pod));
    let strangers = strangers.filter(|pod| pod.meta.controller().is_some() && !pod.meta.is_leaving());
    pods.release.extend(strangers);
    let mut revisions = Claims::of::<ControllerRevision, StatefulSet>(work.view, work.set, selector);
    // The template that it holds may have had other labels; it is the set's all the same.
    revisions.own.append(&mut revisions.release);
    (pods, revisions)
}

/// Keeps the pods that are there what they should be: their labels, their claims, and who owns those.
fn tend(plan: &mut Plan, work: &Work<'_>, members: &Members<'_>) {
    for (ordinal, pod) in members.wanted() {
        plan.requests.extend(claims::retain(work, ordinal, pod, false));
        if pod.meta.is_leaving() {
            continue;
        }
        plan.requests.extend(identity::repaired(pod, ordinal).map(|patch| write::patch(work.user, pod, patch)));
        if pods::is_waiting(pod) {
            plan.requests.extend(claims::missing(work, ordinal));
        }
    }
    for (ordinal, pod) in members.surplus() {
        plan.requests.extend(claims::retain(work, ordinal, pod, true));
    }
}

fn create(plan: &mut Plan, work: &Work<'_>, members: &Members<'_>, history: &History, draft: &Draft<'_>) {
    let (set, namespace) = (work.set.key().name(), work.set.key().namespace());
    let mut claims = Vec::new();
    let mut names = Vec::new();
    for ordinal in &draft.create {
        let name = identity::name(set, *ordinal);
        for claim in claims::missing(work, *ordinal) {
            claims.push(format!("create Claim {} Pod {name} in StatefulSet {set} success", claim.target.name));
            plan.push(claim);
        }
        let revision = history.of(work, *ordinal, members.range.start);
        let object = identity::pod(work.set, *ordinal, &revision.template, &revision.name);
        plan.push(Request::of::<Pod>(work.user, namespace, &name, "", Action::Create { object }));
        names.push(name);
    }
    for message in claims.into_iter().take(made::NAMES_IN_EVENT) {
        work.say(plan, "Normal", "SuccessfulCreate", message);
    }
    if !names.is_empty() {
        let message = format!("create {} in StatefulSet {set} successful", made::named("Pod", &names));
        work.say(plan, "Normal", "SuccessfulCreate", message);
    }
}

fn delete(plan: &mut Plan, work: &Work<'_>, draft: &Draft<'_>) {
    let names: Vec<String> = draft.delete.iter().map(|pod| pod.key.name().to_owned()).collect();
    plan.requests.extend(draft.delete.iter().map(|pod| write::delete(work.user, pod, DeleteOptions::default())));
    if !names.is_empty() {
        let set = work.set.key().name();
        let message = format!("delete {} in StatefulSet {set} successful", made::named("Pod", &names));
        work.say(plan, "Normal", "SuccessfulDelete", message);
    }
}

/// What a status calls its revisions.
struct Names {
    current: String,
    update: String,
    collisions: Option<i32>,
}

impl Names {
    fn of(history: &History) -> Names {
        Names {
            current: history.current.name.clone(),
            update: history.update.name.clone(),
            collisions: Some(history.collisions),
        }
    }

    fn known(set: &StatefulSet) -> Names {
        let status = set.status.clone().unwrap_or_default();
        Names {
            current: status.current_revision.unwrap_or_default(),
            update: status.update_revision.unwrap_or_default(),
            collisions: status.collision_count,
        }
    }
}

fn report(plan: &mut Plan, work: &Work<'_>, members: &Members<'_>, names: &Names, draft: &Draft<'_>) {
    let mut conditions = known_conditions(work.set);
    if members.n_missing() == 0 {
        conditions.retain(|condition| !is_failure(condition));
    }
    let status = status(work, members, names, draft, conditions);
    if work.set.status.as_ref() != Some(&status) {
        plan.push(write::status(work.user, work.set, &status));
    }
}

fn status(
    work: &Work<'_>,
    members: &Members<'_>,
    names: &Names,
    draft: &Draft<'_>,
    conditions: Vec<Value>,
) -> StatefulSetStatus {
    // What this plan deletes, the next one does not find, or finds leaving.
    let doomed: BTreeSet<&str> = draft.delete.iter().map(|pod| pod.meta.uid.as_str()).collect();
    let counts = |pod: &Object| !pod.meta.is_leaving() && !doomed.contains(pod.meta.uid.as_str());
    let count = |is: &dyn Fn(&Object) -> bool| number(members.all().filter(|pod| is(pod)).count());
    let of = |name: &str| count(&|pod| counts(pod) && identity::revision(pod) == Some(name));
    let some = |count: i32| (count > 0).then_some(count);
    let text = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let (replicas, updated) = (count(&|_| true), of(&names.update));
    let ready = count(&|pod| pods::is_ready(pod) && !pods::has_ended(pod));
    let strategy = work.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    // The rollout is over when every pod is new and ready; from then on the new revision is the current one.
    let is_over = strategy != Some("OnDelete") && [replicas, updated, ready] == [work.replicas(); 3];
    let current = if is_over { &names.update } else { &names.current };
    StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|pod| members.is_relied_on(pod))),
        current_replicas: some(of(current)),
        updated_replicas: some(updated),
        current_revision: text(current),
        update_revision: text(&names.update),
        collision_count: names.collisions,
        observed_generation: Some(work.set.meta().generation),
        conditions: replicas::conditions(conditions),
    }
}

/// Says why a pod cannot be made (a quota is used up, a policy forbids it), on the set and as an event.
fn refused(view: &View, key: &Key, why: &Status, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let user = User::system("system:controller:statefulset-controller");
    let mut plan = Plan::nothing();
    let set = view.get::<StatefulSet>(key.namespace(), key.name()).filter(|set| !set.meta().is_leaving());
    let Some((set, selector)) = set.and_then(|set| selector(&set).ok().map(|selector| (set, selector))) else {
        return plan;
    };
    let Some(spec) = set.spec.as_ref() else { return plan };
    let work = Work { view, user: &user, set: &set, spec, now };
    let (pods, revisions) = claim(&work, &selector);
    let (members, history) = (Members::of(&work, &pods.own), History::read(&work, &revisions.own));
    let first = order::draft(&work, &members, &history.update.name, true).create.first().copied();
    let Some(first) = first.filter(|_| history.request.is_none()) else { return plan };

    // The plan that was refused had a status in it. What else has changed is to be told, whoever forbids the pod.
    let mut conditions = known_conditions(&set);
    let message = why.message().to_owned();
    if !conditions.iter().any(|condition| is_failure(condition) && condition["message"] == message) {
        conditions.retain(|condition| !is_failure(condition));
        conditions.push(json!({
            "type": FAILURE, "status": "True", "reason": "FailedCreate", "message": message,
            "lastTransitionTime": api_time::rfc3339(now),
        }));
    }
    let status = status(&work, &members, &Names::of(&history), &Draft::default(), conditions);
    if set.status.as_ref() != Some(&status) {
        plan.push(write::status(&user, &set, &status));
    }
    let (name, set) = (identity::name(key.name(), first), key.name());
    let message = format!("create Pod {name} in StatefulSet {set} failed error: {message}");
    work.say(&mut plan, "Warning", "FailedCreate", message);
    plan
}

fn known_conditions(set: &Of<StatefulSet>) -> Vec<Value> {
    set.object().value()["status"]["conditions"].as_array().cloned().unwrap_or_default()
}

fn is_failure(condition: &Value) -> bool {
    condition["type"] == FAILURE
}
