//! Machines fail, networks are cut, processes are killed.

use std::{collections::BTreeSet, fs, process::Command, thread};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::harness::{Cluster, Load, fetch, hello_manifest, string, text};

#[test]
fn the_leader_dies_during_a_rollout_and_the_rollout_goes_on() {
    let cluster = Cluster::up(3, 3);
    cluster.apply(&hello_manifest(6, "one"));
    cluster.until_ready("hello", 6);
    let address = format!("{}:30080", cluster.node_address("n1"));
    cluster.until("it answers", || fetch(&address, "/").is_ok());
    let load = Load::on(vec![address], "/", 3);
    cluster.apply(&hello_manifest(6, "two"));
    let leader = cluster.leader();
    cluster.ok(&["lab", "stop", &leader]);
    cluster.ok(&["rollout", "status", "deployment/hello"]);
    cluster.until_ready("hello", 6);
    let (answers, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(answers.keys().any(|answer| answer.starts_with("two")));
    cluster.ok(&["lab", "heal", &leader]);
    cluster.until("the server is back", || {
        let mut command = cluster.command(&["get", "nodes", "--kubeconfig"]);
        command
            .arg(cluster.directory().join(&leader).join("admin.kubeconfig"))
            .output()
            .is_ok_and(|output| output.status.success())
    });
}

#[test]
fn all_servers_are_killed_and_nothing_acknowledged_is_lost() {
    let cluster = Cluster::up(3, 2);
    cluster.apply(&hello_manifest(2, "hello"));
    cluster.until_ready("hello", 2);
    let before: BTreeSet<String> = uids(&cluster);
    let written: Vec<String> = (0..40).map(|number| format!("c{number}")).collect();
    for name in &written {
        cluster.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{a: b}}}}"));
    }
    for server in ["s1", "s2", "s3"] {
        kill(Pid::from_raw(cluster.process(server)), Signal::SIGKILL).expect("it runs");
    }
    // Traffic does not need the control plane.
    assert!(fetch(&format!("{}:30080", cluster.node_address_of_file("n1")), "/").is_ok());
    cluster.ok(&["up", "--servers", "3", "--nodes", "2"]);
    let names: BTreeSet<String> =
        cluster.items(&["configmaps"]).iter().map(|object| string(&object["metadata"]["name"])).collect();
    assert!(written.iter().all(|name| names.contains(name)), "{names:?}");
    cluster.until_ready("hello", 2);
    assert_eq!(uids(&cluster), before, "no pod was replaced");
}

#[test]
fn the_pods_of_a_dead_node_are_replaced() {
    let cluster = Cluster::up(3, 3);
    cluster.apply(&hello_manifest(6, "hello"));
    cluster.until_ready("hello", 6);
    cluster.ok(&["lab", "stop", "n2"]);
    cluster.until("six ready pods on the other nodes", || {
        let spread = cluster.spread("hello");
        spread.values().sum::<usize>() == 6 && !spread.contains_key("n2")
    });
    let nodes = cluster.ok(&["get", "nodes"]);
    assert!(nodes.lines().any(|line| line.starts_with("n2") && line.contains("NotReady")), "{nodes}");
    let address = format!("{}:30080", cluster.node_address("n1"));
    cluster.until("the service forgets the dead pods", || (0..50).all(|_| fetch(&address, "/").is_ok()));
    cluster.ok(&["lab", "heal", "n2"]);
    cluster.until("the node is back and its old pods are gone", || {
        let ready = cluster.ok(&["get", "nodes"]).lines().filter(|line| line.contains(" Ready")).count() == 3;
        ready && cluster.items(&["pods"]).len() == 6
    });
}

#[test]
fn a_node_that_was_cut_off_stops_what_was_replaced() {
    let cluster = Cluster::up(1, 3);
    cluster.apply(&hello_manifest(3, "hello"));
    cluster.until_ready("hello", 3);
    let names_before: BTreeSet<String> = cluster.running_programs("n2");
    assert_eq!(names_before.len(), 1);
    cluster.ok(&["lab", "partition", "n2"]);
    cluster.until("the pod is replaced elsewhere", || {
        let spread = cluster.spread("hello");
        spread.values().sum::<usize>() == 3 && !spread.contains_key("n2")
    });
    cluster.ok(&["lab", "heal", "n2"]);
    cluster.until("the node is ready and runs only what is its own", || {
        let own: usize = cluster.pods("hello").iter().filter(|pod| pod["spec"]["nodeName"] == "n2").count();
        let ready = cluster.ok(&["get", "nodes"]).lines().filter(|line| line.contains(" Ready")).count() == 3;
        ready
            && cluster.items(&["pods"]).len() == 3
            && cluster.running_programs("n2").len() == own
            && cluster.running_programs("n2").is_disjoint(&names_before)
    });
}

