//! Pods that are somebody, on a real cluster: they come and go in their order, and keep their names.

use serde_json::{Value, json};

use super::harness::{Cluster, string, text};

fn manifest() -> String {
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": 0, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "main", "image": "copepod.local/busybox:1",
                        "command": ["sh", "-c", "sleep 3600"], "env": [{"name": "EDITION", "value": "first"}],
                    }],
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]},
    });
    format!("{set}\n---\n{service}")
}

fn names(pods: &[Value]) -> Vec<String> {
    pods.iter().map(|pod| string(&pod["metadata"]["name"])).collect()
}

#[test]
fn a_stateful_set_keeps_order_names_and_revisions() {
    let cluster = Cluster::up(1, 2);
    let kubectl = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let output = cluster.try_kubectl(&words);
        assert!(output.status.success(), "kubectl {words:?}\n{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let uid = |pod: &str| string(&cluster.get(&["pod", pod])["metadata"]["uid"]);
    let status = |field: &str| cluster.get(&["statefulset", "db"])["status"][field].clone();
    cluster.apply(&manifest());
    cluster.until("the set is seen", || status("observedGeneration") == 1);

    cluster.ok(&["scale", "statefulset/db", "--replicas", "3"]);
    kubectl("rollout status statefulset/db --timeout=60s");
    let pods = cluster.ready_pods("db");
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    for pair in pods.windows(2) {
        let conditions = pair[0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").cloned().unwrap_or_default();
        let (ready, made) = (string(&ready["lastTransitionTime"]), string(&pair[1]["metadata"]["creationTimestamp"]));
        assert!(ready <= made, "the next one was made at {made}, before this one was ready at {ready}");
    }
    assert_eq!(kubectl("exec db-1 -- hostname").trim(), "db-1");
    let address = string(&cluster.get(&["pod", "db-0"])["status"]["podIP"]);
    cluster.until("db-0 has a name", || {
        let output = cluster.try_kubectl(&["exec", "db-2", "--", "nslookup", "db-0.db.default.svc.cluster.local"]);
        text(&output).contains(&address)
    });

    // One is killed: another of its name takes its place, and nobody else is touched.
    let (others, killed) = ([uid("db-0"), uid("db-2")], uid("db-1"));
    kubectl("delete pod db-1");
    cluster.until_ready("db", 3);
    assert_ne!(uid("db-1"), killed);
    assert_eq!([uid("db-0"), uid("db-2")], others);

    kubectl("set env statefulset/db EDITION=second");
    kubectl("rollout status statefulset/db --timeout=60s");
    assert_eq!(kubectl("exec db-0 -- sh -c echo${IFS}$EDITION").trim(), "second");
    assert_eq!(
        kubectl("rollout history statefulset/db").lines().filter(|line| line.starts_with(['1', '2'])).count(),
        2
    );
    kubectl("rollout undo statefulset/db");
    kubectl("rollout status statefulset/db --timeout=60s");
    assert_eq!(kubectl("exec db-2 -- sh -c echo${IFS}$EDITION").trim(), "first");
    assert_eq!(status("currentRevision"), status("updateRevision"));
    assert_eq!(cluster.items(&["controllerrevisions"]).len(), 2);

    let first = uid("db-0");
    cluster.ok(&["scale", "statefulset/db", "--replicas", "1"]);
    cluster.until("one is left", || names(&cluster.items(&["pods", "-l", "app=db"])) == ["db-0"]);
    assert_eq!(uid("db-0"), first);
    cluster.until("the set says so", || status("replicas") == 1 && status("readyReplicas") == 1);
    assert!(cluster.ok(&["get", "statefulsets"]).contains("1/1"));

    cluster.ok(&["delete", "statefulset", "db"]);
    cluster.until("nothing is left", || {
        cluster.items(&["pods"]).is_empty() && cluster.items(&["controllerrevisions"]).is_empty()
    });
}
