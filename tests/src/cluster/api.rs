//! The API of several servers, as clients see it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use super::harness::Cluster;

#[test]
fn every_server_answers_and_watches_survive_the_leader() {
    let cluster = Cluster::up(3, 0);
    let leader = cluster.leader();
    let follower = ["s1", "s2", "s3"].into_iter().find(|name| *name != leader).expect("three servers");
    let kubeconfig = |server: &str| cluster.directory().join(server).join("admin.kubeconfig").display().to_string();
    let on = |server: &str, words: &[&str]| {
        let path = kubeconfig(server);
        let mut arguments = vec!["--kubeconfig", path.as_str()];
        arguments.extend(words);
        cluster.ok(&arguments)
    };
    let path = kubeconfig(follower);
    let mut watch = cluster
        .command(&["--kubeconfig", &path, "get", "configmaps", "--watch", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();

    // Written on a follower, read at once on all.
    let manifest = cluster.directory().join("one.yaml");
    std::fs::write(&manifest, "{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}").expect("written");
    on(follower, &["apply", "-f", &manifest.display().to_string()]);
    for server in ["s1", "s2", "s3"] {
        assert!(on(server, &["get", "configmaps"]).contains("one"), "{server}");
    }
    cluster.ok(&["lab", "stop", &leader]);
    std::fs::write(&manifest, "{apiVersion: v1, kind: ConfigMap, metadata: {name: two}}").expect("written");
    cluster.until("another server leads", || {
        let output = cluster.try_run(&["--kubeconfig", &path, "apply", "-f", &manifest.display().to_string()]);
        output.status.success()
    });
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.starts_with("two")) {
        seen.push(lines.next().expect("the watch goes on").expect("a line"));
    }
    assert!(seen.iter().any(|line| line.starts_with("one")), "{seen:?}");
    watch.kill().expect("it ran");
    watch.wait().expect("it ended");
}
