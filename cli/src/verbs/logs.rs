//! `copepod logs`.

use std::io::Write;

use clap::Args;

use super::{pods, resource::encode};
use crate::{
    client::{Client, refused},
    failure::Outcome,
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
    let pod = pods::one(&logs.what, client, namespace).await?;
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
