//! Replaces the pods of a template by those of another, without a gap.
//!
//! A deployment owns one ReplicaSet for every template it ever had, up to a limit. Rolling out means growing the set of
//! the present template and shrinking the others, never with more pods in all than `maxSurge` allows, and never with fewer
//! available than `maxUnavailable` allows. Rolling back means that the present template is an old one again.
//!
//! All sizes are decided on `Rollout`, a draft of the sets as they should be; what differs from the sets as they are is
//! written at the end, one patch a set.

mod progress;
mod revision;
mod rollout;
mod sizes;

use copepod_api::{
    Key, Plan, Timestamp, User,
    k8s_openapi::api::apps::v1::{Deployment, ReplicaSet},
    resource,
    selector::LabelSelector,
};
use copepod_store::{Event, EventKind, View};

use self::rollout::Rollout;
use crate::{Controller, owned::Claims, pods, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "deployment-controller", wakes, all, reconcile, refused: crate::SILENT };

fn all(view: &View) -> Vec<Key> {
    view.objects(&resource::DEPLOYMENTS, None).map(|deployment| deployment.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    let mut woken = Vec::new();
    if key.resource == resource::DEPLOYMENTS {
        woken.push(key.clone());
    } else if key.resource == resource::REPLICA_SETS {
        for set in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
            match set.meta.controller() {
                Some(owner) => {
                    woken.push(Key::new(resource::DEPLOYMENTS, key.name.namespace.clone(), owner.name.as_str()));
                }
                // Nobody's: whoever selects it may adopt it.
                None => woken.extend(
                    view.list::<Deployment>(Some(key.namespace()))
                        .filter(|d| selector(d).is_ok_and(|selector| selector.matches(&set.meta.labels)))
                        .map(|d| d.key().clone()),
                ),
            }
        }
    } else if key.resource == resource::PODS && event.kind != EventKind::Added {
        // `Recreate` waits for the last old pod, which its set no longer counts.
        let gone = event.kind == EventKind::Deleted || pods::has_ended(&event.object);
        let set = event.object.meta.controller().filter(|owner| gone && owner.kind == "ReplicaSet");
        let set = set.and_then(|owner| view.get::<ReplicaSet>(key.namespace(), &owner.name));
        if let Some(owner) = set.as_ref().and_then(|set| set.meta().controller()) {
            woken.push(Key::new(resource::DEPLOYMENTS, key.name.namespace.clone(), owner.name.as_str()));
        }
    }
    woken.sort();
    woken.dedup();
    woken
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let mut plan = Plan::nothing();
    let Some(deployment) = view.get::<Deployment>(key.namespace(), key.name()) else {
        return plan;
    };
    let selector = match selector(&deployment) {
        Ok(selector) if !selector.is_everything() => selector,
        Ok(_) => {
            plan.because("spec.selector is empty: it would select every pod");
            return plan;
        }
        Err(error) => {
            plan.because(format!("spec.selector cannot be read: {error}"));
            return plan;
        }
    };
    let user = User::system("system:controller:deployment-controller");
    let claims = Claims::of::<ReplicaSet, Deployment>(view, &deployment, &selector);
    let mut rollout = Rollout::read(view, &deployment, &claims.own_as());

    if deployment.meta().is_leaving() || !write::is_open(view, key.namespace()) {
        // Its sets are the garbage collector's; only the status is kept true.
    } else if !claims.adopt.is_empty() || !claims.release.is_empty() {
        // Sets must be the deployment's own before they are resized: they are looked at again as soon as they are.
        plan.requests.extend(claims.settle(&user, &deployment));
    } else if rollout.is_paused() || rollout.was_resized() {
        rollout.note_revision();
        rollout.scale_in_proportion();
        if rollout.is_paused() {
            rollout.forget_old_sets();
        }
    } else if rollout.is_recreate() {
        if !rollout.stop_old_pods(view) {
            rollout.ensure_new_set(view);
            rollout.grow_new();
        }
    } else {
        rollout.ensure_new_set(view);
        rollout.grow_new();
        rollout.shrink_old();
    }
    if rollout.is_complete() {
        rollout.forget_old_sets();
    }

    rollout.write(&mut plan, view, &user, now);
    progress::write(&mut plan, &user, &rollout, now);
    plan
}

fn selector(deployment: &Deployment) -> Result<LabelSelector, String> {
    let spec = deployment.spec.as_ref().ok_or("it has no spec")?;
    LabelSelector::from_typed(&spec.selector)
}

#[cfg(test)]
mod tests;
