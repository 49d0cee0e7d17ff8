//! `pods/eviction`: a deletion that asks the pod's disruption budget first.
//!
//! The budget's count is lowered in the transaction that deletes the pod, so two evictions never share one allowance.

use std::sync::Arc;

use copepod_api::{
    Action, DeleteOptions, Object, Of, Reply, Request, Resource, Revision, Status, StatusResult, Timestamp,
    field::Errors,
    k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta,
    request::{Disruption, Propagation},
    resource::{POD_DISRUPTION_BUDGETS, PODS},
    selector::LabelSelector,
    time,
};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use serde::Deserialize;
use serde_json::{Value, json};

use super::set_condition;
use crate::{
    Row, json,
    json::text,
    pipeline::{World, delete_object, store_update, success},
};

/// How many evictions may be on their way unseen by the budget's controller.
const DISRUPTED_PODS_MAX: usize = 2_000;

/// How many pods a refusal names.
const BLOCKING_SHOWN_MAX: usize = 3;

pub fn evict(world: &mut World<'_>, row: &Row, request: &Request) -> StatusResult<Reply> {
    let Action::Create { object } = &request.action else {
        return Err(Status::method_not_allowed("pods/eviction allows create"));
    };
    let eviction = Eviction::deserialize(object).map_err(|error| {
        Status::bad_request(format!("Eviction in version \"v1\" cannot be handled as a Eviction: {error}"))
    })?;
    let options = options(eviction.delete_options)?;
    let live = world.find(row, &request.target)?;
    if let Some(uid) = options.uid.as_ref().filter(|uid| **uid != live.meta.uid) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.meta.uid);
        return Err(Status::conflict(&live.key.resource, live.key.name(), why));
    }

    if counts_for_budgets(&live) {
        ask_budget(world, &live)?;
    }
    delete_object(world, row, &live, &options)?;
    Ok(world.reply_value(&success(Some(201)), true))
}

/// Writes into a pod that begins to leave whether others end it.
pub fn mark_disrupted(pod: &mut Value, options: &DeleteOptions, now: Timestamp) {
    if let Some(Disruption { reason, message }) = &options.disruption {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message});
        set_condition(pod, condition, &time::rfc3339(now));
    }
}

fn options(options: Option<meta::DeleteOptions>) -> StatusResult<DeleteOptions> {
    let options = options.unwrap_or_default();
    let preconditions = options.preconditions.unwrap_or_default();
    let revision = preconditions.resource_version.map(|revision| revision.parse().map(Revision)).transpose();
    let revision =
        revision.map_err(|_| Status::bad_request("deleteOptions.preconditions.resourceVersion: must be a number"))?;
    Ok(DeleteOptions {
        grace_period_seconds: options.grace_period_seconds,
        propagation: match options.propagation_policy.as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let mut errors = Errors::default();
                errors.not_supported("propagationPolicy", other, &["Foreground", "Background", "Orphan"]);
                return Err(Status::bad_request(errors.causes()[0].message.clone().unwrap_or_default()));
            }
        },
        uid: preconditions.uid,
        revision,
        disruption: Some(Disruption {
            reason: "EvictionByEvictionAPI".into(),
            message: "Eviction API: evicting".into(),
        }),
    })
}

/// A pod that has ended, has not begun, or is already leaving costs no budget anything.
fn counts_for_budgets(pod: &Object) -> bool {
    let phase = text(pod.value(), "/status/phase").unwrap_or_default();
    !pod.meta.is_leaving() && !["Succeeded", "Failed", "Pending"].contains(&phase)
}

/// Ready to serve, and to stay.
fn is_healthy(pod: &Object) -> bool {
    let facts = pod.facts();
    facts.is_ready && !facts.has_ended() && !pod.meta.is_leaving()
}

fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    let typed = budget.spec.as_ref()?.selector.as_ref()?;
    LabelSelector::from_typed(typed).ok()
}

