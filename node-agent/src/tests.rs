//! A whole agent, with a control plane, a runtime, a network and an image store that exist only in memory.

mod joining;
mod world;

use serde_json::json;
use world::World;

#[tokio::test]
async fn a_pod_is_assigned_runs_is_released_and_leaves() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    assert_eq!(cluster.hello["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(cluster.hello["status"]["addresses"][0]["address"], "127.0.0.1");
    assert_eq!(cluster.revision, 0);

    cluster.tell(7, true, &[world.pod("web", "u1", json!({"containers": [{"name": "a", "image": "x:1"}]}))]).await;
    let status = cluster.until("u1", |status| status["phase"] == "Running").await;
    assert_eq!(status["podIP"], "10.0.0.5");
    assert_eq!(status["containerStatuses"][0]["containerID"], "copepod://u1-a-0");
    assert_eq!(status["containerStatuses"][0]["imageID"], "sha256:x:1");
    cluster.acknowledged(7).await;

    let mut leaving = world.pod("web", "u1", json!({"containers": [{"name": "a", "image": "x:1"}]}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    leaving["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    leaving["metadata"]["resourceVersion"] = json!("8");
    cluster.tell(8, false, &[leaving]).await;
    cluster.acknowledged(8).await;
    assert_eq!(world.runtime.running(), ["u1-a-0"], "it waits to be out of everybody's data path");
    cluster.release("u1").await;
    cluster.until_gone("u1").await;
    assert!(world.runtime.running().is_empty() && world.runtime.is_empty());
    assert!(!world.path("pods/u1").exists() && !world.path("logs/d_web_u1").exists());
    assert_eq!(world.runtime.log().last().unwrap(), "remove sandbox u1-0");
}

#[tokio::test]
async fn a_container_joins_and_another_is_resized() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let mut spec = json!({"containers": [{"name": "a", "image": "x:1", "resources": {"requests": {"cpu": "100m"}}}]});
    cluster.tell(7, true, &[world.pod("web", "u1", spec.clone())]).await;
    cluster.until("u1", world::is_ready).await;
    spec["containers"][0]["resources"]["requests"]["cpu"] = json!("500m");
    spec["ephemeralContainers"] = json!([{"name": "shell", "image": "y:1", "targetContainerName": "a"}]);
    let mut changed = world.pod("web", "u1", spec);
    changed["metadata"]["resourceVersion"] = json!("8");
    cluster.tell(8, false, &[changed]).await;
    let status = cluster
        .until("u1", |status| {
            status["ephemeralContainerStatuses"][0]["state"]["running"].is_object()
                && status["containerStatuses"][0]["resources"]["requests"]["cpu"] == "500m"
        })
        .await;
    assert_eq!(status["containerStatuses"][0]["allocatedResources"]["cpu"], "500m");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    let log = world.runtime.log();
    assert!(log.contains(&"resize u1-a-0 512".to_owned()) && log.contains(&"start u1-shell-0".to_owned()), "{log:?}");
    world.stop_agent().await;
    world.start_agent().await;
    let mut cluster = world.session().await;
    cluster.tell(9, false, &[]).await;
    cluster.until("u1", world::is_ready).await;
    assert_eq!(world.runtime.log().len(), log.len(), "nothing is repeated after a restart");
}

#[tokio::test]
async fn a_sandbox_that_ends_by_itself_is_replaced() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let containers = json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]});
    cluster.tell(7, true, &[world.pod("web", "u1", containers)]).await;
    cluster.until("u1", world::is_ready).await;
    world.runtime.kill_sandbox("u1-0");
    let restarted = |status: &serde_json::Value| {
        let again = |place: usize| status["containerStatuses"][place]["restartCount"] == 1;
        again(0) && again(1) && world::is_ready(status)
    };
    let status = cluster.until("u1", restarted).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    let sandboxes: Vec<String> = world.runtime.log().into_iter().filter(|line| line.contains("sandbox")).collect();
    assert_eq!(sandboxes, ["create sandbox u1-0", "remove sandbox u1-0", "create sandbox u1-0"]);
}

