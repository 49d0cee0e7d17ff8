//! Pods: from their creation to Running, and to their end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    IMAGE, RESTED, answer,
    measure::{Report, rss, shim_pss},
    until,
};
use crate::{
    client::{Client, refused},
    failure::{Doing, Failure, Outcome},
    verbs::items,
};

/// A pod whose start takes longer is told, instead of waited for.
const START_MAX: Duration = Duration::from_secs(60);

pub async fn one_at_a_time(client: &Client, report: &Report, n_pods: usize) -> Outcome {
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for number in 0..n_pods {
        let name = format!("one-{number}");
        started.push(start(client, &name).await?);
        let began = Instant::now();
        answer(client.delete(&pod_path(&name), &json!({})).await?)?;
        until(|| async { Ok(client.get(&pod_path(&name)).await?.is_err()) }).await?;
        ended.push(began.elapsed());
    }
    report.spread("pod create → Running, one at a time", &mut started);
    report.spread("pod deleted → object gone", &mut ended);
    Ok(())
}

pub async fn in_flight(client: &Client, report: &Report, n_pods: usize, width: usize) -> Outcome {
    let names: Vec<String> = (0..n_pods * 2).map(|number| format!("some-{number}")).collect();
    let began = Instant::now();
    let mut starts = Vec::new();
    for chunk in names.chunks(width) {
        for outcome in futures::future::join_all(chunk.iter().map(|name| start(client, name))).await {
            starts.push(outcome?);
        }
    }
    let what = format!("pod create → Running, {width} in flight");
    report.rate(&what, names.len(), began.elapsed());
    report.spread(&what, &mut starts);
    for name in &names {
        answer(client.delete(&pod_path(name), &json!({})).await?)?;
    }
    gone(client, "bench-pod").await
}

/// Creates a pod and waits until it is Running, by a watch.
async fn start(client: &Client, name: &str) -> Outcome<Duration> {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench-pod"}},
        "spec": {"containers": [{"name": "hello", "image": IMAGE}]},
    });
    let began = Instant::now();
    let made = answer(client.post("/api/v1/namespaces/default/pods", &object).await?)?;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!(
        "/api/v1/namespaces/default/pods?watch=true&resourceVersion={revision}&fieldSelector=metadata.name%3D{name}"
    );
    let mut stream = client.stream(&path, "application/json").await?.map_err(|status| refused(&status))?;
    let deadline = tokio::time::Instant::now() + START_MAX;
    while let Ok(Some(line)) = tokio::time::timeout_at(deadline, stream.line()).await {
        let event: Value = serde_json::from_slice(&line).doing("a watch")?;
        if event["object"]["status"]["phase"] == "Running" {
            return Ok(began.elapsed());
        }
    }
    Err(Failure::new(format!("pod {name} did not start, or its watch ended early")))
}

/// Deployments on one node, until all their pods are Ready.
pub async fn many(client: &Client, report: &Report) -> Outcome {
    for replicas in [30, 60] {
        let looked_at = async || {
            if replicas == 30 {
                tokio::time::sleep(RESTED).await;
                report.memory("server RSS, 30 pods", rss("server"));
                report.memory("agent RSS, 30 pods", rss("agent"));
                report.memory("shim PSS, mean of 30", shim_pss());
            }
        };
        let took = come_and_go(client, &format!("many{replicas}"), replicas, looked_at).await?;
        report.seconds(&format!("Deployment of {replicas} on one node, all Ready"), took);
    }
    Ok(())
}

/// A Deployment until all its pods are Ready, which is what is timed; then it is looked at, and goes.
pub async fn come_and_go(client: &Client, name: &str, replicas: usize, look: impl AsyncFnOnce()) -> Outcome<Duration> {
    let began = Instant::now();
    deployment(client, name, replicas).await?;
    ready(client, name, replicas).await?;
    let took = began.elapsed();
    look().await;
    let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
    answer(client.delete(&path, &json!({})).await?)?;
    gone(client, name).await?;
    Ok(took)
}

pub async fn deployment(client: &Client, name: &str, replicas: usize) -> Outcome {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "containers": [{"name": "hello", "image": IMAGE, "readinessProbe": {
                    "httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1,
                }}],
            }},
        },
    });
    answer(client.post("/apis/apps/v1/namespaces/default/deployments", &object).await?).map(drop)
}

pub async fn ready(client: &Client, app: &str, replicas: usize) -> Outcome {
    until(|| async { Ok(pods(client, app).await?.iter().filter(|pod| is_ready(pod)).count() == replicas) }).await
}

pub async fn gone(client: &Client, app: &str) -> Outcome {
    until(|| async { Ok(pods(client, app).await?.is_empty()) }).await
}

pub async fn pods(client: &Client, app: &str) -> Outcome<Vec<Value>> {
    items(client, &format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}")).await
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}
