//! Who pods are.

use serde_json::{Value, json};

use super::fixture::{Fixture, pod, refusal};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mounts(pod: &Value) -> usize {
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let mounts =
        containers.iter().flat_map(|container| container["volumeMounts"].as_array().cloned().unwrap_or_default());
    mounts.filter(|mount| mount["mountPath"] == MOUNT_PATH).count()
}

#[test]
fn a_pod_has_the_files_of_its_account() {
    let mut world = Fixture::new();
    let made = world.create("pods", pod("a")).unwrap();
    assert_eq!((&made["spec"]["serviceAccountName"], mounts(&made)), (&json!("default"), 1));
    let volume = &made["spec"]["volumes"][0];
    assert_eq!(volume["name"], made["spec"]["containers"][0]["volumeMounts"][0]["name"]);
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(
        volume["projected"]["sources"][0],
        json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}})
    );
    let mut other = pod("b");
    other["spec"]["serviceAccountName"] = json!("gone");
    assert_eq!(
        refusal(world.create("pods", other)),
        "403 Forbidden: pods \"b\" is forbidden: error looking up service account default/gone: serviceaccount \"gone\" not found"
    );
}

#[test]
fn who_wants_no_files_gets_none() {
    let mut world = Fixture::new();
    let account = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "s"}]});
    world.create("serviceaccounts", account).unwrap();
    let quiet = |name: &str, automount: Value| {
        let mut pod = pod(name);
        pod["spec"]["serviceAccountName"] = json!("quiet");
        pod["spec"]["automountServiceAccountToken"] = automount;
        pod
    };
    let made = world.create("pods", quiet("a", Value::Null)).unwrap();
    assert_eq!((mounts(&made), &made["spec"]["imagePullSecrets"]), (0, &json!([{"name": "s"}])));
    // What the pod says counts more.
    let made = world.create("pods", quiet("b", json!(true))).unwrap();
    assert_eq!(mounts(&made), 1);
    // A container that shows something else there keeps it.
    let mut own = pod("c");
    own["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    own["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": MOUNT_PATH}]);
    let made = world.create("pods", own).unwrap();
    assert_eq!((mounts(&made), made["spec"]["volumes"].as_array().unwrap().len()), (1, 1));
}
