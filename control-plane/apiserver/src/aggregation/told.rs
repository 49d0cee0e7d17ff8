//! What programs say that they serve, for discovery. Kept for a moment: clients ask often and it changes seldom.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use copepod_store::View;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{Registrations, Remote, probe};
use crate::front::Front;

/// How long an answer is believed. A client that discovers reads several documents in this time; somebody who installs
/// another version of a program waits no longer.
const BELIEVED: Duration = Duration::from_secs(10);

/// The last answers, by group and version.
#[derive(Default)]
pub struct Told {
    known: Mutex<BTreeMap<(String, String), (Instant, Value)>>,
}

/// The entry of a version in aggregated discovery.
pub type Versions = BTreeMap<(String, String), Value>;

/// What all programs serve. Who does not answer is shown with what it said last, and marked as stale.
pub async fn versions(front: &Front, view: &View) -> Versions {
    let owned =
        |(group, version, remote): (&str, &str, &Remote)| ((group.to_owned(), version.to_owned()), remote.clone());
    let all: Vec<_> = Registrations::of(view).remotes().map(owned).collect();
    let asked = all.into_iter().map(|(key, remote)| async move {
        let entry = entry(front, view, &key, &remote).await;
        (key, entry)
    });
    join_all(asked).await.into_iter().collect()
}

async fn entry(front: &Front, view: &View, key: &(String, String), remote: &Remote) -> Value {
    let known = || front.told.known.lock().unwrap_or_else(PoisonError::into_inner);
    let last = known().get(key).cloned();
    let (resources, is_current) = match last {
        Some((at, resources)) if at.elapsed() < BELIEVED => (resources, true),
        last => match resources(front, view, key, remote).await {
            Ok(resources) => {
                known().insert(key.clone(), (Instant::now(), resources.clone()));
                (resources, true)
            }
            Err(why) => {
                tracing::debug!(group = key.0, version = key.1, why, "a program does not say what it serves");
                (last.map_or_else(|| json!([]), |(_, resources)| resources), false)
            }
        },
    };
    json!({"version": key.1, "resources": resources, "freshness": if is_current { "Current" } else { "Stale" }})
}

async fn resources(
    front: &Front,
    view: &View,
    (group, version): &(String, String),
    remote: &Remote,
) -> Result<Value, String> {
    let path = format!("/apis/{group}/{version}");
    let front_proxy = front.config.front_proxy.as_ref();
    let list = probe::get(view, &*front.tunnels, front_proxy, remote, &path, "application/json").await?;
    let list: Value = serde_json::from_slice(&list).map_err(|error| error.to_string())?;
    Ok(aggregated(group, version, &list))
}

/// An `APIResourceList` as the aggregated document has it: subresources below their resource.
fn aggregated(group: &str, version: &str, list: &Value) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    let entries = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kind = |entry: &Value| {
        let or = |field: &str, default: &str| entry[field].as_str().unwrap_or(default).to_owned();
        json!({"group": or("group", group), "version": or("version", version), "kind": entry["kind"]})
    };
    let is_whole = |entry: &&Value| !entry["name"].as_str().unwrap_or_default().contains('/');
    for entry in entries.iter().filter(is_whole) {
        let mut resource = json!({
            "resource": entry["name"], "responseKind": kind(entry), "singularResource": entry["singularName"],
            "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" }, "verbs": entry["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if let Some(names) = entry.get(field) {
                resource[field] = names.clone();
            }
        }
        let prefix = format!("{}/", entry["name"].as_str().unwrap_or_default());
        let parts = entries.iter().filter_map(|part| Some((part["name"].as_str()?.strip_prefix(&prefix)?, part)));
        let parts: Vec<Value> = parts
            .map(|(name, part)| json!({"subresource": name, "responseKind": kind(part), "verbs": part["verbs"]}))
            .collect();
        if !parts.is_empty() {
            resource["subresources"] = parts.into();
        }
        resources.push(resource);
    }
    resources.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_resources_is_told_with_its_subresources_inside() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        let kind = json!({"group": "g", "version": "v1", "kind": "Flunder"});
        let expected = json!([{
            "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced", "verbs": ["get"],
            "responseKind": kind,
            "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}],
        }]);
        assert_eq!(aggregated("g", "v1", &list), expected);
    }
}
