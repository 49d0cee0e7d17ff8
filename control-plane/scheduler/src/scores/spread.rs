//! Replicas of one owner lie apart by default, over nodes and over zones; and over whatever a pod says it would like.

use copepod_store::View;

use crate::{
    place::{Domains, Scene},
    shape::Shape,
    table::Table,
};

const ZONE: &str = "topology.kubernetes.io/zone";

/// A first neighbour weighs this much, a second half of it, a third a third: where there are few replicas they lie
/// strictly apart, and where there are many, the sizes of nodes count too.
const NODE: i64 = 300;
const ZONE_WEIGHT: i64 = 200;
const WISH: i64 = 300;

/// Where the other replicas are.
pub struct Replicas {
    nodes: Vec<i64>,
    zones: Option<Domains>,
}

impl Replicas {
    pub fn of(table: &Table, view: &View, shape: &Shape) -> Replicas {
        let mut replicas = Replicas { nodes: vec![0; table.names.len()], zones: Some(Domains::of(table, ZONE)) };
        replicas.zones.take_if(|zones| zones.len() < 2);
        if let Some(owner) = &shape.owner {
            for dependent in view.dependents(owner).filter(|dependent| !dependent.meta.is_leaving()) {
                if let Some((row, _)) = table.placed(&dependent.key.name) {
                    replicas.placed(row);
                }
            }
        }
        replicas
    }

    pub fn placed(&mut self, row: usize) {
        self.nodes[row] += 1;
        if let Some(zones) = &mut self.zones {
            zones.add(row);
        }
    }
}

/// `weight` times (1 + 1/2 + 1/3 + …): the price of `neighbours`.
fn price(weight: i64, neighbours: i64) -> i64 {
    const EXACT: i64 = 32;
    let exact: i64 = (1..=neighbours.min(EXACT)).map(|n| weight / n).sum();
    // Beyond, each doubling costs what it costs in the limit: weight times ln 2.
    let beyond = (EXACT + 1..=neighbours.clamp(EXACT, 4096)).map(|n| weight * 16 / n).sum::<i64>() / 16;
    exact + beyond
}

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let mut price_of_all = 0;
    if scene.shape.owner.is_some() && scene.shape.spread.is_empty() {
        price_of_all += price(NODE, scene.replicas.nodes[row]);
        if let Some(zones) = &scene.replicas.zones {
            price_of_all += price(ZONE_WEIGHT, zones.count(row).unwrap_or(0));
        }
    }
    for constraint in scene.spread.constraints.iter().filter(|constraint| !constraint.rule.required) {
        let neighbours = constraint.domains.count(row);
        price_of_all += neighbours.map_or(WISH * 10, |neighbours| price(WISH, neighbours));
    }
    -price_of_all
}
