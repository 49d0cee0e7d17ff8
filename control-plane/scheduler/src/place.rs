//! Places the pods of one class.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use copepod_store::View;

use crate::{
    filters,
    refusal::{self, Reason},
    scores,
    shape::Shape,
    table::Table,
};

/// Everything that filters and scores look at.
pub struct Scene<'a> {
    pub table: &'a Table,
    pub shape: &'a Shape,
    pub pods: &'a filters::inter_pod::Counts,
    pub spread: &'a filters::spread::Counts,
    pub replicas: &'a scores::spread::Replicas,
    pub wishes: &'a scores::PodCounts,
}

/// What is counted about other pods, for one class.
struct Counts {
    pods: filters::inter_pod::Counts,
    spread: filters::spread::Counts,
    replicas: scores::spread::Replicas,
    wishes: scores::PodCounts,
}

impl Counts {
    fn of(table: &Table, view: &View, shape: &Shape) -> Counts {
        let mut counts = Counts {
            pods: filters::inter_pod::Counts::of(table, view, shape),
            spread: filters::spread::Counts { constraints: Vec::new() },
            replicas: scores::spread::Replicas::of(table, view, shape),
            wishes: scores::PodCounts::of(table, view, shape),
        };
        let spread = filters::spread::Counts::of(table, view, shape, |rule, row| {
            let scene = counts.scene(table, shape);
            !(rule.honors_affinity && filters::affinity(&scene, row).is_err()
                || rule.honors_taints && filters::taints(&scene, row).is_err())
        });
        counts.spread = spread;
        counts
    }

    fn scene<'a>(&'a self, table: &'a Table, shape: &'a Shape) -> Scene<'a> {
        Scene { table, shape, pods: &self.pods, spread: &self.spread, replicas: &self.replicas, wishes: &self.wishes }
    }

    fn placed(&mut self, row: usize) {
        self.pods.placed(row);
        self.spread.placed(row);
        self.replicas.placed(row);
        self.wishes.placed(row);
    }
}

pub enum Outcome {
    On(Arc<str>),
    Nowhere(String),
}

/// Finds a node for each of `n_pods` pods of one shape. The table is left as it was found.
pub fn class(table: &mut Table, view: &View, shape: &Shape, n_pods: usize) -> Vec<Outcome> {
    let mut counts = Counts::of(table, view, shape);
    let fitting: Vec<(usize, i64)> = {
        let scene = counts.scene(table, shape);
        let fits = |row: &usize| filters::FIXED.iter().all(|filter| filter(&scene, *row).is_ok());
        let fixed = |row: usize| scores::FIXED.iter().map(|score| score(&scene, row)).sum();
        table.rows().filter(fits).map(|row| (row, fixed(row))).collect()
    };
    let placed = if shape.minds_others() {
        one_by_one(table, shape, &mut counts, &fitting, n_pods)
    } else {
        from_heap(table, shape, &mut counts, &fitting, n_pods)
    };
    let mut outcomes: Vec<Outcome> = placed.iter().map(|row| Outcome::On(table.name(*row))).collect();
    if outcomes.len() < n_pods {
        let message = refusal::sentence(&refusals(&counts.scene(table, shape)));
        outcomes.resize_with(n_pods, || Outcome::Nowhere(message.clone()));
    }
    for row in placed {
        table.give_back(row, shape);
    }
    outcomes
}

/// A pod takes the best node from the heap. A score in the heap may be too high (a replica has come into the zone since),
/// never too low; so a node whose score has sunk goes back, and the first whose score is true is the best.
fn from_heap(
    table: &mut Table,
    shape: &Shape,
    counts: &mut Counts,
    fitting: &[(usize, i64)],
    n_pods: usize,
) -> Vec<usize> {
    let mut heap: BinaryHeap<(i64, Reverse<usize>, i64)> = fitting
        .iter()
        .filter_map(|(row, fixed)| Some((fixed + changing(&counts.scene(table, shape), *row)?, Reverse(*row), *fixed)))
        .collect();
    let mut placed = Vec::with_capacity(n_pods);
    while placed.len() < n_pods
        && let Some((score, Reverse(row), fixed)) = heap.pop()
    {
        let Some(now) = changing(&counts.scene(table, shape), row) else { continue };
        let now = now + fixed;
        if now < score {
            heap.push((now, Reverse(row), fixed));
            continue;
        }
        table.take(row, shape);
        counts.placed(row);
        placed.push(row);
        if let Some(next) = changing(&counts.scene(table, shape), row) {
            heap.push((next + fixed, Reverse(row), fixed));
        }
    }
    placed
}

