//! What operators do to a cluster: back it up, bring it back, exchange its servers.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    harness::{Cluster, hello_manifest, string},
    writers::Writers,
};

#[test]
fn a_cluster_is_destroyed_and_comes_back_from_its_backup() {
    let cluster = Cluster::up(3, 2);
    cluster.apply(&hello_manifest(3, "hello"));
    cluster.until_ready("hello", 3);
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {a: b}}");
    let file = cluster.directory().join("cluster.backup");
    let path = file.display().to_string();
    cluster.ok(&["backup", &path]);
    assert_eq!(fs::metadata(&file).expect("a backup").permissions().mode() & 0o777, 0o600);
    let told = cluster.ok(&["backup", "verify", &path]);
    assert!(told.contains("objects of cluster") && told.contains("all well"), "{told}");
    refuses_what_is_damaged(&cluster, &file);

    let before = (pod_uids(&cluster), running(&cluster), revision(&cluster));
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: later}}");
    let kubeconfig = cluster.directory().join("of-before.kubeconfig");
    fs::copy(cluster.ok(&["kubeconfig"]).trim(), &kubeconfig).expect("copied");
    for member in ["s1", "s2", "s3", "n1", "n2"] {
        crash(&cluster, member);
    }
    let refusal = cluster.fails(&["restore", &path, "--data-dir", &directory(&cluster, "s1")]);
    assert!(refusal.contains("not empty") && refusal.contains("hint"), "{refusal}");
    for server in ["s1", "s2", "s3"] {
        fs::remove_dir_all(directory(&cluster, server)).expect("removed");
    }

    let first = endpoint(&cluster, "s1");
    let founder = ["--data-dir", &directory(&cluster, "s1"), "--name", "s1", "--advertise", &first];
    let told = cluster.ok(&[&["restore", &path][..], &founder].concat());
    assert!(told.contains("start it:"), "{told}");
    cluster.ok(&["up", "--servers", "3", "--nodes", "2"]);
    cluster.until_ready("hello", 3);
    assert_eq!(pod_uids(&cluster), before.0, "the same pods");
    assert_eq!(running(&cluster), before.1, "the same processes");
    assert!(revision(&cluster) > before.2, "revisions go on");
    assert!(cluster.get(&["configmap", "later"]).is_null(), "it was written after the backup");
    let names = cluster.ok(&["get", "configmaps", "--kubeconfig", &kubeconfig.display().to_string()]);
    assert!(names.contains("kept"), "{names}");
    cluster.ok(&["scale", "deployment/hello", "--replicas", "4"]);
    cluster.until_ready("hello", 4);
}

fn refuses_what_is_damaged(cluster: &Cluster, file: &Path) {
    let whole = fs::read(file).expect("the backup");
    let damaged = file.with_extension("damaged");
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 1], &rotten] {
        fs::write(&damaged, bytes).expect("written");
        let into = cluster.directory().join("never");
        let (path, into) = (damaged.display().to_string(), into.display().to_string());
        for refusal in
            [cluster.fails(&["backup", "verify", &path]), cluster.fails(&["restore", &path, "--data-dir", &into])]
        {
            assert!(refusal.contains("offset"), "{refusal}");
        }
        assert!(!Path::new(&into).exists());
    }
}

#[test]
fn servers_come_and_go_under_load() {
    let cluster = Cluster::up(1, 0);
    let writers = Writers::on(&cluster, 2);
    until_listed(&cluster, "1 of 1 voting servers answer; none may fail");
    cluster.ok(&["up", "--servers", "3", "--nodes", "0"]);
    until_listed(&cluster, "3 of 3 voting servers answer; 1 may fail");
    cluster.ok(&["up", "--servers", "5", "--nodes", "0"]);
    until_listed(&cluster, "5 of 5 voting servers answer; 2 may fail");
    // One that is away when it is removed hears of it when it comes back.
    cluster.ok(&["lab", "stop", "s5"]);
    cluster.until("another leads", || leader(&cluster) != "s5");
    cluster.ok(&["server", "remove", "s5"]);
    cluster.ok(&["lab", "heal", "s5"]);
    cluster.until("s5 is told", || cluster.last_words("s5").contains("was removed from the cluster"));
    // Whoever leads hands over before it goes.
    let leader = leader(&cluster);
    cluster.ok(&["server", "remove", &leader]);
    until_listed(&cluster, "3 of 3 voting servers answer; 1 may fail");
    let next = names(&cluster).into_iter().find(|name| *name != self::leader(&cluster)).expect("three are left");
    cluster.ok(&["server", "transfer", &next]);
    cluster.until("the chosen one leads", || self::leader(&cluster) == next);
    let refusal = cluster.fails(&["server", "remove", &leader]);
    assert!(refusal.contains("there is no server"), "{refusal}");
    for gone in ["s5", &leader] {
        cluster.until("the removed have stopped", || {
            let status = cluster.ok(&["lab", "status"]);
            status.lines().any(|line| line.starts_with(gone) && line.contains(" off "))
        });
    }
    let written = writers.end(&cluster);
    println!("one server, three, five, three: {written}");
}

