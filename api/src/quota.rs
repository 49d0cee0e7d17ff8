//! What objects use of their namespace's quota: which amounts count, and which quotas look at an object at all.
//!
//! Servers charge a quota in the transaction that stores an object, and a controller counts again what is there; both
//! have to count alike. (Concept: Resource Quotas; the scopes are those of its API.)

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Object, Quantity, Resource, resource};

/// Amounts by the names that `spec.hard` of a quota may have.
pub type Amounts = BTreeMap<String, Quantity>;

const CLAIMS: Resource = Resource::known("", "persistentvolumeclaims");

/// Kinds that are also counted by their bare name, beside `count/<plural>.<group>`.
const COUNTED: &[Resource] = &[
    resource::PODS,
    resource::SERVICES,
    resource::CONFIG_MAPS,
    resource::SECRETS,
    CLAIMS,
    Resource::known("", "replicationcontrollers"),
    Resource::known("", "resourcequotas"),
];

/// All that an object uses.
pub fn usage(resource: &Resource, object: &Value) -> Amounts {
    let one = Quantity::from_value(1);
    let dot = if resource.group.is_empty() { "" } else { "." };
    let mut used = Amounts::from([(format!("count/{}{dot}{}", resource.plural, resource.group), one)]);
    // A pod that has ended holds nothing any more but its place in the store.
    if *resource == resource::PODS && has_ended(object) {
        return used;
    }
    if COUNTED.contains(resource) {
        used.insert(resource.plural.to_string(), one);
    }
    match resource {
        own if *own == resource::PODS => used.extend(of_pod(object)),
        own if *own == resource::SERVICES => used.extend(of_service(object)),
        own if *own == CLAIMS => used.extend(of_claim(object)),
        _ => {}
    }
    used
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn of_pod(pod: &Value) -> Amounts {
    let mut used = Amounts::new();
    for (name, amount) in pod_amounts(pod, "requests") {
        if !name.contains('/') {
            // The bare names of compute resources mean requests.
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_amounts(pod, "limits") {
        used.insert(format!("limits.{name}"), amount);
    }
    used
}

/// What a pod asks for (`requests`) or may use at most (`limits`): its containers and sidecars together, or more where
/// one that runs before them needs more; and the overhead of its runtime class (KEP-753, KEP-688).
pub fn pod_amounts(pod: &Value, which: &str) -> Amounts {
    let spec = &pod["spec"];
    let mut together = container_amounts(spec, which);
    // What a pod states for itself as a whole (KEP-2837).
    together.extend(amounts(&spec["resources"][which]));
    for (name, more) in amounts(&spec["overhead"]) {
        if which == "requests" || together.contains_key(&name) {
            *together.entry(name).or_default() += more;
        }
    }
    together
}

/// The same for its containers alone.
pub fn container_amounts(spec: &Value, which: &str) -> Amounts {
    let mut together = Amounts::new();
    for container in list(&spec["containers"]) {
        add(&mut together, &amounts(&container["resources"][which]));
    }
    let (mut sidecars, mut before) = (Amounts::new(), Amounts::new());
    for container in list(&spec["initContainers"]) {
        let own = amounts(&container["resources"][which]);
        let mut beside = sidecars.clone();
        add(&mut beside, &own);
        if container["restartPolicy"] == "Always" {
            sidecars = beside.clone();
        }
        at_least(&mut before, &beside);
    }
    add(&mut together, &sidecars);
    at_least(&mut together, &before);
    together
}

fn of_service(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = list(&spec["ports"]).count();
    let (balancers, ports) = match spec["type"].as_str() {
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            (1, list(&spec["ports"]).filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count())
        }
        Some("LoadBalancer") => (1, ports),
        Some("NodePort") => (0, ports),
        _ => (0, 0),
    };
    let number = |count: usize| Quantity::from_value(i64::try_from(count).unwrap_or(i64::MAX));
    Amounts::from([
        ("services.nodeports".to_owned(), number(ports)),
        ("services.loadbalancers".to_owned(), number(balancers)),
    ])
}

fn of_claim(claim: &Value) -> Amounts {
    let storage = amounts(&claim["spec"]["resources"]["requests"]).remove("storage");
    let mut used = Amounts::new();
    used.extend(storage.map(|amount| ("requests.storage".to_owned(), amount)));
    if let Some(class) = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty()) {
        let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
        used.insert(of_class("persistentvolumeclaims"), Quantity::from_value(1));
        used.extend(storage.map(|amount| (of_class("requests.storage"), amount)));
    }
    used
}

/// Whether a quota looks at an object: all its scopes do.
pub fn covers(spec: &Value, resource: &Resource, object: &Value) -> bool {
    let of_scopes =
        list(&spec["scopes"]).all(|scope| in_scope(scope.as_str(), "Exists", &Value::Null, resource, object));
    let rules = &spec["scopeSelector"]["matchExpressions"];
    of_scopes
        && list(rules).all(|rule| {
            let operator = rule["operator"].as_str().unwrap_or_default();
            in_scope(rule["scopeName"].as_str(), operator, &rule["values"], resource, object)
        })
}

fn in_scope(scope: Option<&str>, operator: &str, values: &Value, resource: &Resource, object: &Value) -> bool {
    let spec = &object["spec"];
    if scope == Some("VolumeAttributesClass") {
        return *resource == CLAIMS && named(spec["volumeAttributesClassName"].as_str(), operator, values);
    }
    if *resource != resource::PODS {
        return false;
    }
    let is_best_effort = || {
        let mut all = list(&spec["containers"]).chain(list(&spec["initContainers"]));
        all.all(|container| {
            let of = |which: &str| amounts(&container["resources"][which]);
            of("requests").values().chain(of("limits").values()).all(Quantity::is_zero)
        })
    };
    match scope {
        Some("Terminating") => !spec["activeDeadlineSeconds"].is_null(),
        Some("NotTerminating") => spec["activeDeadlineSeconds"].is_null(),
        Some("BestEffort") => is_best_effort(),
        Some("NotBestEffort") => !is_best_effort(),
        Some("PriorityClass") => named(spec["priorityClassName"].as_str(), operator, values),
        Some("CrossNamespacePodAffinity") => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn named(name: Option<&str>, operator: &str, values: &Value) -> bool {
    let name = name.filter(|name| !name.is_empty());
    let is_listed = || list(values).any(|value| value.as_str() == name);
    match operator {
        "Exists" => name.is_some(),
        "DoesNotExist" => name.is_none(),
        "In" => name.is_some() && is_listed(),
        "NotIn" => !is_listed(),
        _ => false,
    }
}

/// Terms of pod (anti-)affinity that look into other namespaces.
fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| list(&term["namespaces"]).next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let own = &affinity[*kind];
        list(&own["requiredDuringSchedulingIgnoredDuringExecution"]).any(crosses)
            || list(&own["preferredDuringSchedulingIgnoredDuringExecution"])
                .any(|term| crosses(&term["podAffinityTerm"]))
    })
}

