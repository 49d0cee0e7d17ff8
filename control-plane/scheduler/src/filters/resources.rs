//! A pod gets what it asks for, or another node.

use super::Filter;
use crate::{place::Scene, refusal::Reason};

pub const FILTER: Filter = Filter { fits, why };

fn has_room(ask: i64, used: i64, capacity: i64) -> bool {
    ask == 0 || ask <= capacity - used
}

fn fits(scene: &Scene<'_>, row: usize) -> bool {
    let (asks, used, capacity) = (&scene.shape.asks, &scene.table.used[row], &scene.table.capacity[row]);
    has_room(asks.cpu, used.cpu, capacity.cpu)
        && has_room(asks.memory, used.memory, capacity.memory)
        && has_room(asks.storage, used.storage, capacity.storage)
        && has_room(asks.pods, used.pods, capacity.pods)
        && asks.other.iter().all(|(name, ask)| has_room(*ask, used.of(name), capacity.of(name)))
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    let (asks, used, capacity) = (&scene.shape.asks, &scene.table.used[row], &scene.table.capacity[row]);
    if !has_room(asks.pods, used.pods, capacity.pods) {
        reasons.push(Reason::TooManyPods);
    }
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(asks.other.keys().map(String::as_str)) {
        if !has_room(asks.of(name), used.of(name), capacity.of(name)) {
            reasons.push(Reason::Insufficient(name));
        }
    }
}
