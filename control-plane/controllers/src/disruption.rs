//! Says of every disruption budget how many pods may be disturbed now.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::{
    Key, Of, Plan, Resource, Timestamp, User,
    k8s_openapi::{
        api::{
            core::v1::Pod,
            policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
        },
        apimachinery::pkg::{
            apis::meta::v1::{Condition, Time},
            util::intstr::IntOrString,
        },
    },
    meta::Owner,
    resource,
    selector::LabelSelector,
};
use copepod_store::{Event, View};

use crate::{Controller, percent, percent::Round, pods, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "disruption-controller", wakes, all, reconcile, refused: crate::SILENT };

/// How long an eviction that was granted counts, where the pod is not seen to go.
const GRANTED_SECONDS: i64 = 120;

const ALLOWED: &str = "DisruptionAllowed";

fn all(view: &View) -> Vec<Key> {
    view.objects(&resource::POD_DISRUPTION_BUDGETS, None).map(|budget| budget.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == resource::POD_DISRUPTION_BUDGETS {
        return vec![key.clone()];
    }
    let is_set = key.resource == resource::REPLICA_SETS
        || key.resource == resource::DEPLOYMENTS
        || key.resource.plural == "statefulsets";
    if key.resource != resource::PODS && !is_set {
        return Vec::new();
    }
    let versions = [Some(&event.object), event.previous.as_ref()];
    let concerns = |budget: &Of<PodDisruptionBudget>| {
        is_set || selector(budget).is_some_and(|s| versions.iter().flatten().any(|pod| s.matches(&pod.meta.labels)))
    };
    view.list::<PodDisruptionBudget>(Some(key.namespace()))
        .filter(concerns)
        .map(|budget| budget.key().clone())
        .collect()
}

/// No selector selects nothing, an empty one everything.
fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    let selector = budget.spec.as_ref()?.selector.as_ref()?;
    LabelSelector::from_typed(selector).ok()
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let mut plan = Plan::nothing();
    let Some(budget) = view.get::<PodDisruptionBudget>(key.namespace(), key.name()) else {
        return plan;
    };
    let selector = selector(&budget).unwrap_or_else(LabelSelector::nothing);
    let pods: Vec<Of<Pod>> = view
        .objects(&resource::PODS, Some(key.namespace()))
        .filter(|pod| selector.matches(&pod.meta.labels))
        .filter_map(|pod| Of::<Pod>::new(pod.clone()).ok())
        .filter(|pod| !pods::has_ended(pod.object()))
        .collect();
    let granted = granted(&budget, &pods, now);
    plan.look_again_at(granted.values().map(|at| time::after(at.0, GRANTED_SECONDS)).min());

    let mut status = PodDisruptionBudgetStatus {
        observed_generation: Some(budget.meta().generation),
        disrupted_pods: (!granted.is_empty()).then(|| granted.clone()),
        conditions: budget.status.as_ref().and_then(|status| status.conditions.clone()),
        current_healthy: Some(0),
        desired_healthy: Some(0),
        expected_pods: Some(0),
        disruptions_allowed: Some(0),
    };
    match needs(view, &budget, &pods) {
        Ok((expected, desired)) => {
            let healthy = pods.iter().filter(|pod| {
                pods::is_ready(pod.object()) && !pod.meta().is_leaving() && !granted.contains_key(pod.key().name())
            });
            let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
            let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            status.current_healthy = Some(healthy);
            status.desired_healthy = Some(desired);
            status.expected_pods = Some(expected);
            status.disruptions_allowed = Some(allowed);
            let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            set_condition(&mut status, &budget, value, reason, "", now);
            if allowed == 0 {
                plan.because(format!("{healthy} of {expected} pods are healthy, and {desired} have to be"));
            }
        }
        Err(why) => {
            set_condition(&mut status, &budget, "False", "SyncFailed", &why, now);
            plan.because(why);
        }
    }
    if budget.status.as_ref() != Some(&status) {
        let user = User::system("system:controller:disruption-controller");
        plan.push(write::status(&user, &budget, &status));
    }
    plan
}

/// Evictions that were granted and whose pods are still seen.
fn granted(budget: &PodDisruptionBudget, pods: &[Of<Pod>], now: Timestamp) -> BTreeMap<String, Time> {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let seen: BTreeSet<&str> = pods.iter().filter(|pod| !pod.meta().is_leaving()).map(|pod| pod.key().name()).collect();
    let counts = |name: &str, at: &Time| seen.contains(name) && time::after(at.0, GRANTED_SECONDS) > now;
    known.into_iter().filter(|(name, at)| counts(name, at)).collect()
}

