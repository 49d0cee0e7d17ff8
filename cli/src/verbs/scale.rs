//! `copepod scale`.

use clap::Args;
use serde_json::json;

use super::resource::{self, label};
use crate::{
    client::{Client, refused},
    failure::Outcome,
};

#[derive(Args)]
pub struct Scale {
    /// deployment/web, or a type and a name
    #[arg(required = true)]
    what: Vec<String>,
    #[arg(long)]
    replicas: u32,
}

pub async fn run(scale: Scale, client: &Client, namespace: &str) -> Outcome {
    let (kind, name) = resource::one(&scale.what)?;
    let path = format!("{}/scale", resource::path(kind, namespace, &name));
    let before = client.get(&path).await?.map_err(|status| refused(&status))?;
    let patch = json!({"spec": {"replicas": scale.replicas}});
    client.merge(&path, &patch).await?.map_err(|status| refused(&status))?;
    let had = before["spec"]["replicas"].as_u64().unwrap_or(0);
    println!("{} scaled from {had} to {}", label(kind, &name), scale.replicas);
    Ok(())
}
