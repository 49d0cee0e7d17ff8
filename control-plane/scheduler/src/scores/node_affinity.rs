//! Nodes that a pod would rather have.

use crate::{place::Scene, selectors};

const WEIGHT: i64 = 2;

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let preferred = scene
        .shape
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let name = scene.table.name(row);
    let labels = &scene.table.labels[row];
    let matching = preferred
        .into_iter()
        .flatten()
        .filter(|preferred| selectors::node_term_matches(&preferred.preference, &name, labels));
    matching.map(|preferred| i64::from(preferred.weight)).sum::<i64>() * WEIGHT
}
