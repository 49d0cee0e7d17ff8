//! `copepod bench`: the figures of the README, printed by the program that they are about.
//!
//! Brings local clusters up beside whatever runs, under a name of their own, and takes them down. Nothing is asserted;
//! run it on an idle machine, more than once.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::{Client, refused},
    failure::{Doing, Failure, Outcome},
    kubeconfig,
    lab::Lab,
    verbs::items,
};

const IMAGE: &str = "copepod.local/hello:1";

/// Between two looks where no watch is used; far below what is measured.
const LOOK: Duration = Duration::from_millis(2);

/// Beyond this something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct Bench {
    /// The static program of manifests/hello: see manifests/demo for how it is built
    #[arg(long)]
    hello: PathBuf,
    /// Pods started one at a time
    #[arg(long, default_value_t = 20)]
    pods: usize,
}

pub async fn run(bench: Bench) -> Outcome {
    if std::env::var_os("COPEPOD_LAB").is_none_or(|name| name != "bench") {
        return again_in_own_lab().await;
    }
    let report = Report::begin();
    run_copepod(&["down"])?;
    let file = format!("/hello={}", bench.hello.display());
    let build = ["image", "build", IMAGE, "--file", &file, "--entrypoint", "/hello"];

    run_copepod(&build)?;
    let began = Instant::now();
    run_copepod(&["up", "--servers", "1", "--nodes", "0"])?;
    report.line("up: 1 server, answering", seconds(began.elapsed()));
    report.line("server RSS, idle", memory(rss("server")));
    run_copepod(&["down"])?;

    run_copepod(&build)?;
    let began = Instant::now();
    run_copepod(&["up", "--servers", "3", "--nodes", "3"])?;
    report.line("up: 3 servers + 3 nodes, all ready", seconds(began.elapsed()));
    let client = connect()?;
    deployment(&client, "first", 3).await?;
    ready(&client, "first", 3).await?;
    report.line("… with a Deployment of 3 Ready", seconds(began.elapsed()));
    report.line("agent RSS, one pod", memory(rss("agent")));
    failures(&client, &report).await?;
    run_copepod(&["down"])?;

    run_copepod(&build)?;
    run_copepod(&["up", "--servers", "1", "--nodes", "1"])?;
    let client = connect()?;
    one_at_a_time(&client, &report, bench.pods).await?;
    in_flight(&client, &report, bench.pods, 8).await?;
    for replicas in [30, 60] {
        let name = format!("many{replicas}");
        let began = Instant::now();
        deployment(&client, &name, replicas).await?;
        ready(&client, &name, replicas).await?;
        report.line(&format!("Deployment of {replicas} on one node, all Ready"), seconds(began.elapsed()));
        if replicas == 30 {
            report.line("server RSS, 30 pods", memory(rss("server")));
            report.line("agent RSS, 30 pods", memory(rss("agent")));
            report.line("shim PSS, mean of 30", memory(shim_pss()));
        }
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
        answer(client.delete(&path, &json!({})).await?)?;
        gone(&client, &name).await?;
    }
    run_copepod(&["down"])
}

/// How long failures are felt.
async fn failures(client: &Client, report: &Report) -> Outcome {
    let began = Instant::now();
    run_copepod(&["lab", "stop", "n3"])?;
    until(|| async {
        let pods = pods(client, "first").await?;
        Ok(pods.iter().filter(|pod| is_ready(pod) && pod["spec"]["nodeName"] != "n3").count() == 3)
    })
    .await?;
    report.line("node off → its pods Ready elsewhere", seconds(began.elapsed()));
    run_copepod(&["lab", "heal", "n3"])?;

    let lab = Lab::current();
    let leader = (1..=3).find(|number| {
        let log = fs::read_to_string(lab.directory().join(format!("log/s{number}.log"))).unwrap_or_default();
        log.rfind("this server leads term") > log.rfind("this server leads no more")
    });
    let leader = leader.ok_or_else(|| Failure::new("no server's log says that it leads"))?;
    let other = (1..=3).find(|number| *number != leader).unwrap_or(1);
    let path = lab.directory().join(format!("s{other}/admin.kubeconfig"));
    let other = Client::new(kubeconfig::read(&path, None)?)?;
    let began = Instant::now();
    run_copepod(&["lab", "stop", &format!("s{leader}")])?;
    until(|| async {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "after-"}});
        Ok(other.post("/api/v1/namespaces/default/configmaps", &object).await.is_ok_and(|answer| answer.is_ok()))
    })
    .await?;
    report.line("leader off → next write accepted", seconds(began.elapsed()));
    Ok(())
}

