//! What nodes are told of each other: where the pods of each are.
//!
//! A Node says much more, and says something new when it falls silent, is cordoned or has pulled an image; told as it is,
//! each such change would be read, sent and written down by all others. So only the range and the address are told, and only
//! when they have changed.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::{Object, Revision, resource::NODES};
use copepod_proto::nodes::Peer;
use copepod_store::{Event, EventKind, View};
use serde::Deserialize;

/// What others are told of each node, made once for all who ask for everything.
#[derive(Default)]
pub struct Peers {
    made: BTreeMap<Arc<str>, (Revision, Option<Peer>)>,
}

#[derive(Deserialize)]
struct Node {
    status: Option<Status>,
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
    pub fn all(&mut self, view: &View) -> Vec<Peer> {
        let mut before = std::mem::take(&mut self.made);
        for node in view.objects(&NODES, None) {
            let held = before.remove_entry(node.key.name()).filter(|(_, (revision, _))| *revision == node.revision);
            let made = held.unwrap_or_else(|| (node.key.name().into(), (node.revision, make(node))));
            self.made.insert(made.0, made.1);
        }
        self.made.values().filter_map(|(_, peer)| peer.clone()).collect()
    }
}

/// What is to be told after an event of a node: nothing, that a range is nobody's, where a range is, or both of two ranges.
pub fn change(event: &Event) -> Vec<Peer> {
    let is_there = event.kind != EventKind::Deleted;
    let now = is_there.then(|| make(&event.object)).flatten();
    let before = if is_there { event.previous.as_deref() } else { Some(&*event.object) }.and_then(make);
    if now == before {
        return Vec::new();
    }
    let left = before.filter(|before| now.as_ref().is_none_or(|now| now.range != before.range));
    let left = left.map(|before| Peer { address: String::new(), ..before });
    left.into_iter().chain(now).collect()
}

/// `None` while there is no way to its pods.
fn make(node: &Object) -> Option<Peer> {
    let range = node.node_facts().range.as_deref()?.to_owned();
    let told: Node = serde_json::from_slice(node.bytes()).ok()?;
    let addresses = told.status?.addresses?.into_iter();
    let address = addresses.filter(|address| address.kind == "InternalIP").map(|address| address.address).next()?;
    Some(Peer { node: node.key.name().to_owned(), range, address })
}