#[test]
fn a_lost_disk_is_replaced_and_a_lost_majority_recovered() {
    let cluster = Cluster::up(3, 1);
    cluster.apply(&hello_manifest(1, "hello"));
    cluster.until_ready("hello", 1);
    let before = (pod_uids(&cluster), running(&cluster));
    let writers = Writers::on(&cluster, 1);
    let lost = names(&cluster).into_iter().find(|name| *name != leader(&cluster)).expect("two follow");
    crash(&cluster, &lost);
    fs::remove_dir_all(directory(&cluster, &lost)).expect("removed");
    cluster.ok(&["up", "--servers", "3", "--nodes", "1"]);
    until_listed(&cluster, "3 of 3 voting servers answer; 1 may fail");
    let list = cluster.ok(&["server", "list"]);
    let id = list.lines().find(|line| line.starts_with(&lost)).and_then(|line| line.split_whitespace().nth(1));
    assert_eq!(id, Some("4"), "another member under the same name:\n{list}");
    println!("a server lost its disk: {}", writers.end(&cluster));

    let kept = cluster.items(&["configmaps"]).len();
    for server in ["s1", "s2", "s3"] {
        crash(&cluster, server);
    }
    for server in ["s2", "s3"] {
        fs::remove_dir_all(directory(&cluster, server)).expect("removed");
    }
    let first = endpoint(&cluster, "s1");
    let own = directory(&cluster, "s1");
    let told = cluster.ok(&["server", "recover", "--data-dir", &own, "--name", "s1", "--advertise", &first]);
    assert!(told.contains("its only server: s1"), "{told}");
    cluster.ok(&["up", "--servers", "3", "--nodes", "1"]);
    until_listed(&cluster, "3 of 3 voting servers answer; 1 may fail");
    assert_eq!(cluster.items(&["configmaps"]).len(), kept);
    cluster.until_ready("hello", 1);
    assert_eq!((pod_uids(&cluster), running(&cluster)), before, "no pod noticed");
}

fn until_listed(cluster: &Cluster, line: &str) {
    cluster.until(line, || String::from_utf8_lossy(&cluster.try_run(&["server", "list"]).stdout).contains(line));
}

/// The names of the servers that vote.
fn names(cluster: &Cluster) -> Vec<String> {
    let list = cluster.ok(&["server", "list"]);
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    list.lines().filter(|line| line.contains(" voter ") || line.contains(" leader ")).filter_map(first).collect()
}

fn leader(cluster: &Cluster) -> String {
    let mut leader = None;
    cluster.until("a server leads", || {
        let list = String::from_utf8_lossy(&cluster.try_run(&["server", "list"]).stdout).into_owned();
        let line = list.lines().find(|line| line.contains(" leader ")).map(str::to_owned);
        leader = line.and_then(|line| line.split_whitespace().next().map(str::to_owned));
        leader.is_some()
    });
    leader.expect("found")
}

fn crash(cluster: &Cluster, member: &str) {
    let pid = cluster.process(member);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    cluster.until_ended(pid);
}

fn directory(cluster: &Cluster, member: &str) -> String {
    cluster.directory().join(member).display().to_string()
}

fn endpoint(cluster: &Cluster, server: &str) -> String {
    format!("{}:6443", cluster.node_address_of_file(server))
}

fn pod_uids(cluster: &Cluster) -> BTreeSet<String> {
    cluster.items(&["pods"]).iter().map(|pod| string(&pod["metadata"]["uid"])).collect()
}

fn running(cluster: &Cluster) -> BTreeSet<String> {
    ["n1", "n2"].into_iter().flat_map(|node| cluster.running_programs(node)).collect()
}

/// Of a write that takes place now.
fn revision(cluster: &Cluster) -> u64 {
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    cluster.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: now}}, data: {{at: \"{at}\"}}}}"));
    string(&cluster.get(&["configmap", "now"])["metadata"]["resourceVersion"]).parse().expect("a number")
}
