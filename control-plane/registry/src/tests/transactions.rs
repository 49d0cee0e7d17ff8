//! Several requests at once, dry runs, patches, and evictions that two objects take part in.

use copepod_api::{Action, DeleteOptions, Patch, request::FieldValidation};
use serde_json::{Value, json};

use super::fixture::{Fixture, body, deployment, pod, refusal, request};
use crate::failed_request;

fn create(target: &str, object: Value) -> copepod_api::Request {
    request(target, Action::Create { object })
}

#[test]
fn requests_see_each_other_and_happen_whole() {
    let mut world = Fixture::new();
    let pair = [create("pods", pod("a")), create("pods/a/binding", json!({"target": {"name": "n1"}}))];
    world.all(&pair).unwrap();
    assert_eq!(world.get("pods/a").unwrap()["spec"]["nodeName"], "n1");

    let before = world.view.revision();
    let refused = world.all(&[create("pods", pod("b")), create("pods", pod("a"))]).unwrap_err();
    assert_eq!((failed_request(&refused), refused.reason()), (Some(1), "AlreadyExists"));
    assert_eq!(
        refused.details().unwrap().causes.as_ref().unwrap()[0].message.as_deref(),
        Some("request 2 of 2: pods default/a")
    );
    assert_eq!(world.view.revision(), before);
    assert!(world.get("pods/b").is_none());

    let gone = request(
        "pods/a",
        Action::Delete { options: DeleteOptions { grace_period_seconds: Some(0), ..Default::default() } },
    );
    world.all(&[gone, create("pods", pod("a"))]).unwrap();
    assert!(world.get("pods/a").unwrap()["spec"].get("nodeName").is_none());
}

#[test]
fn a_dry_run_says_all_and_does_nothing() {
    let mut world = Fixture::new();
    let before = world.view.revision();
    let mut dry = create("pods", pod("a"));
    dry.options.dry_run = true;
    let reply = world.one(dry.clone()).unwrap();
    assert_eq!(body(&reply)["status"]["phase"], "Pending");
    assert_eq!(world.view.revision(), before);
    assert_eq!(world.all(&[dry, create("pods", pod("b"))]).unwrap_err().code(), 400);
}

#[test]
fn names_are_drawn_where_only_their_beginning_is_given() {
    let mut world = Fixture::new();
    let mut object = pod("");
    object["metadata"] = json!({"generateName": "web-"});
    let names: Vec<String> = (0..3)
        .map(|_| world.create("pods", object.clone()).unwrap()["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.iter().all(|name| name.starts_with("web-") && name.len() == 9), "{names:?}");
    assert!(names[0] != names[1] && names[1] != names[2]);
}

#[test]
fn unknown_fields_are_refused_reported_or_dropped() {
    let mut world = Fixture::new();
    let mut object = deployment("web");
    object["spec"]["replica"] = json!(3);
    for (validation, expected) in [
        (FieldValidation::Strict, "strict decoding error: unknown field \"spec.replica\""),
        (FieldValidation::Warn, "unknown field \"spec.replica\""),
        (FieldValidation::Ignore, ""),
    ] {
        let mut asked = create("deployments", object.clone());
        asked.options.field_validation = validation;
        asked.options.dry_run = true;
        let said = match world.one(asked) {
            Ok(reply) => {
                assert!(body(&reply)["spec"].get("replica").is_none());
                reply.warnings.concat()
            }
            Err(refused) => refused.message().to_owned(),
        };
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
    }
    object["spec"]["replicas"] = json!("three");
    let said = refusal(world.create("deployments", object));
    assert!(
        said.starts_with(
            "400 BadRequest: Deployment in version \"v1\" cannot be handled as a Deployment: spec.replicas: "
        ),
        "{said}"
    );
}

#[test]
fn patches_change_the_newest_object() {
    let mut world = Fixture::new();
    world.create("deployments", deployment("web")).unwrap();
    let mut patch = |patch| world.one(request("deployments/web", Action::Patch { patch })).map(|reply| body(&reply));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}}});
    let changed = patch(Patch::Strategic(image)).unwrap();
    assert_eq!(changed["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(changed["metadata"]["generation"], 2);
    let changed = patch(Patch::Json(json!([{"op": "replace", "path": "/spec/replicas", "value": 7}]))).unwrap();
    assert_eq!(changed["spec"]["replicas"], 7);
    let stale = patch(Patch::Merge(json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 8}})));
    assert!(refusal(stale).starts_with("409 Conflict"));
    let selector = patch(Patch::Merge(json!({"spec": {"selector": {"matchLabels": {"tier": "x"}}}})));
    assert!(refusal(selector).contains("field is immutable"));
}

