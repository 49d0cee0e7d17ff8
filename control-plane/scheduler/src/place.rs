//! Places the pods of one class.

use std::{cmp::Reverse, sync::Arc};

use copepod_store::View;

use crate::{
    candidates::Candidates,
    contest::Contest,
    filters::{self, Filter},
    refusal::{self, Reason},
    scores,
    shape::Shape,
    table::Table,
    topology::Domains,
};

/// Which of the counts about other pods are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    All,
    /// Those that one node has for itself.
    Node,
    /// Those that nodes share.
    Domain,
}

/// Everything that filters and scores look at.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub grain: Grain,
    pub table: &'a Table,
    pub shape: &'a Shape,
    pub pods: &'a filters::inter_pod::Counts,
    pub spread: &'a filters::spread::Counts,
    pub replicas: &'a scores::spread::Replicas,
    pub wishes: &'a scores::PodCounts,
}

impl<'a> Scene<'a> {
    pub fn at(&self, grain: Grain) -> Scene<'a> {
        Scene { grain, ..*self }
    }

    /// Whether a rule that counts along these domains is to be looked at.
    pub fn sees(&self, domains: &Domains) -> bool {
        match self.grain {
            Grain::All => true,
            Grain::Node => domains.topology.is_fine,
            Grain::Domain => !domains.topology.is_fine,
        }
    }

    /// The domains that a node shares with others: nodes of equal places are told apart by what is their own alone.
    pub fn places(&self, row: usize) -> Vec<(u32, bool)> {
        let counted = self.pods.domains().chain(self.spread.domains()).chain(self.wishes.domains());
        let shared = counted.chain(&self.replicas.zones).filter(|domains| !domains.topology.is_fine);
        shared.map(|domains| domains.place(row)).collect()
    }
}

/// What is counted about other pods, for one class.
#[derive(Default)]
pub struct Counts {
    pods: filters::inter_pod::Counts,
    spread: filters::spread::Counts,
    replicas: scores::spread::Replicas,
    wishes: scores::PodCounts,
}

impl Counts {
    pub fn of(table: &Table, view: &View, shape: &Shape) -> Counts {
        let mut counts = Counts {
            pods: filters::inter_pod::Counts::of(table, view, shape),
            spread: filters::spread::Counts::default(),
            replicas: scores::spread::Replicas::of(table, shape),
            wishes: scores::PodCounts::of(table, view, shape),
        };
        let spread = filters::spread::Counts::of(table, shape, |rule, row| {
            let scene = counts.scene(table, shape);
            (!rule.honors_affinity || filters::affinity(&scene, row))
                && (!rule.honors_taints || filters::taints(&scene, row))
        });
        counts.spread = spread;
        counts
    }

