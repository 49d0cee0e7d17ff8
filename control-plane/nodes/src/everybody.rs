//! What every node is told alike, because every data path is made of it: Services, NetworkPolicies and Namespaces,
//! EndpointSlices, where the pods of all nodes are, and, while there are policies, who all pods are.
//!
//! It is gathered from events and encoded once for all nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use copepod_api::{
    Key, Object, Resource, Revision,
    resource::{ENDPOINT_SLICES, NAMESPACES, NETWORK_POLICIES, NODES, PODS, SERVICES},
};
use copepod_proto::nodes::{Change, Delta, Peer};
use copepod_store::{Event, EventKind, View};
use prost::Message;

use crate::{neighbours, peers, slices};

/// What nodes are told as it is stored.
const AS_STORED: [Resource; 3] = [SERVICES, NETWORK_POLICIES, NAMESPACES];

/// What has come together since it was last told: the newest state of each thing.
#[derive(Default)]
pub struct Common {
    /// `None` is gone.
    objects: BTreeMap<Key, Option<Arc<Object>>>,
    slices: BTreeMap<Key, Slice>,
    /// By range.
    peers: BTreeMap<String, Peer>,
    /// Nodes whose pods others see otherwise.
    neighbours: BTreeSet<Arc<str>>,
}

/// How soon something must be known to all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Where new nodes are: nobody speaks to a pod there before an endpoint says so. Many that join would keep all others
    /// busy, each with the news of each.
    Late,
    /// Who is behind a service changes with every pod.
    Soon,
    /// What is allowed, and what is there, changes seldom.
    Now,
}

/// What can wait is told when so many times as long has passed as telling all takes.
const PATIENCE: u32 = 5;

impl Haste {
    /// How long after all were told something it is their turn again. `took` is how long that kept everybody busy; a pod
    /// that leaves waits for what is told with the rest.
    pub fn pause(self, took: Duration, pod_leaves: bool) -> Duration {
        match self {
            Haste::Now => Duration::ZERO,
            Haste::Late if !pod_leaves => took * PATIENCE,
            Haste::Late | Haste::Soon => took,
        }
    }
}

/// A slice as it was told last, if it was, and as it is now.
struct Slice {
    before: Option<Arc<Object>>,
    now: Option<Arc<Object>>,
}

impl Common {
    /// All there is, but for where the pods of nodes are (`peers.rs`).
    pub fn everything(view: &View, with_neighbours: bool) -> Common {
        let mut common = Common::default();
        for object in AS_STORED.iter().flat_map(|resource| view.objects(resource, None)) {
            common.objects.insert(object.key.clone(), Some(object.clone()));
        }
        for slice in view.objects(&ENDPOINT_SLICES, None) {
            common.slices.insert(slice.key.clone(), Slice { before: None, now: Some(slice.clone()) });
        }
        if with_neighbours {
            common.meet_all(view);
        }
        common
    }

    /// Everybody is told who all pods are.
    pub fn meet_all(&mut self, view: &View) {
        self.neighbours.extend(view.objects(&PODS, None).filter_map(|pod| pod.node.clone()));
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.slices.is_empty() && self.peers.is_empty() && self.neighbours.is_empty()
    }

    /// How soon it is to be told; what comes meanwhile is told with it.
    pub fn haste(&self) -> Haste {
        if !self.objects.is_empty() {
            return Haste::Now;
        }
        if self.slices.is_empty() && self.neighbours.is_empty() { Haste::Late } else { Haste::Soon }
    }

    pub fn add(&mut self, event: &Event, with_neighbours: bool) {
        let key = &event.object.key;
        let is_there = event.kind != EventKind::Deleted;
        let now = is_there.then(|| event.object.clone());
        if AS_STORED.contains(&key.resource) {
            self.objects.insert(key.clone(), now);
        } else if key.resource == ENDPOINT_SLICES {
            let before = event.previous.clone().filter(|_| is_there);
            self.slices.entry(key.clone()).or_insert(Slice { before, now: None }).now = now;
        } else if key.resource == NODES {
            self.peers.extend(peers::change(event).into_iter().map(|peer| (peer.range.clone(), peer)));
        } else if key.resource == PODS && with_neighbours {
            self.meet(event);
        }
    }

    /// Slices are told whole: whoever hears of this has not been told what came before.
    pub fn forget_before(&mut self) {
        self.slices.values_mut().for_each(|slice| slice.before = None);
    }

    fn meet(&mut self, event: &Event) {
        let is_there = event.kind != EventKind::Deleted;
        let now = is_there.then(|| neighbours::of(&event.object)).flatten();
        let before = if is_there { event.previous.as_deref() } else { Some(&*event.object) };
        if now != before.and_then(neighbours::of) {
            let pods = [Some(&*event.object), before].into_iter().flatten();
            self.neighbours.extend(pods.filter_map(|pod| pod.node.clone()));
        }
    }

    /// As part of a delta. `view` contains what has come together.
    pub fn tell(self, view: &View, delta: &mut Delta) {
        delta.changes.extend(self.objects.into_iter().map(|(key, object)| change(&key, object.as_deref())));
        delta.changes.extend(self.neighbours.into_iter().map(|node| Change {
            group: String::new(),
            plural: neighbours::NEIGHBOURS.to_owned(),
            namespace: String::new(),
            name: node.to_string(),
            object: neighbours::on(&node, view),
        }));
        delta.slices.extend(self.slices.into_iter().map(|(key, slice)| match (slice.before, slice.now) {
            (Some(before), Some(now)) => slices::difference(&before, &now),
            (None, Some(now)) => slices::whole(&now),
            (_, None) => slices::gone(&key),
        }));
        delta.peers.extend(self.peers.into_values());
    }