/// Rules about other pods: each pod looks at all nodes.
fn one_by_one(
    table: &mut Table,
    shape: &Shape,
    counts: &mut Counts,
    fitting: &[(usize, i64)],
    n_pods: usize,
) -> Vec<usize> {
    let mut placed = Vec::with_capacity(n_pods);
    while placed.len() < n_pods {
        let scene = counts.scene(table, shape);
        let scored = fitting.iter().filter_map(|(row, fixed)| Some((fixed + changing(&scene, *row)?, Reverse(*row))));
        let Some((_, Reverse(row))) = scored.max() else { break };
        table.take(row, shape);
        counts.placed(row);
        placed.push(row);
    }
    placed
}

/// The part of a node's score that pods change; `None` where the node has no room (any more).
fn changing(scene: &Scene<'_>, row: usize) -> Option<i64> {
    let fits = filters::CHANGING.iter().all(|filter| filter(scene, row).is_ok());
    fits.then(|| scores::CHANGING.iter().map(|score| score(scene, row)).sum())
}

/// Every node, with what speaks against it: the first filter that refuses has the word.
fn refusals(scene: &Scene<'_>) -> Vec<(String, Vec<Reason>)> {
    let reasons = |row: usize| {
        let filters = filters::FIXED.iter().chain(filters::CHANGING);
        filters.map(|filter| filter(scene, row)).find_map(Result::err).unwrap_or_default()
    };
    scene.table.rows().map(|row| (scene.table.name(row).to_string(), reasons(row))).collect()
}

/// A line for every node: why not, or how good.
pub fn explain(table: &Table, view: &View, shape: &Shape) -> Vec<String> {
    let counts = Counts::of(table, view, shape);
    let scene = counts.scene(table, shape);
    let refusals = refusals(&scene);
    let n_fit = refusals.iter().filter(|(_, reasons)| reasons.is_empty()).count();
    let mut lines = vec![format!("{n_fit} of {} nodes fit", table.count())];
    for (node, reasons) in refusals {
        let told: Vec<&str> = reasons.iter().map(|reason| reason.detail.as_deref().unwrap_or(&reason.text)).collect();
        let row = table.row(&node).unwrap_or(0);
        if told.is_empty() {
            let score: i64 = scores::FIXED.iter().chain(scores::CHANGING).map(|score| score(&scene, row)).sum();
            lines.push(format!("{node}: fits, score {score}"));
        } else {
            lines.push(format!("{node}: {}", told.join(", ")));
        }
    }
    lines
}

/// The domains that a label divides nodes into, and a count in each.
pub struct Domains {
    pub key: String,
    /// The domain of each row; absent for nodes without the label.
    of_row: Vec<Option<u32>>,
    counts: Vec<i64>,
    /// Domains with at least one node that counts.
    live: Vec<bool>,
}

impl Domains {
    pub fn of(table: &Table, key: &str) -> Domains {
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut of_row = vec![None; table.names.len()];
        for row in table.rows() {
            if let Some(value) = table.labels[row].get(key) {
                let next = numbers.len() as u32;
                of_row[row] = Some(*numbers.entry(value).or_insert(next));
            }
        }
        Domains { key: key.to_owned(), of_row, counts: vec![0; numbers.len()], live: vec![true; numbers.len()] }
    }

    /// Leaves nodes out that do not count.
    pub fn keep(&mut self, counts: impl Fn(usize) -> bool) {
        self.live.fill(false);
        for (row, domain) in self.of_row.iter_mut().enumerate() {
            match domain {
                Some(number) if counts(row) => self.live[*number as usize] = true,
                _ => *domain = None,
            }
        }
    }

    pub fn add(&mut self, row: usize) {
        if let Some(domain) = self.of_row[row] {
            self.counts[domain as usize] += 1;
        }
    }

    /// The count in a node's domain; `None` where it has none.
    pub fn count(&self, row: usize) -> Option<i64> {
        self.of_row[row].map(|domain| self.counts[domain as usize])
    }

    pub fn len(&self) -> usize {
        self.live.iter().filter(|live| **live).count()
    }

    pub fn least(&self) -> i64 {
        let live = self.counts.iter().zip(&self.live).filter(|(_, live)| **live);
        live.map(|(count, _)| *count).min().unwrap_or(0)
    }
}