    pub fn scene<'a>(&'a self, table: &'a Table, shape: &'a Shape) -> Scene<'a> {
        Scene {
            grain: Grain::All,
            table,
            shape,
            pods: &self.pods,
            spread: &self.spread,
            replicas: &self.replicas,
            wishes: &self.wishes,
        }
    }

    pub fn placed(&mut self, row: usize) {
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

/// So few pods are placed by a look at all nodes each: to set up the heaps costs as much as some looks.
const FEW: usize = 3;

/// Finds a node for each of `n_pods` pods of one shape. The table is left as it was found.
pub fn class(table: &mut Table, view: &View, shape: &Shape, n_pods: usize) -> Vec<Outcome> {
    let mut counts = Counts::of(table, view, shape);
    let candidates = candidates(table, shape, &counts);
    let mut contest = (n_pods > FEW).then(|| Contest::new(&counts.scene(table, shape), &candidates));
    let mut placed = Vec::with_capacity(n_pods);
    while placed.len() < n_pods {
        let row = match &mut contest {
            Some(contest) => contest.place(table, shape, &mut counts),
            None => look(table, shape, &mut counts, &candidates),
        };
        let Some(row) = row else { break };
        placed.push(row);
    }
    let mut outcomes: Vec<Outcome> = placed.iter().map(|row| Outcome::On(table.name(*row))).collect();
    if outcomes.len() < n_pods {
        let scene = counts.scene(table, shape);
        let message = refusal::sentence(&scene, |row, reasons| refusals(&scene, row, reasons));
        outcomes.resize_with(n_pods, || Outcome::Nowhere(message.clone()));
    }
    for row in placed {
        table.give_back(row, shape);
    }
    outcomes
}

/// The nodes that may be considered at all.
pub fn candidates(table: &mut Table, shape: &Shape, counts: &Counts) -> Candidates {
    let remembered = table.remembered.get(shape);
    let scene = counts.scene(table, shape);
    let fits = |row: &usize| filters::FIXED.iter().all(|filter| (filter.fits)(&scene, *row));
    let fixed = |row: usize| scores::FIXED.iter().map(|score| score(&scene, row)).sum();
    let candidates: Candidates = match remembered {
        Some((candidates, touched)) if touched.is_empty() => return candidates,
        Some((candidates, touched)) => {
            let again = |(row, score): &(usize, i64)| (*row, if touched.contains(row) { fixed(*row) } else { *score });
            candidates.iter().map(again).collect()
        }
        None => {
            #[cfg(test)]
            SEARCHES.set(SEARCHES.get() + 1);
            table.rows().filter(fits).map(|row| (row, fixed(row))).collect()
        }
    };
    table.remembered.put(shape, &candidates);
    candidates
}

/// The best of all nodes for one pod, and its room taken there.
pub fn look(table: &mut Table, shape: &Shape, counts: &mut Counts, candidates: &[(usize, i64)]) -> Option<usize> {
    let scene = counts.scene(table, shape);
    let scored = candidates.iter().filter_map(|(row, fixed)| {
        let own = changing(&scene, *row)?;
        Some((fixed + own + shared(&scene, *row)?, Reverse(*row)))
    });
    let (_, Reverse(row)) = scored.max()?;
    table.take(row, shape);
    counts.placed(row);
    Some(row)
}

#[cfg(test)]
thread_local! {
    static CHANGED_LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    static SEARCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread has searched all nodes for those that may be considered.
#[cfg(test)]
pub fn n_searches() -> usize {
    SEARCHES.get()
}

/// How often this thread has worked out what pods change of a node's score.
#[cfg(test)]
pub fn changed_looks() -> usize {
    CHANGED_LOOKS.get()
}

/// What pods change of a node's score, as far as the scene's grain goes; `None` where the node cannot take one.
pub fn changing(scene: &Scene<'_>, row: usize) -> Option<i64> {
    #[cfg(test)]
    CHANGED_LOOKS.set(CHANGED_LOOKS.get() + 1);
    let fits = filters::CHANGING.iter().all(|filter| (filter.fits)(scene, row));
    if !fits {
        return None;
    }
    let score: i64 = scores::CHANGING.iter().map(|score| score(scene, row)).sum();
    Some(score + among_pods(scene.at(Grain::Node), row)?)
}

/// The part that a node has in common with the others of its domains.
pub fn shared(scene: &Scene<'_>, row: usize) -> Option<i64> {
    among_pods(scene.at(Grain::Domain), row)
}

fn among_pods(scene: Scene<'_>, row: usize) -> Option<i64> {
    let fits = filters::AMONG_PODS.iter().all(|filter| (filter.fits)(&scene, row));
    fits.then(|| scores::AMONG_PODS.iter().map(|score| score(&scene, row)).sum())
}

/// What speaks against a node: the first filter that refuses has the word.
fn refusals<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    let filters = filters::FIXED.iter().chain(filters::CHANGING).chain(filters::AMONG_PODS);
    for Filter { why, .. } in filters {
        why(scene, row, reasons);
        if !reasons.is_empty() {
            return;
        }
    }
}

/// Whether a node would take a pod of this shape as far as the node alone goes: whether something that happened to the
/// node can help a pod that waits.
pub fn could_take(table: &Table, shape: &Shape, row: usize) -> bool {
    let counts = Counts::default();
    let scene = counts.scene(table, shape);
    filters::FIXED.iter().chain(filters::CHANGING).all(|filter| (filter.fits)(&scene, row))
}

/// A line for every node: why not, or how good.
pub fn explain(table: &Table, view: &View, shape: &Shape) -> Vec<String> {
    let counts = Counts::of(table, view, shape);
    let scene = counts.scene(table, shape);
    let mut n_fit = 0;
    let mut lines = vec![String::new()];
    let mut reasons = Vec::new();
    for row in table.rows() {
        let node = table.name(row);
        reasons.clear();
        refusals(&scene, row, &mut reasons);
        if reasons.is_empty() {
            let scores = scores::FIXED.iter().chain(scores::CHANGING).chain(scores::AMONG_PODS);
            let score: i64 = scores.map(|score| score(&scene, row)).sum();
            lines.push(format!("{node}: fits, score {score}"));
            n_fit += 1;
        } else {
            let told: Vec<String> = reasons.iter().map(|reason| reason.told(&scene, row)).collect();
            lines.push(format!("{node}: {}", told.join(", ")));
        }
    }
    lines[0] = format!("{n_fit} of {} nodes fit", table.count());
    lines
}
