//! A pod says by labels which nodes it may run on.

use super::Filter;
use crate::{place::Scene, refusal::Reason, selectors};

pub const FILTER: Filter = Filter { fits, why };

pub fn fits(scene: &Scene<'_>, row: usize) -> bool {
    let labels = &scene.table.labels[row];
    let selected = scene.shape.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = scene
        .shape
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let wanted = required.is_none_or(|required| {
        let name = scene.table.name(row);
        required.node_selector_terms.iter().any(|term| selectors::node_term_matches(term, &name, labels))
    });
    selected && wanted
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    reasons.extend((!fits(scene, row)).then_some(Reason::Affinity));
}