/// How many pods there should be, and how many of them have to be healthy.
fn needs(view: &View, budget: &PodDisruptionBudget, pods: &[Of<Pod>]) -> Result<(i32, i32), String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let n_pods = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (spec.max_unavailable, spec.min_available) {
        (Some(max), _) => {
            let expected = expected(view, pods)?;
            Ok((expected, (expected - percent::of(&max, expected, Round::Up)).max(0)))
        }
        (None, Some(IntOrString::Int(min))) => Ok((n_pods, min)),
        (None, Some(min)) => {
            let expected = expected(view, pods)?;
            Ok((expected, percent::of(&min, expected, Round::Up)))
        }
        (None, None) => Ok((n_pods, 0)),
    }
}

/// The sizes of the sets that the pods belong to, each set once.
fn expected(view: &View, pods: &[Of<Pod>]) -> Result<i32, String> {
    let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
    for pod in pods {
        let namespace = pod.key().namespace();
        let Some(owner) = pod.meta().controller() else {
            return Err(format!("pod {} has no controller, so nobody says how many there should be", pod.key().name()));
        };
        let mut set = find(view, namespace, owner);
        // A set that a deployment resizes has a moving size; the deployment's is the one that is meant.
        if let Some(deployment) = set.as_ref().and_then(|set| set.meta.controller()).cloned() {
            set = find(view, namespace, &deployment).or(set);
        }
        let size = set.as_ref().and_then(|set| set.value()["spec"]["replicas"].as_i64());
        let (Some(set), Some(size)) = (set, size) else {
            return Err(format!("{} {} of pod {} has no scale", owner.kind, owner.name, pod.key().name()));
        };
        sizes.insert(set.meta.uid.clone(), size);
    }
    Ok(i32::try_from(sizes.values().sum::<i64>()).unwrap_or(i32::MAX))
}

fn find(view: &View, namespace: &str, owner: &Owner) -> Option<std::sync::Arc<copepod_api::Object>> {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let resources: Vec<&Resource> = view.resources().filter(|resource| resource.group == group).collect();
    let objects =
        resources.into_iter().filter_map(|r| view.object(&Key::new(r.clone(), namespace, owner.name.as_str())));
    objects.into_iter().find(|object| object.meta.uid == owner.uid).cloned()
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    budget: &Of<PodDisruptionBudget>,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().find(|condition| condition.type_ == ALLOWED && condition.status == value);
    let since = known.map_or(Time(now), |known| known.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != ALLOWED);
    conditions.push(Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: Some(budget.meta().generation),
    });
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    fn plan(fixture: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, "poddisruptionbudgets.policy default/web"))
    }

    #[test]
    fn healthy_pods_beyond_the_need_may_be_disturbed() {
        assert_snapshot!(plan("budget web minAvailable=1 | replicaset web 2 | pod a web ready | pod b web ready"), @"status poddisruptionbudget web {conditions:[DisruptionAllowed=True:SufficientPods],currentHealthy:2,desiredHealthy:1,disruptionsAllowed:1,expectedPods:2,observedGeneration:1}");
    }

    #[test]
    fn shares_are_of_what_there_should_be() {
        assert_snapshot!(plan("budget web maxUnavailable=50% | replicaset web 4 | pod a web ready | pod b web ready"), @r"
            status poddisruptionbudget web {conditions:[DisruptionAllowed=False:InsufficientPods],currentHealthy:2,desiredHealthy:2,disruptionsAllowed:0,expectedPods:4,observedGeneration:1}
            because 2 of 4 pods are healthy, and 2 have to be
        ");
    }

    #[test]
    fn leaving_and_unready_pods_are_not_healthy() {
        assert_snapshot!(
            plan("budget web maxUnavailable=1 | replicaset web 3 | pod a web ready | pod b web ready leaving | pod c web"), @r"
            status poddisruptionbudget web {conditions:[DisruptionAllowed=False:InsufficientPods],currentHealthy:1,desiredHealthy:2,disruptionsAllowed:0,expectedPods:3,observedGeneration:1}
            because 1 of 3 pods are healthy, and 2 have to be
        ");
    }

    #[test]
    fn a_granted_eviction_counts_for_a_while() {
        let mut world = World::read("budget web minAvailable=1 | replicaset web 2 | pod a web ready | pod b web ready");
        let now = copepod_api::time::rfc3339(world.now);
        world.edit("poddisruptionbudgets.policy default/web", |b| b["status"]["disruptedPods"]["a"] = now.into());
        let key = "poddisruptionbudgets.policy default/web";
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, key)), @r"
            status poddisruptionbudget web {conditions:[DisruptionAllowed=False:InsufficientPods],currentHealthy:1,desiredHealthy:1,disruptedPods:{a:2001-09-09T01:46:40Z},disruptionsAllowed:0,expectedPods:2,observedGeneration:1}
            look again in 120s
            because 1 of 2 pods are healthy, and 1 have to be
        ");
        world.wait(120);
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, key)), @"status poddisruptionbudget web {conditions:[DisruptionAllowed=True:SufficientPods],currentHealthy:2,desiredHealthy:1,disruptionsAllowed:1,expectedPods:2,observedGeneration:1}");
    }
}
