//! Pods without a node.
//!
//! Those that wait for a turn are tried with the next call. Those that fit nowhere are parked until something happens that
//! could help: room on a node helps a pod that the node could now take, and whatever moves other pods about helps those
//! that mind where other pods are. A gated pod is told so once, and waits for its own change.
//!
//! What a pod asks for is read when it comes, once a revision, and stays with its place here.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::{Name, Object, Timestamp};

use crate::{place, shape::Shape, table::Table};

/// A pod that could be placed.
#[derive(Clone)]
pub struct Entry {
    pub pod: Arc<Object>,
    pub priority: i32,
    pub shape: Shape,
}

impl Entry {
    /// The important and the old first.
    fn order(&self) -> (i64, Option<Timestamp>, &Name) {
        (-i64::from(self.priority), self.pod.meta.creation_timestamp, &self.pod.key.name)
    }

    /// Asks for the same.
    fn is_like(&self, other: &Entry) -> bool {
        self.priority == other.priority && self.shape.id() == other.shape.id()
    }
}

/// Pods that are all the same to the scheduler.
pub struct Class {
    pub shape: Shape,
    pub pods: Vec<Arc<Object>>,
}

#[derive(Default)]
pub struct Queue {
    waiting: BTreeMap<Name, Entry>,
    parked: BTreeMap<Name, Entry>,
    /// Of these, nobody has been told yet.
    gated: BTreeMap<Name, Arc<Object>>,
    #[cfg(test)]
    pub n_woken: usize,
}

impl Queue {
    pub fn put(&mut self, entry: Entry) {
        self.waiting.insert(entry.pod.key.name.clone(), entry);
    }

    pub fn put_gated(&mut self, pod: &Arc<Object>) {
        self.gated.insert(pod.key.name.clone(), pod.clone());
    }

    /// Forgets a pod; gives what it asked for if it was parked.
    pub fn remove(&mut self, name: &Name) -> Option<Entry> {
        self.waiting.remove(name);
        self.gated.remove(name);
        self.parked.remove(name)
    }

    pub fn waiting(&self) -> impl Iterator<Item = (&Name, &Arc<Object>)> {
        self.waiting.iter().map(|(name, entry)| (name, &entry.pod))
    }

    /// A pod that fits nowhere.
    pub fn park(&mut self, name: &Name) {
        if let Some((name, entry)) = self.waiting.remove_entry(name) {
            self.parked.insert(name, entry);
        }
    }

    /// A pod that was parked and has come again is parked again where it asks for the same: only its status changed,
    /// probably by our own note.
    pub fn park_again(&mut self, name: &Name, before: &Entry) {
        if self.waiting.get(name).is_some_and(|entry| entry.is_like(before)) {
            self.park(name);
        }
    }

    /// Those that are to be told that they are gated.
    pub fn take_gated(&mut self) -> impl Iterator<Item = Arc<Object>> {
        std::mem::take(&mut self.gated).into_values()
    }

    /// The waiting pods, the important and the old first, grouped by shape.
    pub fn classes(&self) -> Vec<Class> {
        let mut order: Vec<&Entry> = self.waiting.values().collect();
        order.sort_by_key(|entry| entry.order());
        let mut classes: Vec<Class> = Vec::new();
        let mut known: BTreeMap<(i32, usize), usize> = BTreeMap::new();
        for entry in order {
            let class = *known.entry((entry.priority, entry.shape.id())).or_insert_with(|| {
                classes.push(Class { shape: entry.shape.clone(), pods: Vec::new() });
                classes.len() - 1
            });
            classes[class].pods.push(entry.pod.clone());
        }
        classes
    }

    /// Pods came, went or moved, which helps only those that mind.
    pub fn wake_minding(&mut self) {
        self.wake(|entry| entry.shape.minds_others());
    }

    /// A node has room that it had not.
    pub fn wake_for(&mut self, table: &Table, row: usize) {
        let mut known: BTreeMap<usize, bool> = BTreeMap::new();
        self.wake(|Entry { shape, .. }| {
            shape.minds_others() || *known.entry(shape.id()).or_insert_with(|| place::could_take(table, shape, row))
        });
    }

    /// A rule has gone that kept pods away which do not know of it.
    pub fn wake_all(&mut self) {
        self.wake(|_| true);
    }

    fn wake(&mut self, mut is_helped: impl FnMut(&Entry) -> bool) {
        for (name, entry) in self.parked.extract_if(.., |_, entry| is_helped(entry)) {
            #[cfg(test)]
            {
                self.n_woken += 1;
            }
            self.waiting.insert(name, entry);
        }
    }
}
