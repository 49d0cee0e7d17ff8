//! Whatever comes in, it is carried out or refused; never a panic, and nothing stored that does not decode.

use copepod_api::{Action, DeleteOptions, Patch, Request};
use serde_json::{Value, json};

use super::fixture::{Fixture, deployment, pod, request, service};

/// Numbers that look random and are the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| pointers(value, &format!("{at}/{}", key.replace('/', "~1")), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| pointers(value, &format!("{at}/{index}"), all));
        }
        _ => {}
    }
}

fn spoil(mut object: Value, dice: &mut Dice) -> Value {
    let odd = [
        json!(null),
        json!({}),
        json!([]),
        json!(""),
        json!("x/y z"),
        json!(-1),
        json!(i64::MAX),
        json!(1.5),
        json!(true),
        json!([null]),
        json!([{}]),
        json!({"a": null}),
        json!("2026-11-23T10:00:00Z"),
        json!("é🦐"),
        json!(["", 3]),
    ];
    for _ in 0..=dice.below(3) {
        let mut all = Vec::new();
        pointers(&object, "", &mut all);
        let pointer = dice.pick(&all).clone();
        if let Some(place) = object.pointer_mut(&pointer) {
            *place = dice.pick(&odd).clone();
        }
    }
    object
}

#[test]
fn spoiled_requests() {
    let rich = json!({
        "metadata": {"name": "a", "labels": {"app": "web"}, "finalizers": ["a.b/c"], "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true}]},
        "spec": {
            "containers": [{
                "name": "c", "image": "web", "ports": [{"containerPort": 80, "hostPort": 80}], "env": [
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"port": 80}}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always"}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            "tolerations": [{"key": "k", "operator": "Exists"}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "state": {"running": {}}, "ready": true, "restartCount": 1}]},
    });
    let objects = [
        ("pods", rich),
        ("pods", pod("a")),
        ("deployments", deployment("a")),
        ("services", service("a", json!({"type": "NodePort", "clusterIP": "10.96.0.77"}))),
        (
            "nodes",
            json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.244.0.0/24", "taints": [{"key": "k", "effect": "NoExecute"}]}}),
        ),
        ("namespaces", json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}})),
        ("secrets", json!({"metadata": {"name": "a"}, "type": "Opaque", "stringData": {"a": "b"}})),
        (
            "endpointslices",
            json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"port": 1}]}),
        ),
        (
            "poddisruptionbudgets",
            json!({"metadata": {"name": "a"}, "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": 1}}),
        ),
        (
            "events",
            json!({"metadata": {"name": "a"}, "involvedObject": {"namespace": "default"}, "firstTimestamp": "2026-11-23T09:00:00Z"}),
        ),
    ];
    let mut dice = Dice(0x00c0_ffee);
    let mut world = Fixture::new();
    let (mut done, mut refused) = (0, 0);
    for round in 0..3_000 {
        let (plural, object) = dice.pick(&objects).clone();
        let object = if round % 4 == 0 { object } else { spoil(object, &mut dice) };
        let own = format!("{plural}/a");
        let subresource = *dice.pick(&["status", "scale", "binding", "eviction", "finalize", "log"]);
        let deep = format!("{plural}/a/{subresource}");
        let grace_period_seconds = *dice.pick(&[None, Some(0), Some(-5), Some(i64::MAX)]);
        let target = *dice.pick(&[own.as_str(), own.as_str(), deep.as_str()]);
        let asked: Request = match dice.below(8) {
            0..3 => request(if target == own { plural } else { target }, Action::Create { object }),
            3 => request(target, Action::Update { object }),
            4 => request(target, Action::Patch { patch: Patch::Merge(object) }),
            5 => request(target, Action::Patch { patch: Patch::Strategic(object) }),
            6 => {
                let mut asked = request(target, Action::Patch { patch: Patch::Apply(object) });
                asked.options.force = true;
                asked
            }
            _ => {
                request(&own, Action::Delete { options: DeleteOptions { grace_period_seconds, ..Default::default() } })
            }
        };
        match world.one(asked) {
            Ok(_) => done += 1,
            Err(_) => refused += 1,
        }
        for row in crate::rows() {
            for object in world.view.objects(&row.kind.resource(), None) {
                row.table_row(object, world.now);
            }
        }
        if let Some(stored) = world.get(&own) {
            let mut errors = Default::default();
            let row = crate::row(&super::fixture::resource(plural), "").unwrap();
            (row.hooks.validate)(&stored, &mut errors).unwrap_or_else(|why| panic!("{plural}: {why}\n{stored}"));
        }
    }
    assert!(done > 500 && refused > 500, "{done} done, {refused} refused");
}