    /// A delta of nothing else, encoded.
    pub fn encode(self, view: &View, revision: Revision) -> Parts {
        let mut delta = Delta { revision: revision.0, ..Delta::default() };
        self.tell(view, &mut delta);
        encode(delta)
    }
}

pub fn change(key: &Key, object: Option<&Object>) -> Change {
    Change {
        group: key.resource.group.to_string(),
        plural: key.resource.plural.to_string(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        object: object.map(Object::slim),
    }
}

/// An encoded delta, message by message; shared by all who are told the same.
pub type Parts = Arc<[Bytes]>;

/// How long a message becomes, and how many there may be at most: connections keep a buffer of the longest that they have
/// carried, and queues have an end.
const PART_BYTES: usize = 2 * 1024;
const PARTS_MAX: usize = 160;

pub fn encode(delta: Delta) -> Parts {
    parts(delta, &[], false).into()
}

/// The messages of a delta, and of peers that are encoded; with `more`, others follow that belong to it.
pub fn parts(delta: Delta, peers: &[Bytes], more: bool) -> Vec<Bytes> {
    let all_bytes = delta.encoded_len() + peers.iter().map(Bytes::len).sum::<usize>();
    let part_bytes = PART_BYTES.max(all_bytes / PARTS_MAX);
    let mut parts = vec![(Delta { revision: delta.revision, reset: delta.reset, ..Delta::default() }, Vec::new())];
    let mut n_bytes = 0;
    let mut room = |length: usize, put: &mut dyn FnMut(&mut Delta, &mut Vec<u8>)| {
        if n_bytes > 0 && n_bytes + length > part_bytes {
            parts.push((Delta { revision: delta.revision, ..Delta::default() }, Vec::new()));
            n_bytes = 0;
        }
        n_bytes += length;
        parts.last_mut().into_iter().for_each(|(part, encoded)| put(part, encoded));
    };
    for peer in peers {
        room(peer.len(), &mut |_, encoded| encoded.extend_from_slice(peer));
    }
    // With what stands before it: a byte for the field, and its length.
    let mut put = |length: usize, put: &mut dyn FnMut(&mut Delta)| {
        room(1 + prost::length_delimiter_len(length) + length, &mut |part, _| put(part));
    };
    for change in delta.changes {
        let mut change = Some(change);
        put(change.as_ref().map_or(0, Message::encoded_len), &mut |part| part.changes.extend(change.take()));
    }
    for slice in delta.slices {
        let mut slice = Some(slice);
        put(slice.as_ref().map_or(0, Message::encoded_len), &mut |part| part.slices.extend(slice.take()));
    }
    for peer in delta.peers {
        let mut peer = Some(peer);
        put(peer.as_ref().map_or(0, Message::encoded_len), &mut |part| part.peers.extend(peer.take()));
    }
    let last = parts.len() - 1;
    let encoded = parts.into_iter().enumerate().map(|(number, (part, mut encoded))| {
        let part = Delta { more: more || number < last, ..part };
        // The fields of a message may come in any order.
        encoded.reserve_exact(part.encoded_len());
        part.encode_raw(&mut encoded);
        encoded.into()
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use copepod_api::{Body, resource::PODS};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nodes_are_not_told_who_set_which_field() {
        let metadata = json!({"name": "a", "managedFields": [{"manager": "kubectl"}], "namespace": "d"});
        let key = Key::new(PODS, "d", "a");
        let pod = Object::store(key.clone(), &Body::encode(&json!({"metadata": metadata, "spec": {}})), Revision(7));
        let told = change(&key, Some(&pod.unwrap())).object.unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told, json!({"metadata": {"name": "a", "namespace": "d", "resourceVersion": "7"}, "spec": {}}));
    }

    #[test]
    fn what_is_much_comes_in_parts_of_bounded_length_and_number() {
        let peer = |number: usize| Peer { node: format!("n{number}"), range: "10.1.2.0/24".into(), ..Peer::default() };
        let delta =
            |n_peers| Delta { revision: 7, reset: true, peers: (0..n_peers).map(peer).collect(), ..Delta::default() };
        let read = |bytes: &Bytes| Delta::decode(bytes.clone()).unwrap();
        assert_eq!(encode(delta(3)).iter().map(read).collect::<Vec<_>>(), [delta(3)]);
        assert!(encode(Delta::default()).len() == 1 && parts(delta(3), &[], true).iter().all(|part| read(part).more));
        for n_peers in [1_000, 100_000] {
            let encoded = encode(delta(n_peers));
            let parts: Vec<Delta> = encoded.iter().map(read).collect();
            assert!(parts.len() > 1 && parts.len() <= PARTS_MAX + 1, "{}", parts.len());
            let longest = encoded.iter().map(Bytes::len).max().unwrap();
            assert!(longest < PART_BYTES.max(delta(n_peers).encoded_len() / PARTS_MAX) + 100, "{longest}");
            assert_eq!(parts.iter().map(|part| part.peers.len()).sum::<usize>(), n_peers);
            assert!(parts[0].reset && parts[1..].iter().all(|part| !part.reset && part.revision == 7));
            assert_eq!(parts.iter().filter(|part| !part.more).count(), 1);
            assert!(!parts[parts.len() - 1].more);

            // The same, of peers that are encoded.
            let one = |number| Delta { peers: vec![peer(number)], ..Delta::default() }.encode_to_vec().into();
            let made: Vec<Bytes> = (0..n_peers).map(one).collect();
            let again = super::parts(delta(0), &made, false);
            assert_eq!(again.iter().map(read).collect::<Vec<_>>(), parts);
        }
    }
}
