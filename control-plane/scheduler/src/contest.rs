//! Many pods of one shape, each to the node that is best when its turn comes.
//!
//! What a pod changes by its coming is either the matter of its node alone (room, ports, neighbours on the host) or of a
//! whole domain (neighbours in the zone). So nodes of the same domains stand in one heap, ordered by their own part, and
//! the part that they share is worked out once a heap. A pod goes to the best of the heaps' tops: the same node that a
//! look at all of them would find.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::{
    place::{Counts, Grain, Scene, changing, shared},
    shape::Shape,
    table::Table,
};

/// A node in its heap: its own part of the score, first rows first, and the part that no pod changes.
type Entry = (i64, Reverse<usize>, i64);

struct Heap {
    /// Any of its nodes: they are all in the same domains.
    row: usize,
    entries: BinaryHeap<Entry>,
}

pub struct Contest {
    heaps: Vec<Heap>,
    /// Refused for now: nodes that have more than others, until the others have as many. With each the heap it is of.
    aside: Vec<(usize, i64, usize)>,
    /// The counts that decide who stands aside.
    levels: Vec<i64>,
}

impl Contest {
    pub fn new(scene: &Scene<'_>, candidates: &[(usize, i64)]) -> Contest {
        let mut contest = Contest { heaps: Vec::new(), aside: Vec::new(), levels: scene.spread.levels() };
        let mut of_place: BTreeMap<Vec<(u32, bool)>, usize> = BTreeMap::new();
        let mut entries: Vec<Vec<Entry>> = Vec::new();
        let own = scene.at(Grain::Node);
        for (row, fixed) in candidates {
            let heap = *of_place.entry(scene.places(*row)).or_insert_with(|| {
                contest.heaps.push(Heap { row: *row, entries: BinaryHeap::new() });
                entries.push(Vec::new());
                entries.len() - 1
            });
            match changing(&own, *row) {
                Some(score) => entries[heap].push((score + fixed, Reverse(*row), *fixed)),
                None => contest.set_aside(*row, *fixed, heap),
            }
        }
        for (heap, entries) in contest.heaps.iter_mut().zip(entries) {
            heap.entries = entries.into();
        }
        contest
    }

    /// Only where nodes can come back: room that is taken stays taken.
    fn set_aside(&mut self, row: usize, fixed: i64, heap: usize) {
        if !self.levels.is_empty() {
            self.aside.push((row, fixed, heap));
        }
    }

    /// Gives the next pod its node and takes the room of it there; `None` where no node is left.
    pub fn place(&mut self, table: &mut Table, shape: &Shape, counts: &mut Counts) -> Option<usize> {
        let (heap, row, fixed) = loop {
            let scene = counts.scene(table, shape);
            let heap = self.best(&scene.at(Grain::Domain))?;
            let (score, Reverse(row), fixed) = self.heaps[heap].entries.pop()?;
            // The first pod of those that want to be near each other decides for all nodes where the rest may go.
            match changing(&scene.at(Grain::Node), row) {
                Some(now) if now + fixed == score => break (heap, row, fixed),
                Some(now) => self.heaps[heap].entries.push((now + fixed, Reverse(row), fixed)),
                None => self.set_aside(row, fixed, heap),
            }
        };
        table.take(row, shape);
        counts.placed(row);
        let scene = counts.scene(table, shape).at(Grain::Node);
        self.put(&scene, row, fixed, heap);
        let levels = scene.spread.levels();
        if levels != self.levels {
            self.levels = levels;
            for (row, fixed, heap) in std::mem::take(&mut self.aside) {
                self.put(&scene, row, fixed, heap);
            }
        }
        Some(row)
    }

    /// The heap whose top is the best of all nodes.
    fn best(&self, scene: &Scene<'_>) -> Option<usize> {
        let tops = self.heaps.iter().enumerate().filter_map(|(number, heap)| {
            let (score, row, _) = heap.entries.peek()?;
            Some((score + shared(scene, heap.row)?, *row, number))
        });
        Some(tops.max()?.2)
    }

    fn put(&mut self, scene: &Scene<'_>, row: usize, fixed: i64, heap: usize) {
        match changing(scene, row) {
            Some(score) => self.heaps[heap].entries.push((score + fixed, Reverse(row), fixed)),
            None => self.set_aside(row, fixed, heap),
        }
    }
}