#[test]
fn an_eviction_asks_the_budget_once() {
    let mut world = Fixture::new();
    for name in ["a", "b"] {
        world.create("pods", pod(name)).unwrap();
        world.create(&format!("pods/{name}/binding"), json!({"target": {"name": "n1"}})).unwrap();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        world.merge(&format!("pods/{name}/status"), ready).unwrap();
    }
    let budget =
        json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    world.create("poddisruptionbudgets", budget).unwrap();
    let said = refusal(world.create("pods/a/eviction", json!({"metadata": {"name": "a"}})));
    assert_eq!(said, "429 TooManyRequests: Cannot evict pod as it would violate the pod's disruption budget.");
    let status =
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1}});
    world.merge("poddisruptionbudgets/web/status", status).unwrap();

    for (revision, expected) in [("1", "409 Conflict"), ("new", "400 BadRequest")] {
        let options = json!({"preconditions": {"resourceVersion": revision}});
        let eviction = json!({"metadata": {"name": "a"}, "deleteOptions": options});
        let said = refusal(world.create("pods/a/eviction", eviction));
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(world.get("poddisruptionbudgets/web").unwrap()["status"]["disruptionsAllowed"], 1);
    }
    let dry = json!({"metadata": {"name": "a"}, "deleteOptions": {"dryRun": ["All"]}});
    world.create("pods/a/eviction", dry).unwrap();
    assert!(world.get("pods/a").unwrap()["metadata"].get("deletionTimestamp").is_none());
    world.create("pods/a/eviction", json!({"metadata": {"name": "a"}})).unwrap();
    let evicted = world.get("pods/a").unwrap();
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 30);
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": "2026-11-23T10:00:00Z",
    });
    assert_eq!(evicted["status"]["conditions"][1], condition);
    let budget = world.get("poddisruptionbudgets/web").unwrap();
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert_eq!(budget["status"]["disruptedPods"]["a"], "2026-11-23T10:00:00Z");
    let refused = world.one(create_eviction("b")).unwrap_err();
    assert_eq!(
        refused.details().unwrap().causes.as_ref().unwrap()[0].message.as_deref(),
        Some("The disruption budget web needs 1 healthy pods and has 1 currently; pod a is not ready")
    );
}

#[test]
fn an_eviction_counts_the_pods_that_fell_since_the_budget_was_looked_at() {
    let mut world = Fixture::new();
    let ready =
        |is_ready: &str| json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": is_ready}]}});
    for name in ["a", "b", "c", "d"] {
        world.create("pods", pod(name)).unwrap();
        world.create(&format!("pods/{name}/binding"), json!({"target": {"name": "n1"}})).unwrap();
        world.merge(&format!("pods/{name}/status"), ready("True")).unwrap();
    }
    let budget =
        json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    world.create("poddisruptionbudgets", budget).unwrap();
    let status =
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 2, "currentHealthy": 4, "desiredHealthy": 2}});
    world.merge("poddisruptionbudgets/web/status", status).unwrap();

    world.merge("pods/c/status", ready("False")).unwrap();
    world.one(create_eviction("a")).unwrap();
    let budget = world.get("poddisruptionbudgets/web").unwrap();
    assert_eq!(budget["status"]["disruptionsAllowed"], 0, "two are left, and two are needed");
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    let refused = world.one(create_eviction("b")).unwrap_err();
    assert_eq!(
        refused.details().unwrap().causes.as_ref().unwrap()[0].message.as_deref(),
        Some("The disruption budget web needs 2 healthy pods and has 2 currently; pods a, c are not ready")
    );
    world.one(create_eviction("c")).unwrap();
    world.merge("pods/d/status", ready("False")).unwrap();
    world.one(create_eviction("d")).unwrap_err();
}

fn create_eviction(name: &str) -> copepod_api::Request {
    create(&format!("pods/{name}/eviction"), json!({"metadata": {"name": name}}))
}

