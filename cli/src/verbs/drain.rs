//! `copepod drain`: empties a node, and says what it waits for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    cordon,
    resource::{encode, items},
};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

/// Between two tries of evictions that a disruption budget refused.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct Drain {
    #[arg(required = true)]
    nodes: Vec<String>,
    /// Also deletes pods that nothing would create anew
    #[arg(long)]
    force: bool,
    /// Deletes pods although their emptyDir volumes are lost
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Gives up after this many seconds; 0 waits for ever
    #[arg(long, default_value_t = 0)]
    timeout: u64,
}

pub async fn run(drain: Drain, client: &Client) -> Outcome {
    for node in &drain.nodes {
        cordon::set(client, node, true).await?;
        empty(&drain, client, node).await?;
        println!("node/{node} drained");
    }
    Ok(())
}

async fn empty(drain: &Drain, client: &Client, node: &str) -> Outcome {
    let began = Instant::now();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = false;
    loop {
        let path = format!("/api/v1/pods?fieldSelector={}", encode(&format!("spec.nodeName={node}")));
        let pods: Vec<Value> = items(client, &path).await?.into_iter().filter(|pod| !stays(pod)).collect();
        if pods.is_empty() {
            return Ok(());
        }
        if !checked {
            check(drain, &pods)?;
            checked = true;
        }
        let mut waits = Vec::new();
        for pod in &pods {
            let name = named(pod);
            let why = match &pod["metadata"]["deletionTimestamp"] {
                Value::Null => evict(client, pod).await?,
                _ => Some("is ending".to_owned()),
            };
            let why = why.unwrap_or_else(|| "is evicted".to_owned());
            if told.get(&name) != Some(&why) {
                eprintln!("pod {name} {why}");
                told.insert(name.clone(), why.clone());
            }
            waits.push(format!("pod {name} {why}"));
        }
        if drain.timeout > 0 && began.elapsed() > Duration::from_secs(drain.timeout) {
            return Err(Failure::new(format!(
                "node/{node} is not empty after {} s:\n{}",
                drain.timeout,
                waits.join("\n")
            ))
            .hint("start more replicas elsewhere, or change the disruption budget that is named"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Pods that a node keeps: those that have ended, and those that belong to the node itself.
fn stays(pod: &Value) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    ended || owner(pod).is_some_and(|kind| kind == "DaemonSet" || kind == "Node")
}

fn owner(pod: &Value) -> Option<&str> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["kind"].as_str()
}

fn check(drain: &Drain, pods: &[Value]) -> Outcome {
    let names = |chosen: &dyn Fn(&&Value) -> bool| pods.iter().filter(chosen).map(named).collect::<Vec<_>>().join(", ");
    let alone = names(&|pod| owner(pod).is_none());
    if !alone.is_empty() && !drain.force {
        return Err(
            Failure::new(format!("nothing would create these pods anew: {alone}")).hint("delete them with --force")
        );
    }
    let with_data = names(&|pod| {
        pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| !volume["emptyDir"].is_null())
    });
    if !with_data.is_empty() && !drain.delete_emptydir_data {
        return Err(Failure::new(format!("these pods would lose the data of their emptyDir volumes: {with_data}"))
            .hint("accept that with --delete-emptydir-data"));
    }
    Ok(())
}

/// `None` when the pod may go, else what holds it back.
async fn evict(client: &Client, pod: &Value) -> Outcome<Option<String>> {
    let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"namespace": namespace, "name": name},
        "deleteOptions": {"preconditions": {"uid": pod["metadata"]["uid"]}},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", text(namespace), text(name));
    match client.post(&path, &eviction).await? {
        Ok(_) => Ok(None),
        Err(status) if status.code() == 404 || status.code() == 409 => Ok(None),
        Err(status) if status.code() == 429 => {
            let causes = status.details().and_then(|details| details.causes.clone()).unwrap_or_default();
            let cause =
                causes.into_iter().find_map(|cause| cause.message).unwrap_or_else(|| status.message().to_owned());
            Ok(Some(format!("waits: {cause}")))
        }
        Err(status) => Err(refused(&status)),
    }
}

fn named(pod: &Value) -> String {
    format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
