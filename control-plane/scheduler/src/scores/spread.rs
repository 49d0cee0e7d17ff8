//! Replicas of one owner lie apart by default, over nodes and over zones; and over whatever a pod says it would like.

use crate::{
    place::{Grain, Scene},
    shape::Shape,
    table::Table,
    topology::Domains,
};

const ZONE: &str = "topology.kubernetes.io/zone";

/// A first neighbour weighs this much, a second half of it, a third a third: where there are few replicas they lie
/// strictly apart, and where there are many, the sizes of nodes count too.
const NODE: i64 = 300;
const ZONE_WEIGHT: i64 = 200;
const WISH: i64 = 300;

/// Where the other replicas are.
#[derive(Default)]
pub struct Replicas {
    nodes: Vec<i64>,
    pub zones: Option<Domains>,
}

impl Replicas {
    pub fn of(table: &Table, shape: &Shape) -> Replicas {
        // A pod of nobody has no replicas, and one with rules of its own is spread by them.
        let Some(owner) = shape.owner.as_ref().filter(|_| shape.spread.is_empty()) else {
            return Replicas { nodes: Vec::new(), zones: None };
        };
        let zones = Some(Domains::of(table, ZONE)).filter(|zones| zones.len() >= 2);
        let mut replicas = Replicas { nodes: vec![0; table.names.len()], zones };
        for crowd in table.crowds.of_owner(owner).filter(|crowd| !crowd.is_leaving) {
            crowd.rows().for_each(|(row, n)| replicas.add(row, n));
        }
        replicas
    }

    pub fn placed(&mut self, row: usize) {
        self.add(row, 1);
    }

    fn add(&mut self, row: usize, n: i64) {
        if let Some(nodes) = self.nodes.get_mut(row) {
            *nodes += n;
        }
        if let Some(zones) = &mut self.zones {
            zones.add_many(row, n);
        }
    }
}

/// `weight` times (1 + 1/2 + 1/3 + …): the price of `neighbours`.
fn price(weight: i64, neighbours: i64) -> i64 {
    if neighbours == 0 {
        return 0;
    }
    const EXACT: i64 = 32;
    let exact: i64 = (1..=neighbours.min(EXACT)).map(|n| weight / n).sum();
    // Beyond, each doubling costs what it costs in the limit: weight times ln 2.
    let beyond = (EXACT + 1..=neighbours.clamp(EXACT, 4096)).map(|n| weight * 16 / n).sum::<i64>() / 16;
    exact + beyond
}

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let mut price_of_all = 0;
    if scene.grain != Grain::Domain {
        price_of_all += price(NODE, scene.replicas.nodes.get(row).copied().unwrap_or(0));
    }
    if let Some(zones) = scene.replicas.zones.as_ref().filter(|zones| scene.sees(zones)) {
        price_of_all += price(ZONE_WEIGHT, zones.count(row).unwrap_or(0));
    }
    let wishes = scene.spread.constraints.iter().filter(|constraint| !constraint.rule.required);
    for constraint in wishes.filter(|constraint| scene.sees(&constraint.domains)) {
        let neighbours = constraint.domains.count(row);
        price_of_all += neighbours.map_or(WISH * 10, |neighbours| price(WISH, neighbours));
    }
    -price_of_all
}
