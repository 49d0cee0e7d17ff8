//! `copepod cordon` and `copepod uncordon`.

use clap::Args;
use serde_json::json;

use crate::{
    client::{Client, refused},
    failure::Outcome,
};

#[derive(Args)]
pub struct Nodes {
    #[arg(required = true)]
    nodes: Vec<String>,
}

pub async fn run(nodes: Nodes, client: &Client, cordoned: bool) -> Outcome {
    for node in &nodes.nodes {
        set(client, node, cordoned).await?;
    }
    Ok(())
}

pub async fn set(client: &Client, node: &str, cordoned: bool) -> Outcome {
    let path = format!("/api/v1/nodes/{node}");
    let before = client.get(&path).await?.map_err(|status| refused(&status))?;
    let was = before["spec"]["unschedulable"].as_bool().unwrap_or(false);
    let word = if cordoned { "cordoned" } else { "uncordoned" };
    if was == cordoned {
        println!("node/{node} is {word} already");
        return Ok(());
    }
    let patch = json!({"spec": {"unschedulable": if cordoned { json!(true) } else { json!(null) }}});
    client.merge(&path, &patch).await?.map_err(|status| refused(&status))?;
    println!("node/{node} {word}");
    Ok(())
}