#[tokio::test]
async fn what_a_pod_wrote_outlives_it() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let pod = world.pod("web", "u1", json!({"containers": [{"name": "a", "image": "x:1"}]}));
    cluster.tell(7, true, std::slice::from_ref(&pod)).await;
    cluster.until("u1", world::is_ready).await;
    world.write_log("logs/d_web_u1/a/0.log", "last will");
    let mut leaving = pod;
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    leaving["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    leaving["metadata"]["resourceVersion"] = json!("8");
    cluster.tell(8, false, &[leaving]).await;
    cluster.release("u1").await;
    cluster.until_gone("u1").await;
    assert_eq!(cluster.logs("u1", |_| ()).await, "last will\n");
    assert_eq!(cluster.logs("u1", |asked| asked.container.clear()).await, "last will\n");
    let refused = cluster.logs("u2", |_| ()).await;
    assert!(refused.contains("keeps no logs"), "{refused}");
}

#[tokio::test]
async fn a_restart_without_control_plane_touches_nothing() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let probe = json!({"tcpSocket": {"host": "127.0.0.1", "port": world.open_port()}});
    let spec = json!({"containers": [{"name": "a", "image": "x:1", "readinessProbe": probe}]});
    cluster.tell(7, true, &[world.pod("web", "u1", spec)]).await;
    cluster.until("u1", world::is_ready).await;
    let before = world.runtime.log();

    world.stop_agent().await;
    assert_eq!(world.runtime.running(), ["u1-a-0"]);
    world.cut();
    world.start_agent().await;
    world.runtime.crash("u1-a-0", 1);
    world.runtime.until_running("u1-a-1").await;
    let after = world.runtime.log();
    assert_eq!(after[before.len()..], ["start u1-a-1"], "no sandbox was made, nothing was stopped");

    world.heal();
    let mut cluster = world.session().await;
    assert_eq!(cluster.revision, 7, "it asks only for what it has missed");
    cluster.tell(8, false, &[]).await;
    let status = cluster.until("u1", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
}

#[tokio::test]
async fn after_a_start_of_the_machine_nothing_runs_twice_that_is_to_run_once() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let spec = |policy: &str| {
        let init = json!([{"name": "i", "image": "x:1"}]);
        json!({"restartPolicy": policy, "initContainers": init, "containers": [{"name": "a", "image": "x:1"}]})
    };
    let pods = ["Never", "Always", "OnFailure", "Never"].into_iter().zip(["u1", "u2", "u3", "u4"]);
    let pods: Vec<_> = pods.map(|(policy, uid)| world.pod(&format!("pod-{uid}"), uid, spec(policy))).collect();
    cluster.tell(7, true, &pods).await;
    for uid in ["u1", "u2", "u3", "u4"] {
        world.runtime.until_running(&format!("{uid}-i-0")).await;
        world.runtime.crash(&format!("{uid}-i-0"), 0);
        cluster.until(uid, world::is_ready).await;
    }
    world.runtime.crash("u2-a-0", 1);
    cluster.until("u2", |status| status["containerStatuses"][0]["restartCount"] == 1 && world::is_ready(status)).await;
    for uid in ["u3", "u4"] {
        world.runtime.crash(&format!("{uid}-a-0"), 0);
        cluster.until(uid, |status| status["phase"] == "Succeeded").await;
    }

    world.stop_agent().await;
    world.runtime.reboot();
    let before = world.runtime.log().len();
    world.start_agent().await;
    let mut cluster = world.session().await;
    cluster.tell(8, false, &[]).await;
    world.runtime.until_running("u2-i-1").await;
    world.runtime.crash("u2-i-1", 0);
    let status = cluster.until("u2", world::is_ready).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 2);
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("ContainerStatusUnknown"), &json!(137)));
    let status = cluster.until("u1", |status| status["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "ContainerStatusUnknown");
    for uid in ["u3", "u4"] {
        cluster.until(uid, |status| status["phase"] == "Succeeded").await;
    }
    let log = world.runtime.log();
    let started: Vec<&String> = log[before..].iter().filter(|line| line.starts_with("start")).collect();
    assert_eq!(started, ["start u2-i-1", "start u2-a-2"]);
}

#[tokio::test]
async fn after_a_partition_pods_that_went_elsewhere_are_stopped() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let spec = json!({"containers": [{"name": "a", "image": "x:1"}]});
    cluster.tell(7, true, &[world.pod("web", "u1", spec.clone()), world.pod("db", "u2", spec.clone())]).await;
    cluster.until("u2", world::is_ready).await;
    cluster.until("u1", world::is_ready).await;
    world.cut();
    drop(cluster);
    world.heal();
    let mut cluster = world.session().await;
    // The name is another pod's by now, and the old one must not be mistaken for it.
    cluster.tell(9, true, &[world.pod("web", "u3", spec), world.pod("db", "u2", json!({"containers": []}))]).await;
    cluster.until("u3", world::is_ready).await;
    world.runtime.until(|running| running == ["u2-a-0", "u3-a-0"]).await;
    world.until_absent("assignments/leaving/u1.json").await;
}

