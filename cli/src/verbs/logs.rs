//! `copepod logs`.

use std::io::Write;

use clap::Args;

use super::resource::{self, encode, items};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

#[derive(Args)]
pub struct Logs {
    /// A pod, or deployment/web for a pod of it
    what: String,
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Goes on printing what is written
    #[arg(long, short)]
    follow: bool,
    /// Those of the container's last instance, which ended
    #[arg(long, short)]
    previous: bool,
    /// The last lines only
    #[arg(long)]
    tail: Option<u64>,
    /// Those of the last so many seconds
    #[arg(long)]
    since_seconds: Option<u64>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
}

pub async fn run(logs: Logs, client: &Client, namespace: &str) -> Outcome {
    let pod = pod(&logs.what, client, namespace).await?;
    let mut path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?follow={}", logs.follow);
    if let Some(container) = &logs.container {
        path.push_str(&format!("&container={}", encode(container)));
    }
    if logs.previous {
        path.push_str("&previous=true");
    }
    if logs.timestamps {
        path.push_str("&timestamps=true");
    }
    path.push_str(&logs.tail.map_or(String::new(), |lines| format!("&tailLines={lines}")));
    path.push_str(&logs.since_seconds.map_or(String::new(), |seconds| format!("&sinceSeconds={seconds}")));
    let mut stream = client.stream(&path, "*/*").await?.map_err(|status| refused(&status))?;
    let mut out = std::io::stdout();
    while let Some(chunk) = stream.chunk().await {
        // A reader that has seen enough, such as `head`, is no failure.
        if out.write_all(&chunk).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn pod(what: &str, client: &Client, namespace: &str) -> Outcome<String> {
    let Some((of, name)) = what.split_once('/') else { return Ok(what.to_owned()) };
    let kind = resource::kind(of)?;
    if kind.plural == "pods" {
        return Ok(name.to_owned());
    }
    let object = client.get(&resource::path(kind, namespace, name)).await?.map_err(|status| refused(&status))?;
    let labels = object["spec"]["selector"].get("matchLabels").unwrap_or(&object["spec"]["selector"]);
    let selector: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if selector.is_empty() {
        return Err(Failure::new(format!("{what} selects no pods")));
    }
    let path = format!(
        "{}?labelSelector={}",
        "/api/v1/namespaces/".to_owned() + namespace + "/pods",
        encode(&selector.join(","))
    );
    let pods = items(client, &path).await?;
    let chosen = pods.iter().find(|pod| pod["status"]["phase"] == "Running").or(pods.first());
    let name = chosen.and_then(|pod| pod["metadata"]["name"].as_str());
    let name = name.ok_or_else(|| Failure::new(format!("{what} has no pods")))?;
    if pods.len() > 1 {
        eprintln!("{what} has {} pods; these are the logs of {name}", pods.len());
    }
    Ok(name.to_owned())
}
