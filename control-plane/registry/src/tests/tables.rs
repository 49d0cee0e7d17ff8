//! What `get` shows.

use serde_json::{Value, json};

use super::fixture::{Fixture, deployment, pod, resource, service};

/// The cells of an object, joined.
fn row(world: &Fixture, target: &str) -> String {
    let (plural, name) = target.split_once('/').unwrap();
    let row = crate::row(&resource(plural), "").unwrap();
    let namespace = if row.kind.is_namespaced() { "default" } else { "" };
    let object = world.view.object(&copepod_api::Key::new(row.kind.resource(), namespace, name)).unwrap();
    let cells = row.table_row(object, world.now);
    assert_eq!(cells.len(), row.table_columns().len());
    let cell = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(cell).collect::<Vec<_>>().join(" | ")
}

#[test]
fn pods_say_what_they_do() {
    let mut world = Fixture::new();
    let status = |status: Value, world: &mut Fixture| {
        world.merge("pods/a/status", json!({"status": null})).unwrap();
        world.merge("pods/a/status", json!({ "status": status })).unwrap();
        row(world, "pods/a").split(" | ").skip(1).take(3).collect::<Vec<_>>().join(" ")
    };
    let mut object = pod("a");
    object["spec"]["initContainers"] = json!([{"name": "i", "image": "x:1"}]);
    world.create("pods", object).unwrap();
    world.create("pods/a/binding", json!({"target": {"name": "n1"}})).unwrap();
    world.pass(125);
    assert_eq!(row(&world, "pods/a"), "a | 0/1 | Pending | 0 | 2m5s | <none> | n1 | <none> | <none>");

    let init = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}]});
    let main = |state: Value, more: Value| {
        let mut status =
            json!({"name": "c", "state": state, "ready": false, "restartCount": 0, "image": "", "imageID": ""});
        for (key, value) in more.as_object().unwrap() {
            status[key] = value.clone();
        }
        json!({"phase": "Running", "containerStatuses": [status]})
    };
    let cases = [
        (init(json!({"running": {}})), "0/1 Init:0/1 0"),
        (init(json!({"waiting": {"reason": "ImagePullBackOff"}})), "0/1 Init:ImagePullBackOff 0"),
        (init(json!({"terminated": {"exitCode": 3}})), "0/1 Init:ExitCode:3 0"),
        (main(json!({"running": {}}), json!({"ready": true})), "1/1 Running 0"),
        (
            main(json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"restartCount": 4})),
            "0/1 CrashLoopBackOff 4",
        ),
        (
            main(
                json!({"running": {}}),
                json!({"ready": true, "restartCount": 1, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-11-23T10:01:05Z"}}}),
            ),
            "1/1 Running 1 (60s ago)",
        ),
        (main(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), json!({})), "0/1 Completed 0"),
        (main(json!({"terminated": {"exitCode": 137, "signal": 9}}), json!({})), "0/1 Signal:9 0"),
        (json!({"phase": "Running", "reason": "NodeLost"}), "0/1 Unknown 0"),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "reason": "NodeLost"}]}),
            "0/1 Unknown 0",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/1 Evicted 0"),
    ];
    for (given, expected) in cases {
        let text = given.to_string();
        assert_eq!(status(given, &mut world), expected, "{text}");
    }
    let running = main(json!({"running": {}}), json!({"ready": true}));
    status(running, &mut world);
    world.delete("pods/a", Default::default()).unwrap();
    assert!(row(&world, "pods/a").starts_with("a | 1/1 | Terminating | 0"));
}

#[test]
fn other_kinds() {
    let mut world = Fixture::new();
    world.create("deployments", deployment("web")).unwrap();
    world.merge("deployments/web/status", json!({"status": {"readyReplicas": 1, "updatedReplicas": 1}})).unwrap();
    assert_eq!(row(&world, "deployments/web"), "web | 1/1 | 1 | 0 | 0s | c | web | app=web");
    assert_eq!(
        row(&world, "services/kubernetes"),
        "kubernetes | ClusterIP | 10.96.0.1 | <none> | 443/TCP | 0s | <none>"
    );
    let fixed = json!({"type": "LoadBalancer", "clusterIP": "10.96.3.4", "ports": [{"port": 80, "nodePort": 30080}]});
    world.create("services", service("s", fixed)).unwrap();
    assert_eq!(row(&world, "services/s"), "s | LoadBalancer | 10.96.3.4 | <pending> | 80:30080/TCP | 0s | app=s");
    world
        .create("nodes", json!({
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/edge": ""}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "198.18.0.4"}], "nodeInfo": {"kubeletVersion": "v1"},
            },
        }))
        .unwrap();
    assert_eq!(
        row(&world, "nodes/n1"),
        "n1 | Ready,SchedulingDisabled | edge | 0s | v1 | 198.18.0.4 | <none> | <unknown> | <unknown> | <unknown>"
    );
    assert_eq!(row(&world, "namespaces/default"), "default | Active | 0s");
    world.create("configmaps", json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}})).unwrap();
    assert_eq!(row(&world, "configmaps/c"), "c | 2 | 0s");
}

#[test]
fn fields_for_selectors() {
    let mut world = Fixture::new();
    world.create("pods", pod("a")).unwrap();
    let row = crate::row(&resource("pods"), "v1").unwrap();
    let object = world.view.objects(&resource("pods"), None).next().unwrap();
    let field = |name| row.field(object, name);
    assert_eq!(field("metadata.name").as_deref(), Some("a"));
    assert_eq!(field("status.phase").as_deref(), Some("Pending"));
    assert_eq!(field("spec.nodeName").as_deref(), Some(""));
    assert_eq!(field("spec.containers"), None);
}