#[tokio::test]
async fn a_pod_nobody_asked_for_is_stopped_once_the_control_plane_has_spoken() {
    let mut world = World::empty().await;
    world.runtime.plant("u9", "old", "a");
    world.start_agent().await;
    let mut cluster = world.session().await;
    assert_eq!(world.runtime.running(), ["u9-a-0"]);
    cluster.tell(7, true, &[]).await;
    world.runtime.until(|running| running.is_empty()).await;
}

#[tokio::test]
async fn what_a_pod_waits_for_is_said_and_noticed_when_it_comes() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let spec = json!({"containers": [
        {"name": "a", "image": "x:1", "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]},
        {"name": "b", "image": "missing:1"},
    ]});
    cluster.tell(7, true, &[world.pod("web", "u1", spec)]).await;
    let status = cluster
        .until("u1", |status| {
            status["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
                && status["containerStatuses"][1]["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], "configmap \"c\" not found");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "d"}, "data": {"k": "v"}});
    cluster.tell(8, false, &[map]).await;
    cluster.until("u1", |status| !status["containerStatuses"][0]["state"]["running"].is_null()).await;
    assert!(world.runtime.env("u1-a-0").contains(&("K".into(), "v".into())));
}

#[tokio::test]
async fn last_words_logs_and_previous_logs_can_be_read() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    cluster.tell(7, true, &[world.pod("web", "u1", json!({"containers": [{"name": "a", "image": "x:1"}]}))]).await;
    cluster.until("u1", world::is_ready).await;
    world.write_log("logs/d_web_u1/a/0.log", "panic: out of luck");
    world.runtime.crash("u1-a-0", 2);
    let status = cluster.until("u1", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((last["message"].as_str(), last["reason"].as_str()), (Some("panic: out of luck\n"), Some("Error")));

    world.write_log("logs/d_web_u1/a/1.log", "second life");
    assert_eq!(cluster.logs("u1", |_| ()).await, "second life\n");
    assert_eq!(cluster.logs("u1", |asked| asked.previous = true).await, "panic: out of luck\n");
    let refused = cluster.logs("u1", |asked| asked.container = "none".into()).await;
    assert!(refused.contains("waiting to start"), "{refused}");
}

#[tokio::test]
async fn a_server_that_does_not_lead_sends_the_agent_on() {
    let mut world = World::empty().await;
    world.add_redirecting_server().await;
    world.start_agent().await;
    let cluster = world.session().await;
    assert_eq!(cluster.revision, 0);
}

#[tokio::test]
async fn a_pod_shows_its_token_and_keeps_it_while_no_server_answers() {
    let mut world = World::new().await;
    let mut cluster = world.session().await;
    let sources = json!([{"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 3600}}]);
    let spec = json!({
        "containers": [{"name": "a", "image": "x:1"}],
        "volumes": [{"name": "t", "projected": {"sources": sources}}],
    });
    cluster.tell(1, true, &[world.pod("p", "u1", spec)]).await;
    cluster.until("u1", world::is_ready).await;
    let path = world.path("pods/u1/volumes/kubernetes.io~projected/t/token");
    let token = || std::fs::read_to_string(&path).unwrap();
    assert_eq!(token(), "token of p for \"vault\"");

    world.stop_agent().await;
    world.cut();
    world.start_agent().await;
    world.runtime.crash("u1-a-0", 1);
    world.runtime.until_running("u1-a-1").await;
    assert_eq!(token(), "token of p for \"vault\"");
}