#[test]
fn a_drain_respects_the_disruption_budget() {
    let cluster = Cluster::up(1, 3);
    cluster.apply(&hello_manifest(3, "hello"));
    cluster.apply(
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: hello}, \
         spec: {minAvailable: 2, selector: {matchLabels: {app: hello}}}}",
    );
    cluster.until_ready("hello", 3);
    cluster.until("the budget is counted", || {
        cluster.get(&["poddisruptionbudget", "hello"])["status"]["disruptionsAllowed"] == 1
    });
    let address = format!("{}:30080", cluster.node_address("n1"));
    cluster.until("it answers", || fetch(&address, "/").is_ok());
    let load = Load::on(vec![address], "/", 3);
    cluster.ok(&["drain", "n3"]);
    assert!(cluster.pods("hello").iter().all(|pod| pod["spec"]["nodeName"] != "n3"));
    cluster.until_ready("hello", 3);
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");

    // A budget that allows nothing: the drain says which, and which pod waits.
    cluster.ok(&["uncordon", "n3"]);
    let budget = "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: hello}, \
                  spec: {minAvailable: 3, selector: {matchLabels: {app: hello}}}}";
    cluster.apply(budget);
    cluster.until("the budget is counted", || {
        cluster.get(&["poddisruptionbudget", "hello"])["status"]["disruptionsAllowed"] == 0
    });
    let node = string(&cluster.pods("hello")[0]["spec"]["nodeName"]);
    let failure = cluster.fails(&["drain", &node, "--timeout", "2"]);
    assert!(failure.contains("hello") && failure.contains("budget"), "{failure}");
    assert_eq!(cluster.ready_pods("hello").len(), 3);

    // With replacements started first, even that budget lets the node go, and nobody notices.
    let load = Load::on(vec![format!("{}:30080", cluster.node_address("n1"))], "/", 3);
    let mut least = usize::MAX;
    thread::scope(|scope| {
        let drain = scope.spawn(|| cluster.ok(&["drain", &node, "--surge"]));
        while !drain.is_finished() {
            least = least.min(cluster.ready_pods("hello").len());
        }
    });
    assert!((3..=6).contains(&least), "{least} pods were ready at one time");
    assert!(cluster.pods("hello").iter().all(|pod| string(&pod["spec"]["nodeName"]) != node));
    cluster.until_ready("hello", 3);
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");

    // The last node that takes pods cannot be emptied under such a budget, and there is no use in waiting.
    for other in ["n1", "n2", "n3"] {
        cluster.ok(&["cordon", other]);
    }
    let last = string(&cluster.pods("hello")[0]["spec"]["nodeName"]);
    for surge in [&["drain", &last][..], &["drain", &last, "--surge"]] {
        let failure = cluster.fails(surge);
        assert!(failure.contains(&format!("no node besides {last} takes pods")), "{failure}");
    }
    assert_eq!(cluster.ready_pods("hello").len(), 3);
}

#[test]
fn an_agent_restarts_under_its_pods() {
    let cluster = Cluster::up(1, 1);
    cluster.apply(&hello_manifest(3, "hello"));
    cluster.until_ready("hello", 3);
    let before = cluster.running_pids("n1");
    let restarts = cluster.ok(&["get", "pods"]);
    assert_eq!(before.len(), 3, "{restarts}");
    let address = format!("{}:30080", cluster.node_address("n1"));
    cluster.until("it answers", || fetch(&address, "/").is_ok());
    let load = Load::on(vec![address], "/", 2);
    kill(Pid::from_raw(cluster.process("n1")), Signal::SIGKILL).expect("it runs");
    cluster.ok(&["up", "--servers", "1", "--nodes", "1"]);
    cluster.until_ready("hello", 3);
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "served all the time: {failures:?}");
    assert_eq!(cluster.running_pids("n1"), before, "the same processes");
    // It is in charge again: a container that ends is started anew.
    kill(Pid::from_raw(*before.first().expect("three")), Signal::SIGKILL).expect("it runs");
    cluster.until("three run again", || {
        let now = cluster.running_pids("n1");
        now.len() == 3 && now != before && cluster.ready_pods("hello").len() == 3
    });
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let cluster = Cluster::up(1, 0);
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {a: b}}");
    let raft = cluster.directory().join("s1/raft");
    cluster.ok(&["lab", "stop", "s1"]);
    let log = fs::read_dir(&raft)
        .expect("the log's directory")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "log"))
        .expect("a log");
    let whole = fs::read(&log).expect("the log");

    // A torn end was never acknowledged: it is cut off.
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[20..60]);
    fs::write(&log, &torn).expect("written");
    cluster.ok(&["lab", "heal", "s1"]);
    cluster.until("it is back with its data", || !cluster.get(&["configmap", "kept"]).is_null());
    cluster.ok(&["lab", "stop", "s1"]);

    // A rotten middle is refused with its place.
    let mut rotten = fs::read(&log).expect("the log");
    rotten[40] ^= 0xff;
    fs::write(&log, &rotten).expect("written");
    let refusal = start_server(&cluster, &cluster.directory().join("s1"));
    assert!(refusal.contains(&log.display().to_string()) && refusal.contains("offset"), "{refusal}");
    fs::write(&log, &whole).expect("written");

    // A full disk is named.
    let small = cluster.directory().join("small");
    fs::create_dir_all(&small).expect("made");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "tmpfs"]).arg(&small).status();
    assert!(mounted.expect("mount runs").success());
    let refusal = start_server(&cluster, &small);
    assert!(refusal.to_lowercase().contains("no space") && refusal.contains(&small.display().to_string()), "{refusal}");
}

/// Runs a server in the foreground until it gives up.
fn start_server(cluster: &Cluster, directory: &std::path::Path) -> String {
    let mut command = cluster.command(&["server", "--name", "s1", "--listen", "127.0.0.1:26443", "--data-dir"]);
    let output = command.arg(directory).output().expect("the binary runs");
    assert!(!output.status.success());
    text(&output)
}

fn uids(cluster: &Cluster) -> BTreeSet<String> {
    cluster.items(&["pods"]).iter().map(|pod| string(&pod["metadata"]["uid"])).collect()
}
