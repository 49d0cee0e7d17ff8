//! Pods that would rather be near others, or away from them.

use copepod_store::View;

use crate::{place::Scene, shape::Shape, table::Table, topology::Domains};

const WEIGHT: i64 = 2;

/// How many pods each wish finds in each domain, with the weight of the wish: negative to be away.
#[derive(Default)]
pub struct Counts {
    wishes: Vec<(i64, Domains, bool)>,
}

impl Counts {
    pub fn of(table: &Table, view: &View, shape: &Shape) -> Counts {
        let near = shape.rather_near.iter().map(|(weight, term)| (*weight, term));
        let apart = shape.rather_apart.iter().map(|(weight, term)| (-weight, term));
        let wishes = near.chain(apart).map(|(weight, term)| {
            let mut domains = Domains::of(table, &term.key);
            for crowd in table.crowds.all() {
                if term.matches(view, &crowd.shape.namespace, &crowd.shape.labels) {
                    crowd.rows().for_each(|(row, n)| domains.add_many(row, n));
                }
            }
            (weight, domains, term.matches(view, &shape.namespace, &shape.labels))
        });
        Counts { wishes: wishes.collect() }
    }

    pub fn domains(&self) -> impl Iterator<Item = &Domains> {
        self.wishes.iter().map(|(_, domains, _)| domains)
    }

    pub fn placed(&mut self, row: usize) {
        for (_, domains, is_own) in &mut self.wishes {
            if *is_own {
                domains.add(row);
            }
        }
    }
}

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let wishes = scene.wishes.wishes.iter().filter(|(_, domains, _)| scene.sees(domains));
    wishes.map(|(weight, domains, _)| weight * WEIGHT * domains.count(row).unwrap_or(0).min(10)).sum()
}
