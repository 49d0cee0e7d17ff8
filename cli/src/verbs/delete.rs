//! `copepod delete`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use copepod_api::Kind;
use serde_json::json;

use super::{
    apply,
    resource::{self, encode, items, label},
};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

const LOOK: Duration = Duration::from_millis(100);

#[derive(Args)]
pub struct Delete {
    /// pod/web-1, deploy web api, …
    what: Vec<String>,
    /// The objects of these manifests
    #[arg(long = "filename", short = 'f')]
    files: Vec<PathBuf>,
    /// Those with these labels
    #[arg(long = "selector", short = 'l')]
    labels: Option<String>,
    /// All of the type in the namespace
    #[arg(long)]
    all: bool,
    /// Returns at once instead of waiting until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// Seconds that containers get to end, instead of what their pods say
    #[arg(long)]
    grace_period: Option<u32>,
}

struct Target {
    kind: &'static Kind,
    namespace: String,
    name: String,
    uid: Option<String>,
}

pub async fn run(delete: Delete, client: &Client, namespace: Option<&str>) -> Outcome {
    let mut targets = targets(&delete, client, namespace).await?;
    if targets.is_empty() {
        eprintln!("nothing to delete");
        return Ok(());
    }
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if let Some(seconds) = delete.grace_period {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    for target in &mut targets {
        let path = resource::path(target.kind, &target.namespace, &target.name);
        match client.delete(&path, &options).await? {
            Ok(answer) => {
                let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
                target.uid = uid.map(str::to_owned);
                println!("{} deleted", label(target.kind, &target.name));
            }
            Err(status) if status.code() == 404 && !delete.files.is_empty() => {
                println!("{} was not there", label(target.kind, &target.name));
            }
            Err(status) => return Err(refused(&status)),
        }
    }
    if !delete.no_wait {
        for target in &targets {
            gone(client, target).await?;
        }
    }
    Ok(())
}

async fn targets(delete: &Delete, client: &Client, namespace: Option<&str>) -> Outcome<Vec<Target>> {
    let scope = namespace.unwrap_or(client.namespace());
    let mut targets = Vec::new();
    // Against the order of creation, so that what is inside goes before its namespace.
    for (kind, namespace, name) in apply::named_in(&delete.files, namespace, client.namespace())?.into_iter().rev() {
        targets.push(Target { kind, namespace, name, uid: None });
    }
    if delete.what.is_empty() {
        if targets.is_empty() {
            return Err(Failure::new("say what to delete: TYPE/NAME, a type and names, or -f FILE"));
        }
        return Ok(targets);
    }
    for (kind, name) in resource::parse(&delete.what)? {
        resource::check_scope(kind, namespace)?;
        match name {
            Some(name) => targets.push(Target { kind, namespace: scope.to_owned(), name, uid: None }),
            None if delete.all || delete.labels.is_some() => {
                let mut path = resource::collection(kind, Some(scope));
                if let Some(labels) = &delete.labels {
                    path.push_str(&format!("?labelSelector={}", encode(labels)));
                }
                for item in items(client, &path).await? {
                    let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
                    targets.push(Target { kind, namespace: text("namespace"), name: text("name"), uid: None });
                }
            }
            None => {
                return Err(Failure::new(format!("which {}?", kind.plural))
                    .hint("name them, select them with -l, or take --all of them"));
            }
        }
    }
    Ok(targets)
}

/// Waits until the object is gone, or another stands under its name.
async fn gone(client: &Client, target: &Target) -> Outcome {
    let path = resource::path(target.kind, &target.namespace, &target.name);
    let mut told = false;
    loop {
        match client.get(&path).await? {
            Err(status) if status.code() == 404 => return Ok(()),
            Err(status) => return Err(refused(&status)),
            Ok(object) => {
                let uid = object["metadata"]["uid"].as_str();
                if target.uid.is_some() && uid != target.uid.as_deref() {
                    return Ok(());
                }
                let finalizers = object["metadata"]["finalizers"].as_array().filter(|list| !list.is_empty());
                if let (Some(finalizers), false) = (finalizers, told) {
                    told = true;
                    let names: Vec<&str> = finalizers.iter().filter_map(|name| name.as_str()).collect();
                    eprintln!("{} waits for {}", label(target.kind, &target.name), names.join(", "));
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
