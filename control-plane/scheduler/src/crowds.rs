//! Placed pods by shape: rules about other pods are matched once a shape, not once a pod.

use std::collections::{BTreeMap, BTreeSet};

use crate::shape::Shape;

/// Pods of one shape, leaving or not. The number stands for the shape while any of its pods is placed.
type Id = (usize, bool);

pub struct Crowd {
    pub shape: Shape,
    pub is_leaving: bool,
    /// How many are on each node.
    rows: BTreeMap<usize, i64>,
}

impl Crowd {
    /// Rows, and how many pods are on each.
    pub fn rows(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        self.rows.iter().map(|(row, n)| (*row, *n))
    }
}

#[derive(Default)]
pub struct Crowds {
    all: BTreeMap<Id, Crowd>,
    /// Those that keep others away from themselves.
    keep_apart: BTreeSet<Id>,
    by_owner: BTreeMap<String, BTreeSet<Id>>,
}

impl Crowds {
    pub fn add(&mut self, shape: &Shape, is_leaving: bool, row: usize) {
        let id = (shape.id(), is_leaving);
        let crowd = self.all.entry(id).or_insert_with(|| {
            if !shape.apart.is_empty() {
                self.keep_apart.insert(id);
            }
            if let Some(owner) = &shape.owner {
                self.by_owner.entry(owner.clone()).or_default().insert(id);
            }
            Crowd { shape: shape.clone(), is_leaving, rows: BTreeMap::new() }
        });
        *crowd.rows.entry(row).or_insert(0) += 1;
    }

    pub fn remove(&mut self, shape: &Shape, is_leaving: bool, row: usize) {
        let id = (shape.id(), is_leaving);
        let Some(crowd) = self.all.get_mut(&id) else { return };
        if let Some(n) = crowd.rows.get_mut(&row) {
            *n -= 1;
            if *n == 0 {
                crowd.rows.remove(&row);
            }
        }
        if !crowd.rows.is_empty() {
            return;
        }
        self.all.remove(&id);
        self.keep_apart.remove(&id);
        if let Some(owner) = &shape.owner
            && let Some(ids) = self.by_owner.get_mut(owner)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Crowd> {
        self.all.values()
    }

    pub fn keeping_apart(&self) -> impl Iterator<Item = &Crowd> {
        self.keep_apart.iter().filter_map(|id| self.all.get(id))
    }

    pub fn of_owner(&self, owner: &str) -> impl Iterator<Item = &Crowd> {
        self.by_owner.get(owner).into_iter().flatten().filter_map(|id| self.all.get(id))
    }
}
