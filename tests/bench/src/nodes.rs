//! What thousands of nodes cost one server.
//!
//! The server is a process of its own, so that what it takes can be told from what the nodes take. The nodes are agents as
//! they are, each with its identity, its TLS session and its directory, whose rooms only pretend (`copepod_node_agent::hollow`);
//! they share the processors with the server. Sizes are asked for with `COPEPOD_BENCH_NODES=100,1000`; directories
//! of nodes lie below `TMPDIR`.

mod agents;
mod api;
pub mod server;

use std::time::{Duration, Instant};

use copepod_api::Timestamp;
use copepod_identity::{Role, Tokens};
use serde_json::{Value, json};

use self::{agents::Agents, api::Api, server::Server};
use crate::figures::{Figure, quantile};

/// Sizes measured when none are asked for: the growth of each figure shows from one to the other.
const SIZES: &str = "100,1000";

const PODS_A_NODE: usize = 10;

/// As many as users of one service have, and a slice holds.
const ENDPOINTS: usize = 1_000;
const ENDPOINTS_A_SLICE: usize = 100;

/// Replicas of one Deployment; the first has so many where there are nodes for them.
const REPLICAS_MAX: usize = 5_000;

/// How long nothing is asked for while the server is watched.
const STEADY: Duration = Duration::from_secs(20);

/// The first Deployment.
const FIRST: &str = "/apis/apps/v1/namespaces/default/deployments/web-0";

/// What has just been done echoes: events, statuses, snapshots.
const CALM: Duration = Duration::from_secs(10);

/// Until all have acknowledged what they were told, and have written it down.
const ECHO: Duration = Duration::from_secs(4);

/// How often an endpoint changes.
const TURNS: usize = 5;

/// Nothing that is measured here may take longer.
const PATIENCE: Duration = Duration::from_secs(900);

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(16).build();
    let runtime = runtime.expect("a runtime");
    let sizes = std::env::var("COPEPOD_BENCH_NODES").unwrap_or_else(|_| SIZES.into());
    for size in sizes.split(',').filter_map(|size| size.trim().parse().ok()) {
        if let Err(why) = runtime.block_on(measure_size(size, tell)) {
            eprintln!("error: {size} nodes: {why}");
        }
    }
}

async fn measure_size(n_nodes: usize, tell: &mut dyn FnMut(Figure)) -> Result<(), String> {
    let server = Server::start().await?;
    let api = Api::connect(&server).await?;
    let token = token(&api, &server).await?;
    let told = |what: &str| format!("{n_nodes} nodes: {what}");

    let begin = Instant::now();
    let agents = Agents::start(n_nodes, &server, &token).await?;
    tell(Figure::rate(told("joined"), n_nodes, begin.elapsed()));
    tell(resident(told("RSS of the server, no pods"), &server));
    steady(&told("no pods"), &api, &server, tell).await?;

    let n_pods = n_nodes * PODS_A_NODE;
    let begin = Instant::now();
    deploy(&api, n_pods).await?;
    until_available(&api, n_pods).await?;
    tell(Figure::rate(told("pods available"), n_pods, begin.elapsed()));
    service(&api).await?;
    tokio::time::sleep(CALM).await;
    tell(resident(told("RSS of the server"), &server).at_most(1536.0));
    let at_rest = steady(&told("steady"), &api, &server, tell).await?;

    let mut reached = Vec::new();
    let (cpu, changes_begin) = (server.cpu(), Instant::now());
    for turn in 1..=TURNS {
        let begin = Instant::now();
        let written = api.put(&slice_path(0), &slice(0, turn)).await?;
        reached.extend(agents.until_told(revision_of(&written)?, begin, PATIENCE).await?);
        tokio::time::sleep(ECHO).await;
    }
    let beats = at_rest * changes_begin.elapsed().as_secs_f64();
    let each = ((server.cpu() - cpu).as_secs_f64() - beats) * 1e6 / (TURNS * n_nodes) as f64;
    tell(Figure::new(told("an endpoint, processor time of the server for each node"), each, "µs"));
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    tell(Figure::new(told("an endpoint reaches a node, p50"), milliseconds(quantile(&mut reached, 0.5)), "ms"));
    tell(Figure::new(told("an endpoint reaches a node, p99"), milliseconds(quantile(&mut reached, 0.99)), "ms"));
    let last = milliseconds(quantile(&mut reached, 1.0));
    tell(Figure::new(told("an endpoint reaches the last node"), last, "ms").at_most(1e3));

    let n_rolled = n_pods.min(REPLICAS_MAX);
    let begin = Instant::now();
    roll(&api).await?;
    until_rolled(&api, n_rolled).await?;
    tell(Figure::rate(told(&format!("pods of a Deployment of {n_rolled} replaced")), n_rolled, begin.elapsed()));
    until_available(&api, n_pods).await?;

    let begin = Instant::now();
    agents.lose_a_tenth()?;
    until(&api, |available| available < n_pods).await?;
    until_available(&api, n_pods).await?;
    let took = begin.elapsed().as_secs_f64();
    tell(Figure::new(told("a tenth is lost, and its pods run elsewhere"), took, "s").at_most(15.0));
    Ok(())
}

fn resident(what: String, server: &Server) -> Figure {
    Figure::new(what, server.resident_bytes() as f64 / f64::from(1 << 20), "MiB")
}

