//! Fills the cluster roles that are made of others: their rules are those of all roles that their selectors match.

use copepod_api::{
    Key, Of, Plan, Timestamp, Typed, User, k8s_openapi::api::rbac::v1::ClusterRole, selector::LabelSelector,
};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::{Controller, write};

pub const CONTROLLER: Controller =
    Controller { name: "clusterrole-aggregation-controller", wakes, all, reconcile, refused: crate::SILENT };

/// Any cluster role may be a part of any aggregated one.
fn wakes(view: &View, event: &Event) -> Vec<Key> {
    if event.object.key.resource == ClusterRole::resource() { all(view) } else { Vec::new() }
}

fn all(view: &View) -> Vec<Key> {
    let roles = view.list::<ClusterRole>(None);
    roles.filter(|role| role.aggregation_rule.is_some()).map(|role| role.key().clone()).collect()
}

fn reconcile(view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(role) = view.get::<ClusterRole>("", key.name()) else { return plan };
    let Some(rule) = role.aggregation_rule.as_ref().filter(|_| !role.meta().is_leaving()) else { return plan };
    let mut rules: Vec<Value> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        // The registry lets in no selector that cannot be read.
        let Ok(selector) = LabelSelector::from_typed(selector) else { continue };
        let parts = view.list::<ClusterRole>(None);
        for part in parts.filter(|part| part.key() != key && selector.matches(&part.meta().labels)) {
            for rule in rules_of(&part) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    if rules != rules_of(&role) {
        let user = User::system("system:controller:clusterrole-aggregation-controller");
        plan.push(write::patch(&user, role.object(), json!({ "rules": rules })));
    }
    plan
}

fn rules_of(role: &Of<ClusterRole>) -> Vec<Value> {
    role.object().value()["rules"].as_array().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use copepod_api::Action;
    use serde_json::{Value, json};

    use crate::world::World;

    const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";

    fn role(world: &mut World, name: &str, object: Value) {
        world.create("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", "", name, object);
    }

    fn part(of: &str, verb: &str) -> Value {
        json!({"metadata": {"labels": {"part-of": of}}, "rules": [{"verbs": [verb], "resources": ["pods"]}]})
    }

    /// The verbs that the plan gives to a role, or `-`.
    fn planned(world: &World, name: &str) -> String {
        let plan = world.plan(&super::CONTROLLER, &format!("{ROLES} {name}"));
        let Some(request) = plan.requests.first() else { return "-".to_owned() };
        let Action::Patch { patch: copepod_api::Patch::Merge(patch) } = &request.action else { panic!("{request:?}") };
        let verbs = patch["rules"].as_array().unwrap().iter().map(|rule| rule["verbs"][0].as_str().unwrap());
        verbs.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_aggregated_role_has_the_rules_of_its_parts() {
        let mut world = World::read("configmap x");
        let made_of = |of: &str| json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part-of": of}}]}, "rules": []});
        role(&mut world, "view", made_of("view"));
        role(&mut world, "a", part("view", "get"));
        role(&mut world, "b", part("view", "list"));
        role(&mut world, "c", part("view", "get"));
        role(&mut world, "other", part("edit", "delete"));
        assert_eq!(planned(&world, "view"), "get list");
        world.settle();
        assert_eq!(planned(&world, "view"), "-");
        world.delete(&format!("{ROLES} b"));
        assert_eq!(planned(&world, "view"), "get");
        assert_eq!(planned(&world, "a"), "-");
    }
}
