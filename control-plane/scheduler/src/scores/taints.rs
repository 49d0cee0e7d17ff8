//! Nodes that would rather not have the pod.

use crate::{filters::tolerates, place::Scene};

/// One taint outweighs most other wishes, as it should: somebody put it there on purpose.
const WEIGHT: i64 = 300;

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let repelling = scene.table.taints[row].iter().filter(|taint| {
        taint.effect == "PreferNoSchedule"
            && !scene.shape.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    });
    -WEIGHT * repelling.count() as i64
}
