//! What nodes are told of each other: where the pods of each are.
//!
//! A Node says much more, and says something new when it falls silent, is cordoned or has pulled an image; told as it is,
//! each such change would be read, sent and written down by all others. So only the range and the address are told, and only
//! when they have changed.

use bytes::Bytes;
use copepod_api::{Name, Object, Revision, resource::NODES};
use copepod_proto::nodes::{Delta, Peer};
use copepod_store::{Event, EventKind, View};
use prost::Message;
use serde::Deserialize;

/// What others are told of each node, encoded once for all who ask for everything: each node that joins does, and where
/// there are many nodes, many join.
#[derive(Default)]
pub struct Peers {
    /// In the order of names.
    made: Vec<Made>,
}

struct Made {
    node: Name,
    revision: Revision,
    /// A part of a delta; empty while there is no way to the node's pods.
    encoded: Bytes,
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
    /// Each as a field of an encoded delta, which begins or goes on with any number of them.
    pub fn all(&mut self, view: &View) -> Vec<Bytes> {
        let mut before = std::mem::take(&mut self.made).into_iter().peekable();
        for node in view.objects(&NODES, None) {
            while before.next_if(|made| made.node < node.key.name).is_some() {}
            let held = before.next_if(|made| made.node == node.key.name && made.revision == node.revision);
            self.made.push(held.unwrap_or_else(|| Made {
                node: node.key.name.clone(),
                revision: node.revision,
                encoded: Delta { peers: make(node).into_iter().collect(), ..Delta::default() }.encode_to_vec().into(),
            }));
        }
        self.made.iter().map(|made| made.encoded.clone()).filter(|encoded| !encoded.is_empty()).collect()
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
    let told: Node = serde_json::from_slice(&node.bytes()).ok()?;
    let addresses = told.status?.addresses?.into_iter();
    let address = addresses.filter(|address| address.kind == "InternalIP").map(|address| address.address).next()?;
    Some(Peer { node: node.key.name().to_owned(), range, address })
}
