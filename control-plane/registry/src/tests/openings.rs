//! The two doors into a pod's spec: containers that join it, and other amounts of what it uses.

use copepod_api::{Action, Patch, WriteOptions};
use serde_json::{Value, json};

use super::fixture::{Fixture, body, pod, refusal, request};

const DEBUG: &str = "pods/p/ephemeralcontainers";
const RESIZE: &str = "pods/p/resize";

fn sized(cpu: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": "64Mi"});
    let mut pod = pod("p");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": {"cpu": "1", "memory": "64Mi"}});
    pod
}

fn world() -> Fixture {
    let mut world = Fixture::new();
    world.create("pods", sized("100m")).unwrap();
    world
}

fn resources(change: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": change}]}})
}

fn strategic(world: &mut Fixture, target: &str, patch: Value) -> Result<Value, copepod_api::Status> {
    world.one(request(target, Action::Patch { patch: Patch::Strategic(patch) })).map(|reply| body(&reply))
}

#[test]
fn a_container_joins_and_stays_as_it_came() {
    let mut world = world();
    let shell = json!({"name": "shell", "image": "tools", "targetContainerName": "c", "stdin": true, "tty": true});
    let patch =
        json!({"metadata": {"labels": {"other": "x"}}, "spec": {"ephemeralContainers": [shell], "nodeName": "n1"}});
    let after = strategic(&mut world, DEBUG, patch).unwrap();
    assert_eq!(after["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(after["metadata"]["labels"], json!({"app": "web"}), "nothing else changes on this way");
    assert_eq!(after["spec"].get("nodeName"), None);
    let managed = after["metadata"]["managedFields"].as_array().unwrap();
    assert!(managed.iter().any(|entry| entry["subresource"] == "ephemeralcontainers"), "{managed:?}");

    let gone = json!({"spec": {"ephemeralContainers": null}});
    assert!(refusal(world.merge(DEBUG, gone)).contains("existing ephemeral containers \"shell\" may not be removed"));
    let other = json!({"spec": {"ephemeralContainers": [{"name": "shell", "image": "other"}]}});
    assert!(refusal(strategic(&mut world, DEBUG, other.clone())).contains("\"shell\" may not be changed"));
    assert!(refusal(strategic(&mut world, "pods/p", other)).contains("pod updates may not change fields other than"));
}

#[test]
fn what_an_ephemeral_container_may_not_say() {
    let cases = [
        (json!({"targetContainerName": "other"}), "ephemeralContainers[0].targetContainerName: Not found: \"other\""),
        (json!({"name": "c"}), "spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
        (json!({"image": ""}), "spec.ephemeralContainers[0].image: Required value"),
        (
            json!({"ports": [{"containerPort": 80}]}),
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (json!({"resources": {"limits": {"cpu": "1"}}}), "spec.ephemeralContainers[0].resources: Forbidden"),
        (json!({"livenessProbe": {"exec": {"command": ["x"]}}}), "livenessProbe: Forbidden"),
    ];
    for (change, expected) in cases {
        let mut container = json!({"name": "shell", "image": "tools"});
        container.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let said = refusal(world().merge(DEBUG, json!({"spec": {"ephemeralContainers": [container]}})));
        assert!(said.contains(expected), "{change}: {said}");
    }
    let mut early = pod("q");
    early["spec"]["ephemeralContainers"] = json!([{"name": "shell", "image": "tools"}]);
    assert!(
        refusal(world().create("pods", early)).contains("spec.ephemeralContainers: Forbidden: cannot be set on create")
    );
}

#[test]
fn amounts_change_through_resize_alone() {
    let mut world = world();
    let more = resources(json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "2"}}));
    assert!(refusal(strategic(&mut world, "pods/p", more.clone())).contains("pod updates may not change fields"));
    let after = strategic(&mut world, RESIZE, more).unwrap();
    let now = json!({"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "64Mi"}});
    assert_eq!(after["spec"]["containers"][0]["resources"], now);
    assert_eq!(after["metadata"]["generation"], 2);
    let policy = json!({"spec": {"containers": [{"name": "c", "resizePolicy": [
        {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}});
    let kept = strategic(&mut world, RESIZE, policy);
    assert!(refusal(kept).contains("only cpu and memory resources are mutable"));
}

#[test]
fn a_resize_that_is_refused() {
    let cases = [
        (
            json!({"limits": {"cpu": null}}),
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ),
        (json!({"requests": {"cpu": "1"}}), "Pod QOS Class may not change as a result of resizing"),
        (
            json!({"requests": {"ephemeral-storage": "1Gi"}}),
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (json!({"requests": {"cpu": "3"}}), "must be less than or equal to cpu limit of 1"),
    ];
    for (change, expected) in cases {
        let said = refusal(strategic(&mut world(), RESIZE, resources(change.clone())));
        assert!(said.contains(expected), "{change}: {said}");
    }
    let second = json!({"spec": {"containers": [{"name": "d", "image": "x"}]}});
    let said = refusal(strategic(&mut world(), RESIZE, second));
    assert!(said.contains("spec.containers: Forbidden: containers may not be added or removed on resize"), "{said}");
}

#[test]
fn who_applies_a_size_owns_the_size() {
    let mut world = world();
    let mut stated = resources(json!({"requests": {"cpu": "200m"}}));
    stated["metadata"] = json!({"labels": {"other": "x"}});
    let mut apply = request(RESIZE, Action::Patch { patch: Patch::Apply(stated) });
    apply.options = WriteOptions { field_manager: "autoscaler".into(), force: true, ..WriteOptions::default() };
    let after = body(&world.one(apply).unwrap());
    assert_eq!(after["spec"]["containers"][0]["resources"]["requests"]["cpu"], "200m");
    let managed = after["metadata"]["managedFields"].as_array().unwrap();
    let own = managed.iter().find(|entry| entry["manager"] == "autoscaler").unwrap();
    assert_eq!(own["subresource"], "resize");
    assert_eq!(
        own["fieldsV1"]["f:spec"],
        json!({"f:containers": {"k:{\"name\":\"c\"}": {"f:resources": {"f:requests": {"f:cpu": {}}}, "f:name": {}, ".": {}}}})
    );
}