/// What objects use together of all that a quota limits.
pub fn count<'a>(spec: &Value, objects: impl Iterator<Item = &'a Object>) -> Amounts {
    let hard = amounts(&spec["hard"]);
    let mut used: Amounts = hard.into_keys().map(|name| (name, Quantity::default())).collect();
    let is_for_pods = list(&spec["scopes"]).chain(list(&spec["scopeSelector"]["matchExpressions"])).next().is_some();
    for object in objects {
        let resource = &object.key.resource;
        // Most kinds only count, and need not be decoded for that.
        let is_measured = [resource::PODS, resource::SERVICES, CLAIMS].contains(resource);
        if is_for_pods && !is_measured {
            continue;
        }
        let value = if is_measured { object.value() } else { &Value::Null };
        if covers(spec, resource, value) {
            for (name, amount) in usage(resource, value) {
                used.entry(name).and_modify(|sum| *sum += amount);
            }
        }
    }
    used
}

/// Amounts as a status says them.
pub fn written(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

/// Amounts as an object states them; what cannot be read is for validation to tell.
pub fn amounts(stated: &Value) -> Amounts {
    let stated = stated.as_object().into_iter().flatten();
    stated.filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?))).collect()
}

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *to.entry(name.clone()).or_default() += *amount;
    }
}

fn at_least(of: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let own = of.entry(name.clone()).or_default();
        *own = (*own).max(*amount);
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(used: Amounts) -> String {
        used.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_pod_uses_what_runs_at_once_needs() {
        let asks = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": "1Gi", "example.com/gpu": "1"}});
        let pod = json!({"spec": {
            "containers": [{"resources": asks("1")}, {"resources": asks("500m")}],
            "initContainers": [
                {"resources": {"requests": {"cpu": "250m"}}, "restartPolicy": "Always"},
                {"resources": {"requests": {"cpu": "3"}}},
            ],
            "overhead": {"cpu": "10m"},
        }});
        assert_eq!(
            told(usage(&resource::PODS, &pod)),
            "count/pods=1 cpu=3260m limits.example.com/gpu=2 limits.memory=2Gi pods=1 requests.cpu=3260m"
        );
        let ended = json!({"spec": pod["spec"], "status": {"phase": "Succeeded"}});
        assert_eq!(told(usage(&resource::PODS, &ended)), "count/pods=1");
    }

    #[test]
    fn services_claims_and_everything_else_are_counted() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            told(usage(&resource::SERVICES, &service)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}});
        assert_eq!(
            told(usage(&CLAIMS, &claim)),
            "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"
        );
        assert_eq!(told(usage(&resource::DEPLOYMENTS, &json!({}))), "count/deployments.apps=1");
    }

    #[test]
    fn scopes_say_which_pods_are_looked_at() {
        let plain = json!({"spec": {"containers": [{}], "priorityClassName": "high"}});
        let busy =
            json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"resources": {"limits": {"cpu": "1"}}}]}});
        let covered = |spec: Value| [&plain, &busy].map(|pod| covers(&spec, &resource::PODS, pod));
        assert_eq!(covered(json!({})), [true, true]);
        assert_eq!(covered(json!({"scopes": ["BestEffort"]})), [true, false]);
        assert_eq!(covered(json!({"scopes": ["NotBestEffort", "Terminating"]})), [false, true]);
        let by_class = |operator: &str, values: Value| {
            let rule = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            covered(json!({"scopeSelector": {"matchExpressions": [rule]}}))
        };
        assert_eq!(by_class("In", json!(["high"])), [true, false]);
        assert_eq!(by_class("NotIn", json!(["high"])), [false, true]);
        assert_eq!(by_class("DoesNotExist", json!([])), [false, true]);
        assert!(!covers(&json!({"scopes": ["BestEffort"]}), &resource::SECRETS, &json!({})));
    }
}
