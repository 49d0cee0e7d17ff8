//! `copepod drain`: empties a node, and says what it waits for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Args;
use copepod_api::meta::REPLACE;
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
    /// Starts a replacement of each pod elsewhere first, and ends the pod when that serves (pods of ReplicaSets)
    #[arg(long)]
    surge: bool,
    /// Gives up after this many seconds; 0 waits for ever
    #[arg(long, default_value_t = 0)]
    timeout: u64,
}

pub async fn run(drain: Drain, client: &Client) -> Outcome {
    for node in &drain.nodes {
        let is_last = is_last_open(client, node).await?;
        if is_last && drain.surge {
            return Err(Failure::new(format!("no node besides {node} takes pods: no replacement could start"))
                .hint("add a node or uncordon one; without --surge the pods end and wait for a node"));
        }
        if is_last {
            eprintln!("no node besides {node} takes pods: what is evicted waits until one does");
        }
        cordon::set(client, node, true).await?;
        empty(&drain, client, node, is_last).await?;
        println!("node/{node} drained");
    }
    Ok(())
}

/// No other node is ready and open to pods that tolerate nothing.
async fn is_last_open(client: &Client, node: &str) -> Outcome<bool> {
    let closes = |taint: &Value| matches!(taint["effect"].as_str(), Some("NoSchedule" | "NoExecute"));
    let is_open = |other: &Value| {
        other["metadata"]["name"] != node
            && condition(other, "Ready").is_some_and(|ready| ready["status"] == "True")
            && other["spec"]["unschedulable"] != true
            && !other["spec"]["taints"].as_array().into_iter().flatten().any(closes)
    };
    Ok(!items(client, "/api/v1/nodes").await?.iter().any(is_open))
}

async fn empty(drain: &Drain, client: &Client, node: &str, is_last: bool) -> Outcome {
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
                Value::Null if drain.surge && owner(pod).is_some_and(|owner| owner["kind"] == "ReplicaSet") => {
                    replace(client, pod).await?
                }
                Value::Null => match evict(client, pod).await? {
                    Ok(()) => "is evicted".to_owned(),
                    Err(budget) if is_last => {
                        return Err(Failure::new(format!("pod {name} cannot go: {budget}")).hint(
                            "no other node takes pods, so waiting would not help: add one or change the budget",
                        ));
                    }
                    Err(budget) => format!("waits: {budget} (drain --surge starts another pod first)"),
                },
                _ => "is ending".to_owned(),
            };
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
    ended || owner(pod).is_some_and(|owner| owner["kind"] == "DaemonSet" || owner["kind"] == "Node")
}

fn owner(pod: &Value) -> Option<&Value> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == name)
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

/// Asks for another pod in this one's place, and says what that waits for.
async fn replace(client: &Client, pod: &Value) -> Outcome<String> {
    let metadata = &pod["metadata"];
    let namespace = format!("/api/v1/namespaces/{}/pods", text(&metadata["namespace"]));
    if metadata["annotations"][REPLACE] != "true" {
        let mark = json!({"metadata": {"uid": metadata["uid"], "annotations": {REPLACE: "true"}}});
        return match client.merge(&format!("{namespace}/{}", text(&metadata["name"])), &mark).await? {
            Ok(_) => Ok("is being replaced".to_owned()),
            Err(status) if status.code() == 404 || status.code() == 409 => Ok("is gone".to_owned()),
            Err(status) => Err(refused(&status)),
        };
    }
    let set = owner(pod).map(|owner| &owner["uid"]);
    let siblings = items(client, &namespace).await?;
    let late = siblings.iter().find(|sibling| {
        owner(sibling).map(|owner| &owner["uid"]) == set
            && sibling["metadata"]["deletionTimestamp"].is_null()
            && condition(sibling, "Ready").is_none_or(|ready| ready["status"] != "True")
    });
    let Some(late) = late else { return Ok("is being replaced".to_owned()) };
    let unplaced = condition(late, "PodScheduled").filter(|scheduled| scheduled["status"] == "False");
    let waiting = &late["status"]["containerStatuses"][0]["state"]["waiting"];
    let why = match unplaced {
        Some(unplaced) => text(&unplaced["message"]),
        None => waiting["message"].as_str().unwrap_or_else(|| text(&waiting["reason"])),
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    Ok(format!("waits until {} is ready{why}", text(&late["metadata"]["name"])))
}

/// The pod is on its way, or is held back by the budget that the error describes.
async fn evict(client: &Client, pod: &Value) -> Outcome<Result<(), String>> {
    let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"namespace": namespace, "name": name},
        "deleteOptions": {"preconditions": {"uid": pod["metadata"]["uid"]}},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", text(namespace), text(name));
    match client.post(&path, &eviction).await? {
        Ok(_) => Ok(Ok(())),
        Err(status) if status.code() == 404 || status.code() == 409 => Ok(Ok(())),
        Err(status) if status.code() == 429 => {
            let causes = status.details().and_then(|details| details.causes.clone()).unwrap_or_default();
            let cause =
                causes.into_iter().find_map(|cause| cause.message).unwrap_or_else(|| status.message().to_owned());
            Ok(Err(cause))
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
