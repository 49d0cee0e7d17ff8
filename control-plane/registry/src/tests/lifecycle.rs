//! From creation to the end, for the kinds that have a life of their own.

use copepod_api::{
    DeleteOptions,
    request::{Disruption, Propagation},
};
use serde_json::{Value, json};

use super::fixture::{Fixture, deployment, pod, refusal, service};

fn options(grace: impl Into<Option<i64>>) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: grace.into(), ..DeleteOptions::default() }
}

fn bind(world: &mut Fixture, name: &str, node: &str) {
    world.create(&format!("pods/{name}/binding"), json!({"target": {"kind": "Node", "name": node}})).unwrap();
}

#[test]
fn a_cluster_begins_with_namespaces_their_accounts_and_its_own_service() {
    let world = Fixture::new();
    for name in ["default", "kube-system"] {
        let namespace = world.get(&format!("namespaces/{name}")).unwrap();
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], name);
        assert_eq!(namespace["status"]["phase"], "Active");
    }
    assert!(world.get("serviceaccounts/default").is_some());
    assert_eq!(world.get("services/kubernetes").unwrap()["spec"]["clusterIPs"], json!(["10.96.0.1"]));
}

#[test]
fn a_pod_is_filled_in() {
    let mut world = Fixture::new();
    let made = world.create("pods", pod("a")).unwrap();
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-11-23T10:00:00Z");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"][1]["key"], "node.kubernetes.io/unreachable");
    assert_eq!(made["spec"]["tolerations"][1]["tolerationSeconds"], 2);
    assert_eq!(refusal(world.create("pods", pod("a"))), "409 AlreadyExists: pods \"a\" already exists");
}

#[test]
fn a_pod_that_others_end_says_so_with_its_last_word() {
    let mut world = Fixture::new();
    let disruption = Disruption { reason: "DeletionByTaintManager".into(), message: "no room".into() };
    let disrupted = || DeleteOptions { disruption: Some(disruption.clone()), ..DeleteOptions::default() };
    let says_so = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "DisruptionTarget" && condition["reason"] == "DeletionByTaintManager")
    };
    world.create("pods", pod("unbound")).unwrap();
    assert!(says_so(&world.delete("pods/unbound", disrupted()).unwrap()));
    assert!(world.get("pods/unbound").is_none());

    for name in ["a", "b"] {
        world.create("pods", pod(name)).unwrap();
        bind(&mut world, name, "n1");
    }
    world.delete("pods/a", disrupted()).unwrap();
    let leaving = world.get("pods/a").unwrap();
    assert!(says_so(&leaving) && leaving["metadata"]["deletionGracePeriodSeconds"] == 30);

    world.delete("pods/b", options(None)).unwrap();
    world.delete("pods/b", disrupted()).unwrap();
    assert!(!says_so(&world.get("pods/b").unwrap()), "it was going anyway");
}

#[test]
fn a_pod_leaves_with_its_grace() {
    let mut world = Fixture::new();
    world.create("pods", pod("unbound")).unwrap();
    world.delete("pods/unbound", options(None)).unwrap();
    assert!(world.get("pods/unbound").is_none());

    world.create("pods", pod("a")).unwrap();
    bind(&mut world, "a", "n1");
    let bound = world.get("pods/a").unwrap();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = world.create("pods/a/binding", json!({"target": {"name": "n2"}}));
    assert_eq!(
        refusal(again),
        "409 Conflict: Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
    );

    let leaving = world.delete("pods/a", options(None)).unwrap();
    assert_eq!(leaving["metadata"]["deletionTimestamp"], "2026-11-23T10:00:30Z");
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 30);
    world.pass(5);
    let longer = world.delete("pods/a", options(60)).unwrap();
    assert_eq!(longer["metadata"], leaving["metadata"], "a grace does not grow");
    let shorter = world.delete("pods/a", options(10)).unwrap();
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-11-23T10:00:10Z");
    world.delete("pods/a", options(0)).unwrap();
    assert!(world.get("pods/a").is_none());
}

