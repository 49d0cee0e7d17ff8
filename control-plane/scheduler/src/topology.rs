//! How a label divides the nodes into domains, and what is counted in each.

use std::{collections::BTreeMap, sync::Arc};

use crate::table::Table;

/// The domain of a node that has no such label.
const NONE: u32 = u32::MAX;

/// The domains of one label, as the nodes have it now. Shared by all that count along it.
pub struct Topology {
    pub key: String,
    of_row: Vec<u32>,
    n_domains: usize,
    /// No domain has two nodes: what happens in it is the matter of one node alone.
    pub is_fine: bool,
}

impl Topology {
    pub fn of(table: &Table, key: &str) -> Topology {
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut of_row = vec![NONE; table.names.len()];
        let mut n_rows = 0;
        for row in table.rows() {
            if let Some(value) = table.labels[row].get(key) {
                let next = numbers.len() as u32;
                of_row[row] = *numbers.entry(value).or_insert(next);
                n_rows += 1;
            }
        }
        let n_domains = numbers.len();
        Topology { key: key.to_owned(), of_row, n_domains, is_fine: n_rows == n_domains }
    }

    /// Whether the node has the label at all.
    pub fn has(&self, row: usize) -> bool {
        self.of_row[row] != NONE
    }

    pub fn domain(&self, row: usize) -> Option<u32> {
        Some(self.of_row[row]).filter(|domain| *domain != NONE)
    }
}

/// A count in each domain, and which domains and nodes count.
pub struct Domains {
    pub topology: Arc<Topology>,
    counts: Vec<i64>,
    /// Nodes that are left out; empty where none is.
    left_out: Vec<bool>,
    /// Domains with at least one node that counts.
    live: Vec<bool>,
    n_live: usize,
    /// The smallest count of the live, and how many have it.
    least: (i64, usize),
}

impl Domains {
    pub fn of(table: &Table, key: &str) -> Domains {
        let topology = table.topology(key);
        let n_domains = topology.n_domains;
        Domains {
            topology,
            counts: vec![0; n_domains],
            left_out: Vec::new(),
            live: vec![true; n_domains],
            n_live: n_domains,
            least: (0, n_domains),
        }
    }

    /// Leaves nodes out that do not count. To be called before anything is counted.
    pub fn keep(&mut self, counts: impl Fn(usize) -> bool) {
        let mut left_out = vec![false; self.topology.of_row.len()];
        let mut n_left_out = 0;
        self.live.fill(false);
        for (row, is_left_out) in left_out.iter_mut().enumerate() {
            let Some(domain) = self.topology.domain(row) else { continue };
            if counts(row) {
                self.live[domain as usize] = true;
            } else {
                *is_left_out = true;
                n_left_out += 1;
            }
        }
        if n_left_out > 0 {
            self.left_out = left_out;
        }
        self.n_live = self.live.iter().filter(|live| **live).count();
        self.least = (0, self.n_live);
    }

    pub fn add(&mut self, row: usize) {
        self.add_many(row, 1);
    }

    /// So many more at a node.
    pub fn add_many(&mut self, row: usize, n: i64) {
        let Some(domain) = self.domain(row) else { return };
        let count = &mut self.counts[domain as usize];
        let before = *count;
        *count += n;
        if n > 0 && self.live[domain as usize] && before == self.least.0 {
            self.least.1 -= 1;
            // The last of the smallest grew: so often as there are domains, one look at all of them.
            if self.least.1 == 0 {
                self.least = self.look_for_least();
            }
        }
    }

    fn look_for_least(&self) -> (i64, usize) {
        let live = || self.counts.iter().zip(&self.live).filter(|(_, live)| **live).map(|(count, _)| *count);
        let least = live().min().unwrap_or(0);
        (least, live().filter(|count| *count == least).count())
    }

    /// The domain of a node that counts.
    pub fn domain(&self, row: usize) -> Option<u32> {
        if self.left_out.get(row) == Some(&true) {
            return None;
        }
        self.topology.domain(row)
    }

    /// The count in a node's domain; `None` where it has none.
    pub fn count(&self, row: usize) -> Option<i64> {
        self.domain(row).map(|domain| self.counts[domain as usize])
    }

    /// How many domains count.
    pub fn len(&self) -> usize {
        self.n_live
    }

    pub fn least(&self) -> i64 {
        self.least.0
    }

    /// Equal for nodes that no count here tells apart.
    pub fn place(&self, row: usize) -> (u32, bool) {
        (self.topology.of_row[row], self.left_out.get(row) == Some(&true))
    }
}
