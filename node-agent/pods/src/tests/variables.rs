//! Where variables come from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use super::life::Life;
use crate::{
    downward::Facts,
    env::{self, Env},
};

struct NoConfig;

impl env::Sources for NoConfig {
    fn config_map(&self, name: &str) -> Option<k8s_openapi::api::core::v1::ConfigMap> {
        (name == "c").then(|| serde_json::from_value(json!({"metadata": {}, "data": {"k": "v", "b=d": "x"}})).unwrap())
    }

    fn secret(&self, name: &str) -> Option<k8s_openapi::api::core::v1::Secret> {
        (name == "s").then(|| serde_json::from_value(json!({"metadata": {}, "data": {"k": "c2VjcmV0"}})).unwrap())
    }
}

fn env_of(container: Value) -> Result<Env, String> {
    let container: Container = serde_json::from_value(container).unwrap();
    let mut pod = Life::of(json!({"nodeName": "n1", "containers": []})).pod;
    pod.metadata.labels = Some(BTreeMap::from([("app".into(), "web".into())]));
    pod.spec.as_mut().unwrap().containers.push(container.clone());
    let service = serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "d"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 5432, "name": "sql"}]}}))
    .unwrap();
    let facts = Facts {
        host_ips: vec!["1.1.1.1".into()],
        pod_ips: vec!["10.0.0.5".into()],
        allocatable: [("cpu".into(), copepod_api::quantity::Quantity::from_value(4))].into(),
    };
    env::resolve(&pod, &container, &[service], &NoConfig, &facts)
}

#[test]
fn variables_come_from_everywhere() {
    let env = env_of(json!({"name": "a",
    "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "none", "optional": true}}],
    "env": [
        {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(NO)-$$(A)-$"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none", "optional": true}}},
    ]}))
    .unwrap();
    let expected = [
        ("P_k", "v"),
        ("A", "1"),
        ("B", "1-$(NO)-$(A)-$"),
        ("IP", "10.0.0.5"),
        ("APP", "web"),
        ("MEM", "64"),
        ("CPU", "4"),
        ("REQ", "1"),
        ("S", "secret"),
        ("MY_DB_SERVICE_HOST", "10.96.0.9"),
        ("MY_DB_SERVICE_PORT_SQL", "5432"),
        ("MY_DB_PORT", "tcp://10.96.0.9:5432"),
        ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.9"),
    ];
    for (name, value) in expected {
        assert_eq!(env.get(name), Some(value), "{name}");
    }
    assert!(env.get("O").is_none() && env.get("P_b=d").is_none());
}

#[test]
fn missing_configuration_is_named() {
    let cases = [
        (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
        (json!({"configMapKeyRef": {"name": "c", "key": "no"}}), "couldn't find key no in ConfigMap d/c"),
        (json!({"secretKeyRef": {"name": "s", "key": "no"}}), "couldn't find key no in Secret d/s"),
        (json!({"fieldRef": {"fieldPath": "spec.no"}}), "field path \"spec.no\" is not supported"),
    ];
    for (source, message) in cases {
        assert_eq!(env_of(json!({"name": "a", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err(), message);
    }
}
