//! A port of a node has one user.

use super::Filter;
use crate::{place::Scene, refusal::Reason, shape::HostPort};

pub const FILTER: Filter = Filter { fits, why };

fn fits(scene: &Scene<'_>, row: usize) -> bool {
    taken(scene, row).is_none()
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    reasons.extend(taken(scene, row).map(Reason::Port));
}

/// A port that the pod wants and another has.
fn taken<'a>(scene: &Scene<'a>, row: usize) -> Option<&'a HostPort> {
    scene.shape.ports.iter().find(|wanted| {
        scene.table.ports[row].keys().any(|used| {
            used.port == wanted.port
                && used.protocol == wanted.protocol
                && (used.ip == wanted.ip || used.ip.is_empty() || wanted.ip.is_empty())
        })
    })
}