#[test]
fn finalizers_hold_and_let_go() {
    let mut world = Fixture::new();
    let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    world.create("deployments", deployment("web")).unwrap();
    let leaving = world.delete("deployments/web", foreground).unwrap();
    assert_eq!(leaving["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert_eq!(leaving["metadata"]["generation"], 2);
    let added = world.merge("deployments/web", json!({"metadata": {"finalizers": ["foregroundDeletion", "a.b/c"]}}));
    assert!(refusal(added).contains("no new finalizers can be added if the object is being deleted"));
    world.merge("deployments/web", json!({"metadata": {"finalizers": null}})).unwrap();
    assert!(world.get("deployments/web").is_none());

    world.create("configmaps", json!({"metadata": {"name": "c"}})).unwrap();
    let gone = world.delete("configmaps/c", options(None)).unwrap();
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("configmaps")));
}

#[test]
fn a_namespace_closes_then_goes() {
    let mut world = Fixture::new();
    world.create("namespaces", json!({"metadata": {"name": "n"}})).unwrap();
    let leaving = world.delete("namespaces/n", options(None)).unwrap();
    assert_eq!(leaving["status"]["phase"], "Terminating");
    let mut late = super::fixture::request(
        "configmaps",
        copepod_api::Action::Create { object: json!({"metadata": {"name": "c"}}) },
    );
    late.target.namespace = "n".into();
    let refused = world.one(late.clone()).unwrap_err();
    assert_eq!(
        refused.message(),
        "configmaps \"c\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    world.update("namespaces/n/finalize", json!({"metadata": {"name": "n"}, "spec": {"finalizers": []}})).unwrap();
    assert!(world.get("namespaces/n").is_none());
    assert_eq!(world.one(late).unwrap_err().message(), "namespaces \"n\" not found");
    assert!(refusal(world.delete("namespaces/default", options(None))).contains("this namespace may not be deleted"));
}

#[test]
fn status_and_spec_keep_to_themselves() {
    let mut world = Fixture::new();
    let made = world.create("deployments", deployment("web")).unwrap();
    assert_eq!(made["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(made["status"], json!({}));
    let mut changed = made.clone();
    changed["status"] = json!({"replicas": 3});
    changed["spec"]["replicas"] = json!(5);
    let with_status = world.update("deployments/web/status", changed.clone()).unwrap();
    assert_eq!((&with_status["spec"]["replicas"], &with_status["status"]["replicas"]), (&json!(1), &json!(3)));
    assert_eq!(with_status["metadata"]["generation"], 1);
    assert_eq!(
        refusal(world.update("deployments/web", changed.clone())),
        "409 Conflict: Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    changed["metadata"]["resourceVersion"] = with_status["metadata"]["resourceVersion"].clone();
    changed["status"] = json!({"replicas": 9});
    let with_spec = world.update("deployments/web", changed).unwrap();
    assert_eq!((&with_spec["spec"]["replicas"], &with_spec["status"]["replicas"]), (&json!(5), &json!(3)));
    assert_eq!(with_spec["metadata"]["generation"], 2);

    let before = world.view.revision();
    world.update("deployments/web", with_spec).unwrap();
    assert_eq!(world.view.revision(), before, "a write that changes nothing is none");
}

#[test]
fn services_get_addresses_and_ports() {
    let mut world = Fixture::new();
    let made = world.create("services", service("a", json!({"type": "NodePort"}))).unwrap();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!(address.starts_with("10.96."));
    assert!((30000..=32767).contains(&port));
    assert!(
        refusal(world.create("services", service("b", json!({"clusterIP": address})))).contains("already allocated")
    );
    let ports = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
    assert!(refusal(world.create("services", service("b", ports))).contains("provided port is already allocated"));

    let kept = world.update("services/a", service("a", json!({"type": "NodePort"}))).unwrap();
    assert_eq!(kept["spec"]["clusterIP"], address);
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
    let plain = world.update("services/a", service("a", json!({}))).unwrap();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    world.delete("services/a", options(None)).unwrap();
    world.create("services", service("b", json!({"clusterIP": address}))).unwrap();
    let headless = world.create("services", service("c", json!({"clusterIP": "None"}))).unwrap();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[test]
fn nodes_get_ranges() {
    let mut world = Fixture::new();
    for (name, range) in [("a", "10.244.0.0/24"), ("b", "10.244.1.0/24")] {
        let node = world.create("nodes", json!({"metadata": {"name": name}})).unwrap();
        assert_eq!(node["spec"]["podCIDR"], range);
    }
    world.delete("nodes/a", options(None)).unwrap();
    let node = world.create("nodes", json!({"metadata": {"name": "c"}, "status": {"phase": "x"}})).unwrap();
    assert_eq!((&node["spec"]["podCIDR"], &node["status"]["phase"]), (&json!("10.244.2.0/24"), &json!("x")));
}

#[test]
fn scale_is_the_replicas() {
    let mut world = Fixture::new();
    world.create("deployments", deployment("web")).unwrap();
    let scale = world.merge("deployments/web/scale", json!({"spec": {"replicas": 4}})).unwrap();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    assert_eq!(scale["status"]["selector"], "app=web");
    assert_eq!(world.get("deployments/web").unwrap()["metadata"]["generation"], 2);
    assert!(refusal(world.merge("deployments/web/scale", json!({"spec": {"replicas": -1}}))).starts_with("422"));
}

#[test]
fn a_deletion_may_say_which_object_it_means() {
    let mut world = Fixture::new();
    let made = world.create("configmaps", json!({"metadata": {"name": "c"}})).unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let other = DeleteOptions { uid: Some("other".to_owned()), ..DeleteOptions::default() };
    assert_eq!(
        refusal(world.delete("configmaps/c", other)),
        format!(
            "409 Conflict: Operation cannot be fulfilled on configmaps \"c\": Precondition failed: UID in precondition: \
             other, UID in object meta: {uid}"
        )
    );
    let old = DeleteOptions { revision: Some(copepod_api::Revision(1)), ..DeleteOptions::default() };
    assert!(refusal(world.delete("configmaps/c", old)).contains("ResourceVersion in precondition: 1"));
    let orphan = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    let leaving = world.delete("configmaps/c", orphan).unwrap();
    assert_eq!(leaving["metadata"]["finalizers"], json!(["orphan"]));
    let background = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    world.delete("configmaps/c", background).unwrap();
    assert!(world.get("configmaps/c").is_none());
    assert_eq!(refusal(world.delete("configmaps/c", options(None))), "404 NotFound: configmaps \"c\" not found");
}

#[test]
fn fields_of_old_objects_are_sealed() {
    let mut world = Fixture::new();
    world.create("pods", pod("a")).unwrap();
    world.create("secrets", json!({"metadata": {"name": "s"}, "immutable": true, "stringData": {"a": "b"}})).unwrap();
    world.create("leases", json!({"metadata": {"name": "l"}})).unwrap();
    world.create("services", service("s", json!({}))).unwrap();
    world.merge("pods/a", json!({"metadata": {"labels": {"x": "y"}}, "spec": {"activeDeadlineSeconds": 9}})).unwrap();
    let cases = [
        (world.merge("pods/a", json!({"spec": {"nodeName": "n1"}})), "pod updates may not change fields other than"),
        (world.merge("pods/a", json!({"metadata": {"name": "b"}})), "does not match the name on the URL"),
        (world.merge("secrets/s", json!({"data": {"a": "Yw=="}})), "field is immutable when `immutable` is set"),
        (world.merge("secrets/s", json!({"type": "x"})), "type: Invalid value: \"x\": field is immutable"),
        (world.update("leases/l", json!({"metadata": {"name": "l"}})), "must be specified for an update"),
        (world.merge("services/s", json!({"spec": {"clusterIP": "10.96.9.9"}})), "may not change once set"),
        (world.update("pods/none", pod("none")), "pods \"none\" not found"),
        (world.create("pods/a/log", json!({})), "pods/log cannot be written that way; it allows get"),
    ];
    for (result, expected) in cases {
        let said = refusal(result);
        assert!(said.contains(expected), "{said}");
    }
}
