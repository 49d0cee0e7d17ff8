//! What all nodes have to be told, derived from the log of events by one reader.
//!
//! An event is looked at once, not once a node: those of pods go to the node that the pod is on, those of ConfigMaps and
//! Secrets to the nodes whose pods name them, and what concerns all is gathered and encoded once (`everybody.rs`). Knows no
//! clock and no sessions; `dispatch.rs` does what it says.
//!
//! A node that comes is told of a view, which is usually ahead of the place that has been read. So it waits as a newcomer
//! until that place is beyond the view; then it is told what is left of that round, and from there on what the others are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use copepod_api::{
    Key, Revision,
    resource::{CONFIG_MAPS, NETWORK_POLICIES, PODS, SECRETS},
};
use copepod_proto::nodes::Delta;
use copepod_store::{Event, View};

use crate::{
    echo::is_echo,
    everybody::{Common, Parts, encode, parts},
    feed::{Feed, Own},
    peers::Peers,
};

pub use crate::everybody::Haste;

pub type Name = Arc<str>;

pub struct Board {
    /// Every event up to here has been looked at.
    position: Revision,
    peers: Peers,
    /// There are policies, or were, so nodes are told who all pods are.
    with_neighbours: bool,
    feeds: BTreeMap<Name, Feed>,
    /// Which nodes hold a ConfigMap or Secret.
    holders: BTreeMap<Key, BTreeSet<Name>>,
    /// Nodes that have been told of a later view than `position`, and which.
    newcomers: BTreeMap<Name, Revision>,
    common: Common,
    /// Everything that concerns all has been told up to here.
    told: Revision,
}

/// What one node is to be told.
pub struct Told {
    pub node: Name,
    pub delta: Parts,
    /// Its data path changes with it, and it owes an acknowledgement of the revision.
    pub data_path: bool,
}

impl Board {
    pub fn new(view: &View) -> Board {
        Board {
            position: view.revision(),
            peers: Peers::default(),
            with_neighbours: has_policies(view),
            feeds: BTreeMap::new(),
            holders: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            common: Common::default(),
            told: view.revision(),
        }
    }

    /// What a node is told that comes, as of `view`: the difference to `since` if what has happened in between is given,
    /// else everything. Several that come at once share the work.
    pub fn welcome(&mut self, nodes: &[Name], view: &View, since: Option<&[Event]>) -> Vec<Vec<Bytes>> {
        let mut common = Delta { revision: view.revision().0, ..Delta::default() };
        let mut peers = Vec::new();
        match since {
            None => {
                peers = self.peers.all(view);
                Common::everything(view, has_policies(view)).tell(view, &mut common);
            }
            Some(events) => {
                // Whether it has been told of others is not known here.
                let mut missed = Common::default();
                if has_policies(view) {
                    missed.meet_all(view);
                }
                // And it may have a slice as nobody else was told of it.
                events.iter().for_each(|event| missed.add(event, false));
                missed.forget_before();
                missed.tell(view, &mut common);
            }
        }
        let shared = parts(common, &peers, false);
        let told = nodes.iter().map(|node| {
            self.leave(node);
            let (feed, own) = Feed::of(node, view);
            self.note(node, &feed);
            let gone = since.map_or_else(Vec::new, |events| feed.gone(node, events, view));
            let changes = own.changes().chain(gone).collect();
            self.feeds.insert(node.clone(), feed);
            self.newcomers.insert(node.clone(), view.revision());
            let head = Delta { revision: view.revision().0, reset: since.is_none(), changes, ..Delta::default() };
            parts(head, &[], true).into_iter().chain(shared.iter().cloned()).collect()
        });
        told.collect()
    }

    pub fn leave(&mut self, node: &Name) {
        self.newcomers.remove(node);
        let Some(feed) = self.feeds.remove(node) else { return };
        for key in feed.references() {
            self.forget(node, key);
        }
    }

