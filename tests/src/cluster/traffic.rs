//! Apply, reach, scale, roll: what users do all day.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::harness::{Cluster, HELLO, Load, fetch, hello_manifest, string};

fn node_ports(cluster: &Cluster) -> Vec<String> {
    ["n1", "n2", "n3"].iter().map(|node| format!("{}:30080", cluster.node_address(node))).collect()
}

/// Which nodes answer through one node's port.
fn answering_nodes(address: &str, n_requests: usize) -> BTreeMap<String, usize> {
    (0..n_requests).filter_map(|_| fetch(address, "/").ok()).fold(BTreeMap::new(), |mut nodes, answer| {
        *nodes.entry(answer.rsplit(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        nodes
    })
}

#[test]
fn an_application_runs_on_three_nodes_and_is_balanced() {
    let cluster = Cluster::up(3, 3);
    let printed = cluster.apply(&hello_manifest(3, "hello"));
    assert!(printed.contains("deployment.apps/hello created"), "{printed}");
    cluster.ok(&["rollout", "status", "deployment/hello"]);
    let spread = cluster.spread("hello");
    assert_eq!(spread, BTreeMap::from([("n1".into(), 1), ("n2".into(), 1), ("n3".into(), 1)]));
    for address in node_ports(&cluster) {
        cluster.until("pods of all nodes answer", || answering_nodes(&address, 30).len() == 3);
        let nodes = answering_nodes(&address, 150);
        assert!(nodes.values().all(|count| *count > 20), "evenly enough: {nodes:?}");
    }
    // The same again changes nothing.
    let printed = cluster.apply(&hello_manifest(3, "hello"));
    assert!(printed.contains("deployment.apps/hello unchanged"), "{printed}");
}

#[test]
fn a_deployment_scales_up_and_down() {
    let cluster = Cluster::up(3, 3);
    cluster.apply(&hello_manifest(3, "hello"));
    cluster.until_ready("hello", 3);
    cluster.ok(&["scale", "deployment/hello", "--replicas", "30"]);
    cluster.until_ready("hello", 30);
    assert!(cluster.spread("hello").values().all(|count| *count == 10), "{:?}", cluster.spread("hello"));
    let address = &node_ports(&cluster)[0];
    cluster.until("all thirty answer", || {
        (0..300).filter_map(|_| fetch(address, "/").ok()).collect::<BTreeSet<_>>().len() == 30
    });
    cluster.ok(&["scale", "deployment/hello", "--replicas", "3"]);
    cluster.until_ready("hello", 3);
    cluster.until("the others are gone", || cluster.items(&["pods"]).len() == 3);
    let left: BTreeSet<String> =
        cluster.ready_pods("hello").iter().map(|pod| string(&pod["metadata"]["name"])).collect();
    let answers: BTreeSet<String> = (0..60).map(|_| fetch(address, "/").expect("every request is answered")).collect();
    assert!(answers.iter().all(|answer| left.iter().any(|pod| answer.contains(pod.as_str()))), "{answers:?} {left:?}");
}

#[test]
fn a_rolling_update_loses_no_request() {
    let cluster = Cluster::up(3, 3);
    cluster.apply(&hello_manifest(4, "one"));
    cluster.until_ready("hello", 4);
    let addresses = node_ports(&cluster);
    for address in &addresses {
        cluster.until("it answers", || fetch(address, "/").is_ok());
    }
    let load = Load::on(addresses, "/", 6);
    for greeting in ["two", "three"] {
        cluster.apply(&hello_manifest(4, greeting));
        cluster.ok(&["rollout", "status", "deployment/hello"]);
    }
    cluster.until("the old pods are gone", || cluster.items(&["pods"]).len() == 4);
    let (answers, failures) = load.end();
    let served: usize = answers.values().sum();
    assert!(failures.is_empty(), "{} of {served} failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    for greeting in ["one", "two", "three"] {
        assert!(answers.keys().any(|answer| answer.starts_with(greeting)), "{greeting} answered: {answers:?}");
    }
}

#[test]
fn a_bad_image_is_told_and_the_old_pods_stay() {
    let cluster = Cluster::up(1, 2);
    cluster.apply(&hello_manifest(3, "hello"));
    cluster.until_ready("hello", 3);
    cluster.apply(&hello_manifest(3, "hello").replace(HELLO, "127.0.0.1:9/no/such:1"));
    let mut told = String::new();
    cluster.until("the pod says why it waits", || {
        told = cluster.ok(&["get", "pods"]);
        told.contains("ErrImagePull") || told.contains("ImagePullBackOff")
    });
    assert!(cluster.ready_pods("hello").len() >= 3, "{told}");
    assert!(fetch(&format!("{}:30080", cluster.node_address("n1")), "/").is_ok());

    // A name that cannot be one is hopeless, and the rollout says so at once.
    cluster.apply(&hello_manifest(3, "hello").replace(HELLO, "Not A Name"));
    let failure = cluster.fails(&["rollout", "status", "deployment/hello"]);
    assert!(failure.contains("InvalidImageName") && failure.contains("rollout undo"), "{failure}");
    cluster.ok(&["rollout", "undo", "deployment/hello", "--to-revision", "1"]);
    cluster.ok(&["rollout", "status", "deployment/hello"]);
    cluster.until_ready("hello", 3);
}

#[test]
fn pods_reach_services_by_name_and_themselves() {
    let cluster = Cluster::up(1, 2);
    cluster.apply(&hello_manifest(1, "hello"));
    cluster.apply(&busybox("client", &["sleep", "3600"]));
    cluster.until_ready("hello", 1);
    cluster.until_ready("client", 1);
    let service = cluster.get(&["service", "hello"]);
    let address = string(&service["spec"]["clusterIP"]);
    // The command line has no exec yet: a pod that asks and logs the answer does the same.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do \
         wget -qO- http://hello/ && wget -qO- http://hello.default.svc.cluster.local/ && \
         wget -qO- http://{address}/ && echo asked && break; sleep 1; done; nslookup kubernetes.default.svc.cluster.local"
    );
    cluster.apply(&busybox("asker", &["sh", "-c", &script]).replace("Always", "Never"));
    cluster.until("the answers are logged", || {
        let logs = String::from_utf8_lossy(&cluster.try_run(&["logs", "asker"]).stdout).into_owned();
        logs.matches("hello from hello-").count() == 3 && logs.contains("asked") && logs.contains("10.96.0.1")
    });
}

#[test]
fn a_policy_lets_through_whom_it_names() {
    let cluster = Cluster::up(1, 2);
    cluster.apply(&hello_manifest(2, "hello"));
    cluster.until_ready("hello", 2);
    let address = string(&cluster.get(&["service", "hello"])["spec"]["clusterIP"]);
    let ask = format!("echo GET / | busybox nc -w 1 {address} 80 >/tmp/answer && echo hello || echo nobody");
    let script = format!("while :; do {ask}; sleep 0.2; done");
    for name in ["friend", "stranger"] {
        cluster.apply(&busybox(name, &["sh", "-c", &script]));
    }
    let reaches = |name: &str| {
        let logs = String::from_utf8_lossy(&cluster.try_run(&["logs", name]).stdout).into_owned();
        logs.lines().next_back().is_some_and(|line| line.starts_with("hello"))
    };
    let both = || [reaches("friend"), reaches("stranger")];
    cluster.until("everybody reaches it", || both() == [true, true]);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "hello"},
        "spec": {"podSelector": {"matchLabels": {"app": "hello"}}, "policyTypes": ["Ingress"], "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": "http"}],
        }]},
    });
    cluster.apply(&policy.to_string());
    cluster.until("the stranger does not", || both() == [true, false]);
    assert_eq!(cluster.ready_pods("hello").len(), 2, "probes pass");
    cluster.ok(&["delete", "networkpolicy", "hello"]);
    cluster.until("everybody does again", || both() == [true, true]);
}

/// A pod that runs a command of the host's static busybox, in an image made for it.
pub fn busybox(name: &str, command: &[&str]) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "copepod.local/busybox:1", "command": command,
        }]},
    });
    pod.to_string()
}
