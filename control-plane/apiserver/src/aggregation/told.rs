//! What programs say of themselves: what they serve, and their documents. Kept for a moment: clients ask often and it
//! changes seldom.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use copepod_store::View;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{Registrations, Remote, probe};
use crate::front::Front;

/// How long an answer is believed. A client that discovers reads several documents in this time; somebody who installs
/// another version of a program waits no longer.
const BELIEVED: Duration = Duration::from_secs(10);

/// The last answers, by the name of the program's host and the path.
#[derive(Default)]
pub struct Told {
    known: Mutex<BTreeMap<(String, String), Answer>>,
}

/// An answer, and when it came.
type Answer = (Instant, Arc<Value>);

impl Told {
    /// What a program answers, and whether it says so now. Of one that does not answer it is what it said last.
    pub async fn ask(&self, front: &Front, view: &View, remote: &Remote, path: &str) -> (Option<Arc<Value>>, bool) {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (format!("{}:{}", remote.host(), remote.port), path.to_owned());
        let last = known().get(&key).cloned();
        if let Some((at, value)) = &last
            && at.elapsed() < BELIEVED
        {
            return (Some(value.clone()), true);
        }
        let answered = match remote.is_available {
            true => probe::get(view, &*front.tunnels, remote, path, "application/json").await,
            false => Err("it is not available".to_owned()),
        };
        let read = |bytes: Bytes| serde_json::from_slice::<Value>(&bytes).map_err(|error| error.to_string());
        match answered.and_then(read) {
            Ok(value) => {
                let value = Arc::new(value);
                known().insert(key, (Instant::now(), value.clone()));
                (Some(value), true)
            }
            Err(why) => {
                tracing::debug!(host = key.0, path, why, "a program does not answer");
                (last.map(|(_, value)| value), false)
            }
        }
    }
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

async fn entry(front: &Front, view: &View, (group, version): &(String, String), remote: &Remote) -> Value {
    let (list, is_current) = front.told.ask(front, view, remote, &format!("/apis/{group}/{version}")).await;
    let resources = list.map_or_else(|| json!([]), |list| aggregated(group, version, &list));
    json!({"version": version, "resources": resources, "freshness": if is_current { "Current" } else { "Stale" }})
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