/// What the server does while nobody asks for anything; how much of a core it takes.
async fn steady(what: &str, api: &Api, server: &Server, tell: &mut dyn FnMut(Figure)) -> Result<f64, String> {
    tokio::time::sleep(CALM).await;
    let (cpu, revision, begin) = (server.cpu(), revision(api).await?, Instant::now());
    tokio::time::sleep(STEADY).await;
    let busy = (server.cpu() - cpu).as_secs_f64() / begin.elapsed().as_secs_f64();
    tell(Figure::new(format!("{what}: processor time of the server"), busy * 1e2, "% of a core").at_most(10.0));
    let written = self::revision(api).await? - revision;
    tell(Figure::new(format!("{what}: objects written in {} s", STEADY.as_secs()), written as f64, "").at_most(0.0));
    Ok(busy)
}

/// Where the state is: it moves with each object that is written.
async fn revision(api: &Api) -> Result<u64, String> {
    revision_of(&api.get("/api/v1/namespaces/default/configmaps?limit=1").await?)
}

fn revision_of(told: &Value) -> Result<u64, String> {
    let text = told["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    text.parse().map_err(|_| format!("{text:?} is no revision"))
}

async fn token(api: &Api, server: &Server) -> Result<String, String> {
    let minted = Tokens::mint(Role::Node, server.authority_pem(), Duration::from_secs(86_400), Timestamp::now());
    let minted = minted.map_err(|error| error.to_string())?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": Tokens::SECRET_TYPE,
        "metadata": {"name": minted.secret_name, "namespace": Tokens::NAMESPACE}, "stringData": minted.data,
    });
    let path = format!("/api/v1/namespaces/{}/secrets", Tokens::NAMESPACE);
    // A server that has just begun to lead makes its namespaces first.
    let begin = Instant::now();
    loop {
        match api.post(&path, &secret).await {
            Ok(_) => return Ok(minted.text),
            Err(_) if begin.elapsed() < CALM => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return Err(error),
        }
    }
}

async fn deploy(api: &Api, n_pods: usize) -> Result<(), String> {
    let mut left = n_pods;
    for number in 0.. {
        let replicas = left.min(REPLICAS_MAX);
        if replicas == 0 {
            break;
        }
        left -= replicas;
        let labels = json!({"app": format!("web-{number}")});
        let container = json!({"name": "web", "image": "web:1", "imagePullPolicy": "IfNotPresent"});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("web-{number}")},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "automountServiceAccountToken": false},
            }},
        });
        api.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await?;
    }
    Ok(())
}

async fn until_available(api: &Api, n_pods: usize) -> Result<(), String> {
    until(api, |available| available == n_pods).await
}

/// Changes what the pods of the first Deployment are made from.
async fn roll(api: &Api) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let mut deployment = api.get(FIRST).await?;
        deployment["spec"]["template"]["metadata"]["annotations"] = json!({"turn": "2"});
        match api.put(FIRST, &deployment).await {
            Ok(_) => return Ok(()),
            // Its status has changed in between.
            Err(_) if begin.elapsed() < CALM => (),
            Err(error) => return Err(error),
        }
    }
}

/// Waits until all pods of the first Deployment are new and available, and none is left of the old.
async fn until_rolled(api: &Api, n_pods: usize) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let deployment = api.get(FIRST).await?;
        let is_seen = deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"];
        let counts =
            ["replicas", "updatedReplicas", "availableReplicas"].map(|count| deployment["status"][count].as_u64());
        if is_seen && counts.iter().all(|count| *count == Some(n_pods as u64)) {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("replicas, updated and available are {counts:?} after {} s", PATIENCE.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a number of pods that are available.
async fn until(api: &Api, holds: impl Fn(usize) -> bool) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let list = api.get("/apis/apps/v1/namespaces/default/deployments").await?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let available = items.iter().filter_map(|item| item["status"]["availableReplicas"].as_u64());
        let available = available.sum::<u64>() as usize;
        if holds(available) {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("{available} pods are available after {} s", PATIENCE.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A service whose endpoints are written by hand, so that nothing changes them meanwhile.
async fn service(api: &Api) -> Result<(), String> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "big"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    api.post("/api/v1/namespaces/default/services", &service).await?;
    for number in 0..ENDPOINTS / ENDPOINTS_A_SLICE {
        api.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice(number, 0)).await?;
    }
    Ok(())
}

fn slice_path(number: usize) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{}-{number}", agents::SLICE)
}

/// The first endpoint is ready or not, turn by turn.
fn slice(number: usize, turn: usize) -> Value {
    let endpoints: Vec<Value> = (0..ENDPOINTS_A_SLICE)
        .map(|place| {
            let is_ready = place > 0 || turn.is_multiple_of(2);
            let name = format!("big-5d4f8c7b9-{number}{place:04}");
            json!({
                "addresses": [format!("10.200.{number}.{place}")],
                "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
                "nodeName": format!("hollow-{place}"),
                "targetRef": {"kind": "Pod", "namespace": "default", "name": name,
                              "uid": format!("9f0c2b1e-1111-4222-8333-{number:06}{place:06}")},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{}-{number}", agents::SLICE), "labels": {"kubernetes.io/service-name": "big"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}
