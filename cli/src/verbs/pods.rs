//! From words to pods: `web-1`, `pod/web-1`, or `deployment/web` and `service/web` for one of theirs.

use super::resource::{self, encode, items};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

/// The name of a pod that `what` means: itself, or one of those that it selects, a running one if there is one.
pub async fn one(what: &str, client: &Client, namespace: &str) -> Outcome<String> {
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
        eprintln!("{what} has {} pods; this is about {name}", pods.len());
    }
    Ok(name.to_owned())
}