/// Takes one disruption from the pod's budget, or says who is in the way.
fn ask_budget(world: &mut World<'_>, pod: &Arc<Object>) -> StatusResult<()> {
    let namespace = pod.key.namespace();
    let budgets: Vec<Of<PodDisruptionBudget>> = world
        .view
        .list::<PodDisruptionBudget>(Some(namespace))
        .filter(|budget| selector(budget).is_some_and(|selector| selector.matches(&pod.meta.labels)))
        .collect();
    let budget = match &budgets[..] {
        [] => return Ok(()),
        [budget] => budget,
        several => {
            let names: Vec<&str> = several.iter().map(|budget| budget.key().name()).collect();
            return Err(Status::new(
                500,
                "InternalError",
                format!(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support: {}",
                    names.join(", ")
                ),
            ));
        }
    };
    let name = budget.key().name();
    let empty = Default::default();
    let status = budget.status.as_ref().unwrap_or(&empty);
    let desired = status.desired_healthy.unwrap_or(0);
    // The status is as old as its controller's last look, and pods may have fallen since: with a new leader, by seconds.
    let healthy = pods_of(world, budget).filter(|pod| is_healthy(pod)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX).min(status.current_healthy.unwrap_or(0));
    let allowed = status.disruptions_allowed.unwrap_or(0).min(healthy - desired);
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    if !pod.facts().is_ready && (policy == Some("AlwaysAllow") || (healthy >= desired && desired > 0)) {
        return Ok(());
    }

    if status.observed_generation.unwrap_or(0) < budget.meta().generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refusal().with_cause("DisruptionBudget", "", why));
    }
    if allowed <= 0 {
        let why = format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently{}",
            blocking(world, budget)
        );
        return Err(refusal().with_cause("DisruptionBudget", "", why));
    }
    if status.disrupted_pods.as_ref().map_or(0, |pods| pods.len()) >= DISRUPTED_PODS_MAX {
        let resource = Resource::known("policy", "poddisruptionbudgets");
        return Err(Status::forbidden(
            &resource,
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }

    let mut new = budget.object().value().clone();
    let now = time::rfc3339(world.now);
    if let Some(status) = json::object(&mut new, "status") {
        json::set(status, "disruptionsAllowed", allowed - 1);
        if let Some(disrupted) = json::object(status, "disruptedPods") {
            json::set(disrupted, pod.key.name(), &*now);
        }
    }
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": status.observed_generation.unwrap_or(0),
        });
        set_condition(&mut new, condition, &now);
    }
    let Some(row) = crate::row(&POD_DISRUPTION_BUDGETS, "v1") else { return Ok(()) };
    store_update(world, row, budget.object(), &new).map(|_| ())
}

/// Without a time to ask again: client libraries would wait for it silently, and keep from people what is in the way.
fn refusal() -> Status {
    Status::new(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
}

fn pods_of<'a>(world: &'a World<'_>, budget: &'a Of<PodDisruptionBudget>) -> impl Iterator<Item = &'a Arc<Object>> {
    let selector = selector(budget).unwrap_or_else(LabelSelector::nothing);
    let pods = world.view.objects(&PODS, Some(budget.key().namespace()));
    pods.filter(move |pod| selector.matches(&pod.meta.labels))
}

/// The pods of a budget that are not ready: when they are, the eviction can go on.
fn blocking(world: &World<'_>, budget: &Of<PodDisruptionBudget>) -> String {
    let names: Vec<&str> = pods_of(world, budget).filter(|pod| !is_healthy(pod)).map(|pod| pod.key.name()).collect();
    match names.len() {
        0 => String::new(),
        1 => format!("; pod {} is not ready", names[0]),
        count if count > BLOCKING_SHOWN_MAX => {
            let rest = count - BLOCKING_SHOWN_MAX;
            format!("; pods {} and {rest} more are not ready", names[..BLOCKING_SHOWN_MAX].join(", "))
        }
        _ => format!("; pods {} are not ready", names.join(", ")),
    }
}