    /// Sorts events, which follow each other and the place read so far. `view` contains them. What concerns all waits for
    /// `tell`; the rest is to be told now.
    pub fn after(&mut self, events: &[Event], view: &View, position: Revision) -> Vec<Told> {
        let mut own: BTreeMap<Name, Own> = BTreeMap::new();
        for event in events {
            self.common.add(event, self.with_neighbours);
            let key = &event.object.key;
            if key.resource == NETWORK_POLICIES && !self.with_neighbours {
                // From the first policy on, nodes know who all pods are.
                self.with_neighbours = true;
                self.common.meet_all(view);
            } else if key.resource == PODS {
                self.pod(event, view, &mut own);
            } else if key.resource == CONFIG_MAPS || key.resource == SECRETS {
                let holders = self.holders.get(key).into_iter().flatten();
                for node in holders.filter(|node| self.is_behind(node, event.revision)) {
                    own.entry(node.clone()).or_default().take(event);
                }
            }
        }
        self.position = position;
        if self.common.is_empty() {
            self.told = position;
        }
        let revision = self.told.0;
        let told = own.into_iter().map(|(node, own)| {
            let revision = self.newcomers.get(&node).map_or(revision, |view| view.0);
            let delta = Delta { revision, changes: own.changes().collect(), ..Delta::default() };
            Told { delta: encode(delta), node, data_path: false }
        });
        told.collect()
    }

    fn pod(&mut self, event: &Event, view: &View, own: &mut BTreeMap<Name, Own>) {
        let Some(node) = &event.object.node else { return };
        if !self.is_behind(node, event.revision) {
            return;
        }
        // Only of those who listen is it worth finding out what they know.
        let Some(feed) = self.feeds.get_mut(node).filter(|_| !is_echo(event)) else { return };
        let before: BTreeSet<Key> = feed.references().cloned().collect();
        feed.pod(event, view, own.entry(node.clone()).or_default());
        let now: BTreeSet<Key> = feed.references().cloned().collect();
        for key in now.difference(&before) {
            self.holders.entry(key.clone()).or_default().insert(node.clone());
        }
        before.difference(&now).for_each(|key| self.forget(node, key));
    }

    /// A node that was told of a view has heard of what is in it.
    fn is_behind(&self, node: &Name, revision: Revision) -> bool {
        self.newcomers.get(node).is_none_or(|view| revision > *view)
    }

    fn note(&mut self, node: &Name, feed: &Feed) {
        for key in feed.references() {
            self.holders.entry(key.clone()).or_default().insert(node.clone());
        }
    }

    fn forget(&mut self, node: &Name, key: &Key) {
        if let Some(holders) = self.holders.get_mut(key) {
            holders.remove(node);
            if holders.is_empty() {
                self.holders.remove(key);
            }
        }
    }

    /// Whether something waits that concerns all, or a newcomer can be made one of them.
    pub fn has_to_tell(&self) -> bool {
        !self.common.is_empty() || self.newcomers.values().any(|view| *view <= self.position)
    }

    /// How soon what waits is to be told.
    pub fn haste(&self) -> Haste {
        self.common.haste()
    }

    /// What concerns all, encoded once: `None` if that is nothing. Everything up to the place read has been told with it.
    pub fn tell(&mut self, view: &View) -> Option<Parts> {
        self.told = self.position;
        let common = std::mem::take(&mut self.common);
        (!common.is_empty()).then(|| common.encode(view, self.told))
    }

    /// Those who are told what all are told.
    pub fn settled(&self) -> impl Iterator<Item = &Name> {
        self.feeds.keys().filter(|node| !self.newcomers.contains_key(*node))
    }

    /// Newcomers whose views have been reached are told what has happened since those, and are no newcomers any more. To
    /// be called after `tell`, with the events of the rounds since the oldest of their views.
    pub fn settle(&mut self, recent: &[Event], view: &View) -> Vec<Told> {
        let reached: Vec<(Name, Revision)> =
            self.newcomers.iter().filter(|(_, at)| **at <= self.position).map(|(n, at)| (n.clone(), *at)).collect();
        let mut by_view: BTreeMap<Revision, Option<Parts>> = BTreeMap::new();
        let mut told = Vec::new();
        for (node, at) in reached {
            self.newcomers.remove(&node);
            let delta = by_view.entry(at).or_insert_with(|| {
                let mut missed = Common::default();
                let since = recent.iter().filter(|event| event.revision > at);
                since.for_each(|event| missed.add(event, self.with_neighbours));
                missed.forget_before();
                (!missed.is_empty()).then(|| missed.encode(view, self.told))
            });
            told.extend(delta.clone().map(|delta| Told { node, delta, data_path: true }));
        }
        told
    }

    pub fn newcomers(&self) -> impl Iterator<Item = &Name> {
        self.newcomers.keys()
    }

    pub fn has_newcomers(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// Everything that concerns all has been told up to here.
    pub fn told(&self) -> Revision {
        self.told
    }

    pub fn position(&self) -> Revision {
        self.position
    }
}

fn has_policies(view: &View) -> bool {
    view.objects(&NETWORK_POLICIES, None).next().is_some()
}

#[cfg(test)]
mod tests;
