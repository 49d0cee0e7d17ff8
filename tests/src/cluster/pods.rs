//! What a pod may ask for, seen from inside.

use serde_json::{Value, json};

use super::harness::{Cluster, text};

fn logs(cluster: &Cluster, words: &[&str]) -> String {
    let mut arguments = vec!["logs"];
    arguments.extend(words);
    String::from_utf8_lossy(&cluster.try_run(&arguments).stdout).into_owned()
}

fn pod(name: &str, spec: Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec,
    });
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    pod.to_string()
}

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "copepod.local/busybox:1", "command": ["sh", "-c", script]})
}

#[test]
fn configuration_reaches_containers() {
    let cluster = Cluster::up(1, 1);
    cluster.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {colour: blue, file.txt: content}}",
    );
    cluster.apply("{apiVersion: v1, kind: Secret, metadata: {name: hidden}, stringData: {password: secret}}");
    let mut container = shell(
        "main",
        "echo $COLOUR $PASSWORD $POD_IP $(cat /config/file.txt) $(cat /hidden/password) $(cat /info/labels) \
         $(cat /shared/from-init) $(hostname) $(id -u) > /shared/out; cat /shared/out; sleep 3600",
    );
    container["env"] = json!([
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "password"}}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]);
    container["volumeMounts"] = json!([
        {"name": "config", "mountPath": "/config"}, {"name": "hidden", "mountPath": "/hidden"},
        {"name": "info", "mountPath": "/info"}, {"name": "shared", "mountPath": "/shared"},
    ]);
    container["securityContext"] = json!({"runAsUser": 1000});
    let mut init = shell("init", "echo prepared > /shared/from-init; chmod 777 /shared");
    init["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    cluster.apply(&pod("all", json!({
        "initContainers": [init], "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "settings"}}, {"name": "hidden", "secret": {"secretName": "hidden"}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "shared", "emptyDir": {}},
        ],
    })));
    cluster.until_ready("all", 1);
    let address = cluster.pods("all")[0]["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    cluster.until("it has written", || logs(&cluster, &["all"]).contains("prepared"));
    let printed = logs(&cluster, &["all"]);
    assert_eq!(printed.trim(), format!("blue secret {address} content secret app=\"all\" prepared all 1000"));
}

#[test]
fn a_container_that_crashes_is_started_again_with_growing_pauses() {
    let cluster = Cluster::up(1, 1);
    cluster.apply(&pod("crash", json!({"containers": [shell("main", "echo last words; exit 7")]})));
    cluster.until("it has been started three times", || {
        let pods = cluster.pods("crash");
        let status = &pods[0]["status"]["containerStatuses"][0];
        status["restartCount"].as_u64() >= Some(2) && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let pods = cluster.pods("crash");
    let ended = &pods[0]["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(ended["exitCode"], 7);
    assert!(ended["message"].as_str().unwrap_or_default().contains("last words"), "{ended}");
    assert!(logs(&cluster, &["crash", "--previous"]).contains("last words"));
    let shown = cluster.ok(&["get", "pods"]);
    assert!(shown.contains("CrashLoopBackOff"), "{shown}");
}

#[test]
fn a_pod_that_is_done_is_done() {
    let cluster = Cluster::up(1, 1);
    cluster.apply(&pod("once", json!({"restartPolicy": "Never", "containers": [shell("main", "echo done")]})));
    cluster.until("it has succeeded", || cluster.get(&["pod", "once"])["status"]["phase"] == "Succeeded");
    assert_eq!(cluster.ok(&["logs", "once"]), "done\n");
    assert!(cluster.ok(&["get", "pods"]).contains("Completed"));

    // It can be read when the pod is gone, and says so.
    cluster.ok(&["delete", "pod", "once"]);
    cluster.until("it is gone", || cluster.pods("once").is_empty());
    // Where it ran is known by the events of its node, and these may come after the word that it is gone.
    cluster.until("its node is known", || cluster.try_run(&["logs", "once"]).status.success());
    let output = cluster.try_run(&["logs", "once"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    assert!(text(&output).contains("pod once is gone; this is what node n1 has kept"), "{}", text(&output));
    let failure = cluster.fails(&["logs", "never"]);
    assert!(failure.contains("pods \"never\" not found"), "{failure}");
}

#[test]
fn probes_decide_who_gets_requests_and_who_is_restarted() {
    let cluster = Cluster::up(1, 1);
    let mut ready = shell("main", "sleep 2; touch /tmp/ready; sleep 3600");
    ready["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1});
    cluster.apply(&pod("slow", json!({"containers": [ready]})));
    let mut alive = shell("main", "touch /tmp/alive; sleep 3; rm /tmp/alive; sleep 3600");
    alive["livenessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 2});
    cluster.apply(&pod("dying", json!({"containers": [alive]})));
    cluster.until("the slow one runs without being ready", || {
        let pods = cluster.pods("slow");
        pods.len() == 1 && pods[0]["status"]["phase"] == "Running"
    });
    cluster.until_ready("slow", 1);
    cluster.until("the dying one is restarted", || {
        cluster
            .pods("dying")
            .first()
            .is_some_and(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1))
    });
}

#[test]
fn limits_are_kept() {
    let cluster = Cluster::up(1, 1);
    let mut container = shell("main", "x=a; while true; do x=$x$x; done");
    container["resources"] = json!({"limits": {"memory": "32Mi", "cpu": "500m"}});
    cluster.apply(&pod("greedy", json!({"restartPolicy": "Never", "containers": [container]})));
    cluster.until("it was killed for its memory", || {
        let pod = cluster.get(&["pod", "greedy"]);
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"
    });
    let pod = cluster.get(&["pod", "greedy"]);
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    assert_eq!(pod["status"]["phase"], "Failed");
}

#[test]
fn logs_are_followed_and_cut_as_asked() {
    let cluster = Cluster::up(1, 1);
    let script = "for i in 1 2 3 4 5; do echo line $i; done; sleep 2; echo line 6";
    cluster.apply(&pod("talker", json!({"restartPolicy": "Never", "containers": [shell("main", script)]})));
    cluster.until("it talks", || logs(&cluster, &["talker"]).contains("line 5"));
    assert_eq!(logs(&cluster, &["talker", "--tail", "2"]).lines().next(), Some("line 4"));
    let all = cluster.ok(&["logs", "talker", "--follow"]);
    assert_eq!(all, "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\n");
}
