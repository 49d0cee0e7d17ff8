//! Nodes that have the images already start the pod sooner.

use crate::place::Scene;

/// Less than one replica of the same owner weighs: a fast start must not pile replicas up on one node.
const WEIGHT: i64 = 20;

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let images = &scene.table.images[row];
    if images.is_empty() {
        return 0;
    }
    let present = scene.shape.images.iter().filter(|image| images.contains(*image)).count() as i64;
    let all = scene.shape.images.len().max(1) as i64;
    WEIGHT * present / all
}
