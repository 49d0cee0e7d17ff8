//! The API of one server, without nodes: the yardsticks that other control planes are measured by.
//!
//! Each request in flight has a connection of its own, which is kept: what is measured is the server, not handshakes.
//! Client and server share the machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    RESTED, answer,
    measure::{Report, rss},
};
use crate::{
    client::{Client, Connection, refused},
    failure::{Doing, Failure, Outcome},
};

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub const IN_FLIGHT: usize = 64;

/// About 5 MB of a list.
const OBJECTS: usize = 5_000;
const PAYLOAD_BYTES: usize = 512;

const READS: usize = 20_000;
const LISTS: usize = 20;
const WATCHERS: usize = 200;
const UPDATES: usize = 100;

/// Between two updates, so that what is measured is delivery and not a queue.
const UPDATE_PAUSE: Duration = Duration::from_millis(20);

const NODES: usize = 1_000;
const PODS_BOUND: usize = 5_000;
const SETS: usize = 500;
pub const PODS_A_SET: usize = 10;

/// Beyond this something is broken.
const BOUND_MAX: Duration = Duration::from_secs(120);

pub async fn figures(client: &Client, report: &Report) -> Outcome {
    let created = drive(client, OBJECTS, IN_FLIGHT, config_map).await?;
    created.report(report, "create ConfigMaps, 64 in flight");
    let alone = drive(client, OBJECTS / 10, 1, |number| config_map(OBJECTS + number)).await?;
    alone.report(report, "create, one at a time");
    let read = drive(client, READS, IN_FLIGHT, |_| get(format!("{CONFIG_MAPS}/bench-0"))).await?;
    read.report(report, "GET, 64 in flight");
    let list = drive(client, LISTS, 1, |_| get(format!("{CONFIG_MAPS}?resourceVersion=0"))).await?;
    let megabytes = list.n_bytes as f64 / LISTS as f64 / 1e6;
    list.report(report, &format!("LIST of {megabytes:.0} MB"));
    let mut delivered = fan_out(client, WATCHERS).await?;
    report.spread(&format!("watch fan-out, {WATCHERS} watchers, write → delivered"), &mut delivered);
    binding(client, report).await
}

pub type Asked = (Method, String, Value);

pub fn get(path: String) -> Asked {
    (Method::GET, path, Value::Null)
}

/// Creates a ConfigMap with this number.
pub fn config_map(number: usize) -> Asked {
    let name = format!("bench-{number}");
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"payload": "x".repeat(PAYLOAD_BYTES)},
    });
    (Method::POST, CONFIG_MAPS.to_owned(), object)
}

/// What many requests took.
pub struct Driven {
    pub took: Vec<Duration>,
    pub whole: Duration,
    n_bytes: usize,
}

impl Driven {
    fn report(mut self, report: &Report, what: &str) {
        report.rate(what, self.took.len(), self.whole);
        report.spread(what, &mut self.took);
    }
}

/// Sends `n` requests with so many in flight.
pub async fn drive<F>(client: &Client, n: usize, in_flight: usize, request: F) -> Outcome<Driven>
where
    F: Fn(usize) -> Asked + Clone + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..in_flight {
        connections.push(client.connect().await?);
    }
    let began = Instant::now();
    let mut workers: JoinSet<Outcome<Driven>> = JoinSet::new();
    for mut connection in connections {
        let (next, request) = (next.clone(), request.clone());
        workers.spawn(async move {
            let mut driven = Driven { took: Vec::new(), whole: Duration::ZERO, n_bytes: 0 };
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= n {
                    return Ok(driven);
                }
                let (method, path, object) = request(number);
                let began = Instant::now();
                driven.n_bytes += done(&mut connection, method, &path, &object).await?;
                driven.took.push(began.elapsed());
            }
        });
    }
    let mut all = Driven { took: Vec::with_capacity(n), whole: Duration::ZERO, n_bytes: 0 };
    while let Some(driven) = workers.join_next().await {
        let driven = driven.doing("a worker")??;
        all.took.extend(driven.took);
        all.n_bytes += driven.n_bytes;
    }
    all.whole = began.elapsed();
    Ok(all)
}

/// A request that has to succeed; gives the size of the answer.
async fn done(connection: &mut Connection, method: Method, path: &str, object: &Value) -> Outcome<usize> {
    let content = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if object.is_null() { Vec::new() } else { object.to_string().into_bytes() };
    let (code, bytes) = connection.exchange(method, path, content, body.into()).await?;
    if code >= 300 {
        return Err(Failure::new(format!("{path}: {code} {}", String::from_utf8_lossy(&bytes))));
    }
    Ok(bytes.len())
}

