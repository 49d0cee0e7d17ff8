//! What a namespace and a cluster say about new objects.

use serde_json::{Value, json};

use super::fixture::{Fixture, pod, refusal, service};

fn asking(name: &str, resources: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

fn quota(world: &mut Fixture, hard: Value, more: Value) {
    let mut spec = json!({"hard": hard});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    world.create("resourcequotas", json!({"metadata": {"name": "q"}, "spec": spec})).unwrap();
}

fn used(world: &Fixture) -> String {
    world.get("resourcequotas/q").unwrap()["status"]["used"].to_string()
}

#[test]
fn a_quota_is_charged_by_what_is_stored_and_never_exceeded() {
    let mut world = Fixture::new();
    world.create("pods", pod("before")).unwrap();
    quota(&mut world, json!({"pods": "3", "count/pods": "9", "services.nodeports": "1"}), Value::Null);
    world.create("pods", pod("a")).unwrap();
    assert_eq!(used(&world), r#"{"count/pods":"2","pods":"2","services.nodeports":"0"}"#);
    let both =
        [pod("b"), pod("c")].map(|pod| super::fixture::request("pods", copepod_api::Action::Create { object: pod }));
    let refused = world.all(&both).unwrap_err();
    assert_eq!(
        refused.message(),
        "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"
    );
    assert_eq!(used(&world), r#"{"count/pods":"2","pods":"2","services.nodeports":"0"}"#, "nothing of it was charged");
    world.create("services", service("s", json!({"type": "NodePort"}))).unwrap();
    let said = refusal(world.create("services", service("t", json!({"type": "NodePort"}))));
    assert!(said.ends_with("exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"), "{said}");
    // A change that takes less gives back.
    world.merge("services/s", json!({"spec": {"type": "ClusterIP"}})).unwrap();
    assert!(used(&world).ends_with(r#""services.nodeports":"0"}"#));
}

#[test]
fn what_a_quota_limits_must_be_stated() {
    let mut world = Fixture::new();
    quota(&mut world, json!({"limits.cpu": "2", "memory": "1Gi"}), json!({"scopes": ["NotTerminating"]}));
    let said = refusal(world.create("pods", asking("a", json!({"requests": {"memory": "1Mi"}}))));
    assert!(said.ends_with("failed quota: q: must specify limits.cpu for: c"), "{said}");
    // A pod of another scope is none of its business.
    let mut other = pod("b");
    other["spec"]["activeDeadlineSeconds"] = json!(9);
    world.create("pods", other).unwrap();
    world.create("pods", asking("c", json!({"limits": {"cpu": "1500m", "memory": "512Mi"}}))).unwrap();
    assert_eq!(used(&world), r#"{"limits.cpu":"1500m","memory":"512Mi"}"#);
}

#[test]
fn a_range_fills_in_and_holds_back() {
    let mut world = Fixture::new();
    let limit = json!({
        "type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m", "memory": "1Gi"},
        "default": {"cpu": "200m", "memory": "128Mi"}, "defaultRequest": {"cpu": "100m"},
        "maxLimitRequestRatio": {"cpu": "4"},
    });
    world.create("limitranges", json!({"metadata": {"name": "r"}, "spec": {"limits": [limit]}})).unwrap();
    let made = world.create("pods", pod("a")).unwrap();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "200m", "memory": "128Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    let said = refusal(world.create("pods", asking("b", json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "1"}}))));
    assert_eq!(
        said,
        "403 Forbidden: pods \"b\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, maximum cpu \
         usage per Container is 500m, but limit is 1, cpu max limit to request ratio per Container is 4, but provided \
         ratio is 100.000000]"
    );
}

#[test]
fn priorities_come_from_classes() {
    let mut world = Fixture::new();
    let class = |name: &str, value: i64, general: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": general, "preemptionPolicy": "Never"});
    world.create("priorityclasses", class("high", 1000, false)).unwrap();
    let of = |name: &str, class: &str| {
        let mut pod = pod(name);
        pod["spec"]["priorityClassName"] = json!(class);
        pod
    };
    let made = world.create("pods", of("a", "high")).unwrap();
    assert_eq!((&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]), (&json!(1000), &json!("Never")));
    let said = refusal(world.create("pods", of("b", "gone")));
    assert_eq!(said, "403 Forbidden: pods \"b\" is forbidden: no PriorityClass with name gone was found");
    let mut own = of("c", "high");
    own["spec"]["priority"] = json!(7);
    let said = refusal(world.create("pods", own));
    assert!(said.contains("the integer value of priority (7) must not be provided in pod spec"), "{said}");
    assert_eq!(world.create("pods", pod("d")).unwrap()["spec"]["priority"], 0);
    world.create("priorityclasses", class("usual", 10, true)).unwrap();
    let made = world.create("pods", pod("e")).unwrap();
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(10), &json!("usual")));
}

#[test]
fn what_names_no_class_has_the_default_one() {
    let mut world = Fixture::new();
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let class = json!({"metadata": {"name": "usual", "annotations": annotations}, "provisioner": "example.com/p"});
    world.create("storageclasses", class).unwrap();
    let claim = |name: &str, class: Value| {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        if !class.is_null() {
            spec["storageClassName"] = class;
        }
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let made = world.create("persistentvolumeclaims", claim("a", Value::Null)).unwrap();
    assert_eq!(made["spec"]["storageClassName"], "usual");
    // An empty name is an answer.
    let made = world.create("persistentvolumeclaims", claim("b", json!(""))).unwrap();
    assert_eq!(made["spec"]["storageClassName"], "");
}

fn guarded(world: &mut Fixture, labels: Value) {
    world.merge("namespaces/default", json!({"metadata": {"labels": labels}})).unwrap();
}

#[test]
fn a_level_of_pod_security_refuses_what_goes_beyond_it() {
    let mut world = Fixture::new();
    guarded(&mut world, json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    world.create("pods", pod("plain")).unwrap();
    let mut bad = pod("a");
    bad["spec"]["hostNetwork"] = json!(true);
    bad["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}]);
    bad["spec"]["containers"][0]["securityContext"] =
        json!({"privileged": true, "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}});
    assert_eq!(
        refusal(world.create("pods", bad)),
        "403 Forbidden: pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
         (hostNetwork=true), privileged (container \"c\" must not set securityContext.privileged=true), non-default \
         capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), hostPath \
         volumes (volume \"v\")"
    );
    guarded(&mut world, json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    assert_eq!(
        refusal(world.create("pods", pod("b"))),
        "403 Forbidden: pods \"b\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation \
         != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
         (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \
         \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let mut good = pod("c");
    good["spec"]["securityContext"] = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    good["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
    world.create("pods", good).unwrap();
    // A label or an annotation may still change on what was there before.
    world.merge("pods/plain", json!({"metadata": {"labels": {"x": "y"}}})).unwrap();
}

#[test]
fn what_makes_pods_and_a_stricter_level_warn() {
    let mut world = Fixture::new();
    world.create("pods", pod("old")).unwrap();
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let patch = copepod_api::Patch::Merge(json!({"metadata": {"labels": labels}}));
    let reply = world.one(super::fixture::request("namespaces/default", copepod_api::Action::Patch { patch })).unwrap();
    assert_eq!(
        reply.warnings[0],
        "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:latest\""
    );
    assert!(reply.warnings[1].starts_with("old: allowPrivilegeEscalation != false"), "{:?}", reply.warnings);
    let object = super::fixture::deployment("web");
    let reply = world.one(super::fixture::request("deployments", copepod_api::Action::Create { object })).unwrap();
    assert!(reply.warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": "), "{:?}", reply.warnings);
    let odd = json!({"metadata": {"name": "odd", "labels": {"pod-security.kubernetes.io/warn": "loose"}}});
    let said = refusal(world.create("namespaces", odd));
    assert!(said.contains("metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"loose\": must be one of privileged, baseline, restricted"), "{said}");
    let catalog = crate::Catalog::of(&world.view);
    for resource in crate::admission::watched() {
        assert!(catalog.row(&resource, "").is_some(), "{resource} is served");
    }
}
