//! What nodes are told of each other: the addresses of a node, and those of its pods.
//!
//! A Node says much more, and says something new when it falls silent, is cordoned or has pulled an image; told as it is,
//! each such change would be read, sent and written down by all others. So a node's object is told with everything else
//! left out, and only when what is left has changed. It is made once for all who are told.

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use copepod_api::{Object, Revision};
use dashmap::DashMap;
use serde::Deserialize;
use serde_json::json;

/// An event is looked at with the object that it replaces, and sessions are not all at the same event.
const REVISIONS_KEPT: usize = 4;

/// What nodes are told of each other, made once for all.
#[derive(Default)]
pub struct Peers {
    told: DashMap<String, Vec<(Revision, Option<Bytes>)>>,
    /// How often something was made.
    #[cfg(test)]
    made: AtomicUsize,
}

#[derive(Deserialize)]
struct Node {
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    range: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Peers {
    /// What others are told of this node; `None` while there is no way to its pods.
    pub fn of(&self, node: &Object) -> Option<Bytes> {
        let mut kept = self.told.entry(node.key.name().to_owned()).or_default();
        if let Some((_, told)) = kept.iter().find(|(revision, _)| *revision == node.revision) {
            return told.clone();
        }
        #[cfg(test)]
        self.made.fetch_add(1, Ordering::Relaxed);
        let told = make(node);
        // What is the same is kept once.
        let told = kept.iter().map(|(_, other)| other).find(|other| **other == told).cloned().unwrap_or(told);
        if kept.len() == REVISIONS_KEPT {
            kept.remove(0);
        }
        kept.push((node.revision, told.clone()));
        told
    }

    pub fn forget(&self, node: &str) {
        self.told.remove(node);
    }

    #[cfg(test)]
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

fn make(node: &Object) -> Option<Bytes> {
    let told: Node = serde_json::from_slice(node.bytes()).ok()?;
    let range = told.spec?.range?;
    let addresses = told.status?.addresses?.into_iter();
    let address = addresses.filter(|address| address.kind == "InternalIP").map(|address| address.address).next()?;
    let peer = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.key.name()},
        "spec": {"podCIDR": range}, "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    });
    Some(peer.to_string().into())
}
