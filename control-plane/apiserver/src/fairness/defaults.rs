//! The levels and schemas that every cluster has.
//!
//! They are kept as a table of facts, and made into objects when a cluster is born. `exempt` and `catch-all` hold even
//! where somebody deleted them.

use copepod_api::decode;
use serde_json::{Value, json};

const TABLE: &str = include_str!("defaults.yaml");

/// What holds in every cluster.
pub const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// All of them: PriorityLevelConfigurations first, then FlowSchemas.
pub fn all() -> Vec<Value> {
    let table = decode::yaml(TABLE.as_bytes(), &decode::Limits::default()).map_or(Value::Null, |(table, _)| table);
    let entries = |name: &str| table[name].as_object().cloned().unwrap_or_default();
    let exempt = json!({
        "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    });
    let mut all = vec![object("PriorityLevelConfiguration", "exempt", exempt)];
    all.extend(
        entries("levels").iter().map(|(name, numbers)| object("PriorityLevelConfiguration", name, level(numbers))),
    );
    all.extend(entries("schemas").iter().map(|(name, entry)| object("FlowSchema", name, schema(entry))));
    all
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}

fn level(numbers: &Value) -> Value {
    let response = match numbers.get(2) {
        None => json!({"type": "Reject"}),
        Some(queues) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": numbers[3], "queueLengthLimit": numbers[4]},
        }),
    };
    json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": numbers[0], "lendablePercent": numbers[1], "limitResponse": response,
    }})
}

fn schema(entry: &Value) -> Value {
    let names = |field: &str| entry[field].as_array().cloned().unwrap_or_default();
    let mut subjects: Vec<Value> = Vec::new();
    subjects.extend(names("users").iter().map(|name| json!({"kind": "User", "user": {"name": name}})));
    subjects.extend(names("groups").iter().map(|name| json!({"kind": "Group", "group": {"name": name}})));
    if let Some(namespace) = entry["accounts"].as_str() {
        let accounts = json!({"name": "*", "namespace": namespace});
        subjects.push(json!({"kind": "ServiceAccount", "serviceAccount": accounts}));
    }
    let mut rule = json!({"subjects": subjects});
    let is_about_all = entry.get("objects").is_none() && entry.get("paths").is_none();
    if is_about_all {
        rule["resourceRules"] = json!([{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
        }]);
        rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    }
    if let Some(objects) = entry.get("objects") {
        rule["resourceRules"] = objects.clone();
    }
    if let Some(paths) = entry.get("paths") {
        rule["nonResourceRules"] = json!([paths]);
    }
    let mut spec = json!({
        "matchingPrecedence": entry["precedence"], "priorityLevelConfiguration": {"name": entry["level"]},
        "rules": [rule],
    });
    if let Some(by) = entry.get("by") {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    spec
}
