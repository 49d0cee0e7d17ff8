//! `copepod bench`: the figures of the README, printed by the program that they are about.
//!
//! Brings local clusters up beside whatever runs, under a name of their own, and takes them down. Nothing is asserted;
//! run it on an idle machine, more than once.

mod api;
mod growth;
mod measure;
mod pods;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use self::measure::{Report, rss};
use crate::{
    client::{Client, refused},
    failure::{Doing, Failure, Outcome},
    kubeconfig,
    lab::Lab,
    unused,
};

const IMAGE: &str = "copepod.local/hello:1";

/// Between two looks where no watch is used; far below what is measured.
const LOOK: Duration = Duration::from_millis(2);

/// A server packs what has been at rest for five seconds, and daemons give back from time to time what they no longer run.
const RESTED: Duration = unused::EVERY.saturating_add(Duration::from_secs(2));

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
    /// Measure how figures grow with what is asked for, instead
    #[arg(long)]
    growth: bool,
    /// Print a line of JSON a figure
    #[arg(long)]
    json: bool,
}

pub async fn run(bench: Bench) -> Outcome {
    if std::env::var_os("COPEPOD_LAB").is_none_or(|name| name != "bench") {
        return again_in_own_lab().await;
    }
    run_copepod(&["down"])?;
    let report = Report::begin(bench.json);
    let measured = match bench.growth {
        true => growth::measure(&bench, &report).await,
        false => measure(&bench, &report).await,
    };
    // Whatever failed: nothing of ours stays.
    measured.and(run_copepod(&["down"]))
}

async fn measure(bench: &Bench, report: &Report) -> Outcome {
    let began = Instant::now();
    run_copepod(&["up", "--servers", "1", "--nodes", "0"])?;
    report.seconds("up: 1 server, answering", began.elapsed());
    report.memory("server RSS, idle", rss("server"));
    api::figures(&connect()?, report).await?;
    run_copepod(&["down"])?;

    build(bench)?;
    let began = Instant::now();
    run_copepod(&["up", "--servers", "3", "--nodes", "3"])?;
    report.seconds("up: 3 servers + 3 nodes, all ready", began.elapsed());
    let client = connect()?;
    pods::deployment(&client, "first", 3).await?;
    pods::ready(&client, "first", 3).await?;
    report.seconds("up: 3 servers + 3 nodes, with a Deployment of 3 Ready", began.elapsed());
    tokio::time::sleep(RESTED).await;
    report.memory("agent RSS, one pod", rss("agent"));
    failures(&client, report).await?;
    run_copepod(&["down"])?;

    build(bench)?;
    run_copepod(&["up", "--servers", "1", "--nodes", "1"])?;
    let client = connect()?;
    pods::one_at_a_time(&client, report, bench.pods).await?;
    pods::in_flight(&client, report, bench.pods, 8).await?;
    pods::many(&client, report).await
}

/// `copepod down` takes the images along.
fn build(bench: &Bench) -> Outcome {
    let file = format!("/hello={}", bench.hello.display());
    run_copepod(&["image", "build", IMAGE, "--file", &file, "--entrypoint", "/hello"])
}

/// How long failures are felt.
async fn failures(client: &Client, report: &Report) -> Outcome {
    let began = Instant::now();
    run_copepod(&["lab", "stop", "n3"])?;
    until(|| async {
        let pods = pods::pods(client, "first").await?;
        Ok(pods.iter().filter(|pod| pods::is_ready(pod) && pod["spec"]["nodeName"] != "n3").count() == 3)
    })
    .await?;
    report.seconds("node off → its pods Ready elsewhere", began.elapsed());
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
    report.seconds("leader off → next write accepted", began.elapsed());
    Ok(())
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
