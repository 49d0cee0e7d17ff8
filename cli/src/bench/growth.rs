//! How what is measured grows with what is asked for: so much, ten times and a hundred times as much.
//!
//! Each size has a server of its own. What takes time is told for one object, event or pod: a figure that stays the same
//! grows as what was asked for does, and one that rises is a defect.

use std::time::Duration;

use super::{
    Bench,
    api::{self, CONFIG_MAPS, Driven, IN_FLIGHT, PODS_A_SET},
    build, connect,
    measure::{Report, rss},
    pods, run_copepod,
};
use crate::{client::Client, failure::Outcome};

const SCALES: [usize; 3] = [1, 10, 100];

/// Of the smallest size.
const OBJECTS: usize = 1_000;
const WATCHERS: usize = 10;
const NODES: usize = 10;
const PODS: usize = 100;
const SETS: usize = 10;

const READS: usize = 5_000;
const LISTS: usize = 10;
const PAGE: usize = 500;

pub async fn measure(bench: &Bench, report: &Report) -> Outcome {
    for scale in SCALES {
        run_copepod(&["up", "--servers", "1", "--nodes", "0"])?;
        let client = connect()?;
        objects(&client, report, OBJECTS * scale).await?;
        let n_watchers = WATCHERS * scale;
        let mut delivered = api::fan_out(&client, n_watchers).await?;
        report.spread(&format!("growth: an event to each of {n_watchers} watchers"), &mut delivered);
        run_copepod(&["down"])?;

        run_copepod(&["up", "--servers", "1", "--nodes", "0"])?;
        binding(&connect()?, report, scale).await?;
        run_copepod(&["down"])?;
    }
    build(bench)?;
    run_copepod(&["up", "--servers", "1", "--nodes", "1"])?;
    for n_pods in SCALES {
        let took = pods::come_and_go(&connect()?, &format!("growing{n_pods}"), n_pods, async || ()).await?;
        each(report, &format!("growth: containers on one node, all Ready: {n_pods}"), took, n_pods);
    }
    Ok(())
}

async fn objects(client: &Client, report: &Report, n_objects: usize) -> Outcome {
    let told = |what: &str| format!("growth: {what}, {n_objects} objects");
    let before = rss("server");
    let all = |report: &Report, what: &str, driven: &Driven, n: usize| each(report, &told(what), driven.whole, n);
    let created = api::drive(client, n_objects, IN_FLIGHT, api::config_map).await?;
    all(report, "created, 64 in flight", &created, n_objects);
    report.memory(&told("memory"), rss("server") - before);
    let mut alone = api::drive(client, OBJECTS / 10, 1, move |number| api::config_map(n_objects + number)).await?;
    report.spread(&told("one more"), &mut alone.took);
    let read = move |number: usize| api::get(format!("{CONFIG_MAPS}/bench-{}", number * 7919 % n_objects));
    let read = api::drive(client, READS, IN_FLIGHT, read).await?;
    all(report, "GET, 64 in flight", &read, READS);
    let page = |_| api::get(format!("{CONFIG_MAPS}?limit={PAGE}"));
    let mut pages = api::drive(client, LISTS, 1, page).await?;
    report.spread(&told(&format!("a page of {PAGE}")), &mut pages.took);
    let lists = api::drive(client, LISTS, 1, |_| api::get(format!("{CONFIG_MAPS}?resourceVersion=0"))).await?;
    all(report, "LIST, an object", &lists, LISTS * n_objects);
    Ok(())
}

async fn binding(client: &Client, report: &Report, scale: usize) -> Outcome {
    let (n_nodes, n_pods, n_sets) = (NODES * scale, PODS * scale, SETS * scale);
    api::paper_nodes(client, n_nodes).await?;
    let told = |what: &str, n: usize| format!("growth: {what}, {n} pods on {n_nodes} nodes");
    let took = api::single_pods(client, n_pods).await?;
    each(report, &told("created and bound", n_pods), took, n_pods);
    let took = api::one_deployment(client, n_pods).await?;
    each(report, &told("of one Deployment", n_pods), took, n_pods);
    let took = api::many_deployments(client, n_sets).await?;
    each(report, &told("of Deployments of ten", n_sets * PODS_A_SET), took, n_sets * PODS_A_SET);
    Ok(())
}

/// What one of `n` took.
fn each(report: &Report, what: &str, whole: Duration, n: usize) {
    report.microseconds(what, whole / n as u32);
}