#[test]
fn applied_fields_have_owners() {
    let mut world = Fixture::new();
    let apply = |object: Value, manager: &str, force: bool| {
        let mut asked = request("deployments/web", Action::Patch { patch: Patch::Apply(object) });
        asked.options.field_manager = manager.to_owned();
        asked.options.force = force;
        asked
    };
    let mut object = deployment("web");
    object["apiVersion"] = json!("apps/v1");
    object["kind"] = json!("Deployment");
    object["spec"]["replicas"] = json!(2);
    let first = world.one(apply(object.clone(), "alice", false)).unwrap();
    assert!(first.created);
    let again = world.one(apply(object.clone(), "alice", false)).unwrap();
    assert_eq!((again.created, again.revision), (false, first.revision), "applying the same again changes nothing");

    world.merge("deployments/web/scale", json!({"spec": {"replicas": 5}})).unwrap();
    let refused = world.one(apply(object.clone(), "alice", false)).unwrap_err();
    assert_eq!(refused.code(), 409);
    assert!(refused.message().contains(".spec.replicas"), "{refused}");
    let forced = world.one(apply(object, "alice", true)).unwrap();
    assert_eq!(body(&forced)["spec"]["replicas"], 2);
    let managers: Vec<Value> = body(&forced)["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["manager"].clone())
        .collect();
    assert_eq!(managers, [json!("alice")]);
}

#[test]
fn an_event_is_one_object_in_both_of_its_apis() {
    let mut world = Fixture::new();
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reportingController": "example.com/robot", "reportingInstance": "r1", "action": "Polished",
        "reason": "Dusty", "note": "it shines", "type": "Normal", "eventTime": "2026-11-23T10:00:00.000000Z",
    });
    let made = world.create("events.events.k8s.io", event.clone()).unwrap();
    assert_eq!((&made["apiVersion"], &made["note"]), (&json!("events.k8s.io/v1"), &json!("it shines")));
    let core = world.get("events/e").unwrap();
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("it shines")));
    assert_eq!(core["involvedObject"]["name"], "p");
    world.merge("events/e", json!({"message": "it gleams"})).unwrap();
    let row = crate::row(&copepod_api::Resource::known("events.k8s.io", "events"), "v1").unwrap();
    let key = copepod_api::Key::new(row.resource(), "default", "e");
    let shown = row.show(world.view.object(&key).unwrap());
    assert_eq!(shown.value()["note"], "it gleams");
    assert_eq!(row.field(&shown, "regarding.name").as_deref(), Some("p"));

    let mut wrong = event;
    wrong["metadata"]["name"] = json!("f");
    wrong["reportingController"] = json!("");
    wrong["type"] = json!("Loud");
    let said = refusal(world.create("events.events.k8s.io", wrong));
    assert!(said.contains("reportingController: Required value") && said.contains("type: Unsupported value"), "{said}");
}

#[test]
fn what_is_of_a_status_alone_does_what_does_that_names_the_rest() {
    let objects = [
        ("pods", pod("a"), json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})),
        ("deployments", deployment("a"), json!({"replicas": 3, "observedGeneration": 1})),
        ("nodes", json!({"metadata": {"name": "a"}}), json!({"capacity": {"cpu": "1000m"}, "unknown": 1})),
        (
            "poddisruptionbudgets",
            json!({"metadata": {"name": "a"}, "spec": {"minAvailable": 1, "selector": {}}}),
            json!({"disruptionsAllowed": 1}),
        ),
    ];
    for (plural, object, status) in objects {
        let after = |rest: Value| {
            let mut world = Fixture::new();
            world.create(plural, object.clone()).unwrap();
            let mut patch = json!({"metadata": {"labels": {"a": "b"}}, "status": status});
            patch.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            let answer = world.merge(&format!("{plural}/a/status"), patch).unwrap();
            assert_eq!(Some(&answer), world.get(&format!("{plural}/a")).as_ref());
            let mut refused = request(
                &format!("{plural}/a/status"),
                Action::Patch { patch: Patch::Merge(json!({"status": {"conditions": "none"}})) },
            );
            refused.options.field_validation = FieldValidation::Strict;
            assert_eq!(world.one(refused).unwrap_err().code(), 400, "{plural}");
            answer
        };
        let (alone, with_rest) = (after(json!({})), after(json!({"spec": {}})));
        assert_eq!(alone, with_rest, "{plural}");
        let updated = |rest: Value| {
            let mut world = Fixture::new();
            let mut whole = world.create(plural, object.clone()).unwrap();
            whole["metadata"]["labels"]["a"] = json!("b");
            whole["status"] = status.clone();
            whole.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            world.update(&format!("{plural}/a/status"), whole).unwrap()
        };
        let whole = updated(json!({}));
        assert_eq!(whole, updated(json!({"spec": {"unknown": true}})), "{plural}");
        assert_eq!((&whole["spec"], &whole["metadata"]["labels"]), (&alone["spec"], &alone["metadata"]["labels"]));
        assert_eq!(whole["status"]["unknown"], Value::Null);
        assert_eq!((&alone["metadata"]["labels"]["a"], &alone["spec"]["unknown"]), (&json!("b"), &Value::Null));
    }
}