/// From a write to its delivery to each of many watchers.
pub async fn fan_out(client: &Client, n_watchers: usize) -> Outcome<Vec<Duration>> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"}});
    let made = answer(client.post(CONFIG_MAPS, &object).await?)?;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}&fieldSelector=metadata.name%3Dwatched");
    let began = Instant::now();
    let mut watchers: JoinSet<Outcome<Vec<Duration>>> = JoinSet::new();
    for _ in 0..n_watchers {
        let mut stream = client.stream(&path, "application/json").await?.map_err(|status| refused(&status))?;
        watchers.spawn(async move {
            let mut took = Vec::new();
            while took.len() < UPDATES {
                let line = stream.line().await.ok_or_else(|| Failure::new("a watch ended"))?;
                let now = began.elapsed();
                let event: Value = serde_json::from_slice(&line).doing("a watch")?;
                let sent = event["object"]["data"]["at"].as_str().and_then(|at| at.parse().ok());
                took.extend(sent.map(|sent| now.saturating_sub(Duration::from_micros(sent))));
            }
            Ok(took)
        });
    }
    let mut connection = client.connect().await?;
    for _ in 0..UPDATES {
        tokio::time::sleep(UPDATE_PAUSE).await;
        let patch = json!({"data": {"at": began.elapsed().as_micros().to_string()}});
        done(&mut connection, Method::PATCH, &format!("{CONFIG_MAPS}/watched"), &patch).await?;
    }
    let mut took = Vec::new();
    while let Some(delivered) = watchers.join_next().await {
        took.extend(delivered.doing("a watcher")??);
    }
    Ok(took)
}

/// Pods onto nodes that exist only as objects: what the scheduler and the controllers take.
async fn binding(client: &Client, report: &Report) -> Outcome {
    paper_nodes(client, NODES).await?;
    let took = single_pods(client, PODS_BOUND).await?;
    report.rate(&format!("create + bind {PODS_BOUND} pods on {NODES} nodes"), PODS_BOUND, took);
    let took = one_deployment(client, PODS_BOUND).await?;
    report.seconds(&format!("Deployment of {PODS_BOUND}, created → all bound"), took);
    tokio::time::sleep(RESTED).await;
    report.memory("server RSS after all that", rss("server"));
    let took = many_deployments(client, SETS).await?;
    report.seconds(&format!("{SETS} Deployments of {PODS_A_SET}, created → all bound"), took);
    Ok(())
}

/// Nodes that exist only as objects.
pub async fn paper_nodes(client: &Client, n_nodes: usize) -> Outcome {
    let node = |number: usize| {
        let name = format!("paper-{number}");
        let amount = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"capacity": amount, "allocatable": amount, "conditions": [ready]},
        });
        (Method::POST, "/api/v1/nodes".to_owned(), object)
    };
    drive(client, n_nodes, IN_FLIGHT, node).await.map(drop)
}

fn paper_pod() -> Value {
    let requests = json!({"cpu": "10m", "memory": "8Mi"});
    json!({"containers": [{"name": "c", "image": "paper", "resources": {"requests": requests}}]})
}

/// Pods that nobody owns, created one by one, until all are bound.
pub async fn single_pods(client: &Client, n_pods: usize) -> Outcome<Duration> {
    let began = Instant::now();
    let bound = tokio::spawn(all_bound(client.clone(), "alone", n_pods));
    let create = move |number: usize| {
        let metadata = json!({"name": format!("alone-{number}"), "labels": {"app": "alone"}});
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": paper_pod()});
        (Method::POST, PODS.to_owned(), object)
    };
    drive(client, n_pods, IN_FLIGHT, create).await?;
    bound.await.doing("a watch")??;
    Ok(began.elapsed())
}

/// A Deployment of so many replicas, until all are bound.
pub async fn one_deployment(client: &Client, replicas: usize) -> Outcome<Duration> {
    let began = Instant::now();
    let bound = tokio::spawn(all_bound(client.clone(), "set", replicas));
    answer(client.post(DEPLOYMENTS, &deployment("set", "set", replicas, &paper_pod())).await?)?;
    bound.await.doing("a watch")??;
    Ok(began.elapsed())
}

/// So many Deployments of ten, until all their pods are bound.
pub async fn many_deployments(client: &Client, n_sets: usize) -> Outcome<Duration> {
    let began = Instant::now();
    let bound = tokio::spawn(all_bound(client.clone(), "sets", n_sets * PODS_A_SET));
    let create = move |number: usize| {
        let object = deployment(&format!("sets-{number}"), "sets", PODS_A_SET, &paper_pod());
        (Method::POST, DEPLOYMENTS.to_owned(), object)
    };
    drive(client, n_sets, IN_FLIGHT, create).await?;
    bound.await.doing("a watch")??;
    Ok(began.elapsed())
}

/// Each selects its pods by its name; all of `app` carry that label.
fn deployment(name: &str, app: &str, replicas: usize, spec: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"set": name}},
            "template": {"metadata": {"labels": {"app": app, "set": name}}, "spec": spec},
        },
    })
}

/// Waits, by one watch, until all pods of an app have a node.
async fn all_bound(client: Client, app: &'static str, n_pods: usize) -> Outcome {
    let path = format!("{PODS}?watch=true&resourceVersion=0&labelSelector=app%3D{app}");
    let mut stream = client.stream(&path, "application/json").await?.map_err(|status| refused(&status))?;
    let mut bound = std::collections::BTreeSet::new();
    let deadline = tokio::time::Instant::now() + BOUND_MAX;
    while bound.len() < n_pods {
        let line = tokio::time::timeout_at(deadline, stream.line()).await;
        let line = line
            .ok()
            .flatten()
            .ok_or_else(|| Failure::new(format!("{} of {n_pods} pods were bound when the watch ended", bound.len())))?;
        let event: Value = serde_json::from_slice(&line).doing("a watch")?;
        let object = &event["object"];
        if object["spec"]["nodeName"].is_string() {
            bound.insert(object["metadata"]["name"].to_string());
        }
    }
    Ok(())
}
