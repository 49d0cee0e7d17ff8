//! Objects to measure with: ConfigMaps as clients write them.

use copepod_api::{Body, Expect, Key, Op, Timestamp, Txn, resource::CONFIG_MAPS};
use copepod_store::{Event, View};
use serde_json::json;

/// Objects a namespace.
const NAMESPACE_OBJECTS: usize = 1_000;

pub fn key(number: usize) -> Key {
    let namespace = format!("namespace-{}", number / NAMESPACE_OBJECTS);
    Key::new(CONFIG_MAPS, namespace, format!("object-{number}"))
}

/// One object, with `payload_bytes` of data beside what every applied object carries.
pub fn put(number: usize, payload_bytes: usize) -> Txn {
    let key = key(number);
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": key.name(), "namespace": key.namespace(), "uid": format!("9f0a7c52-0000-4000-8000-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": "bench", "app.kubernetes.io/instance": format!("i{}", number % 100)},
            "managedFields": [{
                "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kubectl", "operation": "Apply",
                "time": "2026-01-01T00:00:00Z",
                "fieldsV1": {"f:data": {"f:payload": {}}, "f:metadata": {"f:labels": {"f:app.kubernetes.io/name": {},
                    "f:app.kubernetes.io/instance": {}}}},
            }],
        },
        "data": {"payload": "x".repeat(payload_bytes)},
    });
    Txn { ops: vec![Op::Put { key, body: Body::encode(&object), expect: Expect::Any }] }
}

pub fn apply(view: &View, txn: &Txn) -> (View, Vec<Event>) {
    view.apply(txn, Timestamp::UNIX_EPOCH).expect("nothing is expected of the objects")
}

/// The bytes of all objects as they are served.
pub fn stored_bytes(view: &View) -> usize {
    view.objects(&CONFIG_MAPS, None).map(|object| object.size()).sum()
}