async fn one_at_a_time(client: &Client, report: &Report, n_pods: usize) -> Outcome {
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for number in 0..n_pods {
        let name = format!("one-{number}");
        started.push(start(client, &name).await?);
        let began = Instant::now();
        answer(client.delete(&pod_path(&name), &json!({})).await?)?;
        until(|| async { Ok(client.get(&pod_path(&name)).await?.is_err()) }).await?;
        ended.push(began.elapsed());
    }
    report.line("pod create → Running, one at a time", spread(&mut started));
    report.line("pod deleted → object gone", spread(&mut ended));
    Ok(())
}

async fn in_flight(client: &Client, report: &Report, n_pods: usize, width: usize) -> Outcome {
    let names: Vec<String> = (0..n_pods * 2).map(|number| format!("some-{number}")).collect();
    let began = Instant::now();
    let mut starts = Vec::new();
    for chunk in names.chunks(width) {
        for outcome in futures::future::join_all(chunk.iter().map(|name| start(client, name))).await {
            starts.push(outcome?);
        }
    }
    let rate = names.len() as f64 / began.elapsed().as_secs_f64();
    report.line(&format!("the same, {width} in flight"), format!("{}, {rate:.0} pods/s", spread(&mut starts)));
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
    while let Some(line) = stream.line().await {
        let event: Value = serde_json::from_slice(&line).doing("a watch")?;
        if event["object"]["status"]["phase"] == "Running" {
            return Ok(began.elapsed());
        }
    }
    Err(Failure::new(format!("the watch of {name} ended early")))
}

async fn deployment(client: &Client, name: &str, replicas: usize) -> Outcome {
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

async fn ready(client: &Client, app: &str, replicas: usize) -> Outcome {
    until(|| async { Ok(pods(client, app).await?.iter().filter(|pod| is_ready(pod)).count() == replicas) }).await
}

async fn gone(client: &Client, app: &str) -> Outcome {
    until(|| async { Ok(pods(client, app).await?.is_empty()) }).await
}

async fn pods(client: &Client, app: &str) -> Outcome<Vec<Value>> {
    items(client, &format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}")).await
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

async fn until<F: Future<Output = Outcome<bool>>>(condition: impl Fn() -> F) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await? {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("gave up after {} s", PATIENCE.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn answer(answer: crate::client::Answer) -> Outcome<Value> {
    answer.map_err(|status| refused(&status))
}

fn connect() -> Outcome<Client> {
    let path = Lab::current().directory().join("s1/admin.kubeconfig");
    Client::new(kubeconfig::read(&path, None)?)
}

/// The lab is chosen by the environment, so the bench proper is a process with its own.
async fn again_in_own_lab() -> Outcome {
    let own = std::env::current_exe().doing("the path of this program")?;
    let status = Command::new(own).args(std::env::args_os().skip(1)).env("COPEPOD_LAB", "bench").status();
    match status.doing("copepod bench")?.success() {
        true => Ok(()),
        false => Err(Failure::new("the benchmark did not come to its end")),
    }
}

fn run_copepod(arguments: &[&str]) -> Outcome {
    let own = std::env::current_exe().doing("the path of this program")?;
    let output = Command::new(own).args(arguments).stdin(Stdio::null()).output().doing("copepod")?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::new(format!("copepod {}: {}", arguments.join(" "), errors.trim())))
}

/// Bytes of each process of this lab with this first argument, in the sense of `read`.
fn processes(word: &str, read: impl Fn(u32) -> Option<u64>) -> Vec<u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.split('\0').nth(1) == Some(word) && line.contains("/copepod/bench")
        })
        .filter_map(read)
        .collect()
}

fn field(path: String, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn rss(word: &str) -> f64 {
    mean(processes(word, |pid| field(format!("/proc/{pid}/status"), "VmRSS")))
}

fn shim_pss() -> f64 {
    mean(processes("shim", |pid| field(format!("/proc/{pid}/smaps_rollup"), "Pss")))
}

fn mean(values: Vec<u64>) -> f64 {
    values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
}

fn memory(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1024.0 / 1024.0)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn spread(durations: &mut [Duration]) -> String {
    durations.sort();
    let at = |part: f64| durations[((durations.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1000.0;
    format!("p50 {:.0} ms, p99 {:.0} ms", at(0.5), at(0.99))
}

struct Report;

impl Report {
    fn begin() -> Report {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = field("/proc/meminfo".to_owned(), "MemTotal").unwrap_or(0) >> 30;
        let kernel = read("/proc/sys/kernel/osrelease");
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        println!("{cores} cores, {memory} GiB, Linux {}, {profile} build", kernel.trim());
        Report
    }

    fn line(&self, what: &str, figure: String) {
        println!("{what:<48} {figure}");
    }
}
