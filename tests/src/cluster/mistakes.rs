//! Mistakes of operators: each answer names the field, and nothing is half-applied.

use super::harness::{Cluster, hello_manifest, text};

#[test]
fn mistakes_are_named_and_nothing_is_half_applied() {
    let cluster = Cluster::up(1, 0);
    let good = "{apiVersion: v1, kind: ConfigMap, metadata: {name: good}, data: {a: b}}";
    let refused = |manifests: &str| {
        let output = cluster.try_apply(manifests);
        let said = text(&output);
        assert!(!output.status.success(), "{manifests}\n{said}");
        said
    };

    let said = refused("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n data: {}\n");
    assert!(said.contains("-:5"), "the line is named: {said}");

    let unknown = hello_manifest(1, "x").replace("replicas:", "replicsa:");
    let said = refused(&format!("{good}\n---\n{unknown}"));
    assert!(said.contains("replicsa") && said.contains("spec.replicsa"), "{said}");

    let said = refused(&format!("{good}\n---\n{}", hello_manifest(1, "x").replace("replicas: 1", "replicas: many")));
    assert!(said.contains("spec.replicas"), "{said}");

    let said = refused(&format!("{good}\n---\n{}", hello_manifest(1, "x").replace("replicas: 1", "replicas: -1")));
    assert!(said.contains("spec.replicas") && said.contains("greater than or equal to 0"), "{said}");

    let said = refused("{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}");
    assert!(said.contains("namespaces \"nowhere\" not found"), "{said}");

    let said = refused("{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}");
    assert!(said.contains("metadata.name") || said.contains("RFC 1123"), "{said}");

    let said = refused("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b, a: c}}");
    assert!(said.contains("data.a") || said.contains("duplicate"), "{said}");

    let said = refused("{apiVersion: apps/v1, kind: Deploymnet, metadata: {name: x}}");
    assert!(said.contains("Deploymnet"), "{said}");

    let large = "x".repeat(4 << 20);
    let said = refused(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, data: {{a: {large}}}}}"));
    assert!(said.len() < 10_000 && said.contains("bytes are more than"), "{}", &said[..said.len().min(300)]);

    assert!(cluster.get(&["configmap", "good"]).is_null(), "the good one beside a bad one was not applied");

    cluster.apply(good);
    let output = cluster.try_kubectl(&["create", "configmap", "good"]);
    assert!(text(&output).contains("already exists"), "{}", text(&output));

    let said = cluster.fails(&["get", "deploymnets"]);
    assert!(said.contains("did you mean deployments"), "{said}");
    let said = cluster.fails(&["delete", "namespace", "default", "-n", "default"]);
    assert!(said.contains("not in namespaces"), "{said}");
}

#[test]
fn up_refuses_what_it_did_not_make() {
    let cluster = Cluster::up(1, 0);
    let said = cluster.fails(&["up", "--servers", "1", "--nodes", "0", "--mirror", "nonsense"]);
    assert!(said.contains("mirror"), "{said}");
    // It is safe to run again, and grows.
    cluster.ok(&["up", "--servers", "1", "--nodes", "1"]);
    assert_eq!(cluster.items(&["nodes"]).len(), 1);
    let said = cluster.fails(&["up", "--servers", "1", "--nodes", "0"]);
    assert!(said.contains("copepod down"), "{said}");
}
