//! Stock kubectl, verb by verb.

use std::path::Path;

use super::{
    clients::installed,
    harness::{Cluster, HELLO, hello_manifest, string, text},
};

#[test]
fn the_machines_kubectl_works_unchanged() {
    every_verb("kubectl".as_ref());
}

#[test]
fn the_newest_kubectl_works_unchanged() {
    every_verb(&installed().join("bin/kubectl"));
}

fn every_verb(kubectl: &Path) {
    let cluster = Cluster::up(1, 2);
    let manifest = cluster.directory().join("hello.yaml");
    std::fs::write(&manifest, hello_manifest(2, "one")).expect("written");
    let file = manifest.display().to_string();

    let with = |arguments: &str, environment: &[(&str, &str)]| {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = cluster.try_kubectl_of(kubectl, &words, environment);
        assert!(output.status.success(), "kubectl {arguments}\n{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let k = |arguments: &str| with(arguments, &[]);
    assert!(k("version").contains("Server Version: v1.36"));
    assert!(k("cluster-info").contains("is running at"));
    let resources = k("api-resources");
    for name in ["deployments", "poddisruptionbudgets", "endpointslices", "leases", "configmaps"] {
        assert!(resources.contains(name), "{resources}");
    }
    assert!(k("explain deployment.spec.strategy").contains("RollingUpdate"));

    assert!(k(&format!("apply -f {file}")).contains("deployment.apps/hello created"));
    assert!(k("rollout status deployment/hello --timeout=60s").contains("successfully rolled out"));
    assert!(k(&format!("apply -f {file}")).contains("unchanged"));
    assert!(k(&format!("diff -f {file}")).is_empty());
    assert!(k("get pods -o wide").contains("n1") && k("get pods -l app=hello -o name").lines().count() == 2);
    assert!(k("get pods --field-selector spec.nodeName=n1 -o name").lines().count() == 1);
    assert!(k("get deployment hello -o yaml").contains("replicas: 2"));
    assert!(k("get all").contains("service/hello"));
    assert!(k("describe deployment hello").contains("RollingUpdate"));
    assert!(k("describe node n1").contains("Allocated resources"));
    assert!(k("describe pod -l app=hello").contains("Started"));
    assert!(k("logs deployment/hello").contains("listening"));
    assert!(k("logs deployment/hello --tail=1 -c hello").lines().count() == 1);

    k("label deployment hello tier=front");
    assert!(k("get deployments -l tier=front -o name").contains("hello"));
    k("annotate deployment hello note=yes");
    assert!(k("scale deployment hello --replicas=3").contains("scaled"));
    k("wait deployment hello --for=jsonpath={.status.readyReplicas}=3 --timeout=60s");

    let second = "copepod.local/hello:2";
    cluster.build_hello(second);
    k(&format!("set image deployment/hello hello={second}"));
    k("rollout status deployment/hello --timeout=60s");
    assert!(k("rollout history deployment/hello").contains("2"));
    k("rollout undo deployment/hello");
    k("rollout status deployment/hello --timeout=60s");
    assert_eq!(k("get deployment hello -o jsonpath={.spec.template.spec.containers[0].image}"), HELLO);
    k("rollout restart deployment/hello");
    k("rollout status deployment/hello --timeout=60s");
    k("patch deployment hello -p {\"spec\":{\"replicas\":2}}");
    k("patch deployment hello --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]");
    k("patch deployment hello --type=merge -p {\"spec\":{\"replicas\":2}}");
    k(&format!("apply --server-side --force-conflicts -f {file}"));

    // edit gives the object to a program, and sends what that made of it.
    with("edit deployment hello", &[("KUBE_EDITOR", "sed -i s/front/back/")]);
    assert!(k("get deployments -l tier=back -o name").contains("hello"));

    k("cordon n1");
    assert!(k("get nodes").contains("SchedulingDisabled"));
    k("uncordon n1");
    k("drain n2 --ignore-daemonsets");
    assert!(cluster.pods("hello").iter().all(|pod| string(&pod["spec"]["nodeName"]) == "n1"));
    k("uncordon n2");

    k("create namespace extra");
    k("create configmap settings --from-literal=a=b -n extra");
    k("create secret generic hidden --from-literal=p=q -n extra");
    assert!(k("get configmaps,secrets -n extra").contains("settings"));
    let output = cluster.try_kubectl(&["create", "namespace", "extra"]);
    assert!(text(&output).contains("already exists"), "{}", text(&output));
    k("delete namespace extra --timeout=60s");
    assert!(text(&cluster.try_kubectl(&["get", "namespace", "extra"])).contains("not found"));
    assert!(k("get events").contains("Scheduled"));
    k(&format!("delete -f {file} --timeout=60s"));
    k("wait pod -l app=hello --for=delete --timeout=60s");
}
