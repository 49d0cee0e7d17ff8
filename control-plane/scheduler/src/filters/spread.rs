//! Pods are to lie evenly over domains.

use super::Filter;
use crate::{
    place::Scene,
    refusal::Reason,
    shape::{Shape, Spread},
    table::Table,
    topology::Domains,
};

pub const FILTER: Filter = Filter { fits, why };

/// How pods lie over the domains of each constraint.
#[derive(Default)]
pub struct Counts {
    pub constraints: Vec<Constraint>,
}

pub struct Constraint {
    pub rule: Spread,
    pub domains: Domains,
    /// The pod counts itself.
    pub is_own: bool,
    least: i64,
}

impl Counts {
    /// `eligible` says for a constraint whether a node counts at all.
    pub fn of(table: &Table, shape: &Shape, eligible: impl Fn(&Spread, usize) -> bool) -> Counts {
        let mut constraints: Vec<Constraint> = Vec::new();
        let topologies: Vec<_> = shape.spread.iter().map(|rule| table.topology(&rule.key)).collect();
        for rule in &shape.spread {
            let counts_for_all = |row: usize| topologies.iter().all(|topology| topology.has(row));
            let mut domains = Domains::of(table, &rule.key);
            domains.keep(|row| counts_for_all(row) && eligible(rule, row));
            constraints.push(Constraint {
                is_own: rule.selector.matches(&shape.labels),
                rule: rule.clone(),
                domains,
                least: 0,
            });
        }
        if !constraints.is_empty() {
            let staying = table.crowds.all().filter(|crowd| !crowd.is_leaving);
            for crowd in staying.filter(|crowd| crowd.shape.namespace == shape.namespace) {
                for constraint in &mut constraints {
                    if constraint.rule.selector.matches(&crowd.shape.labels) {
                        crowd.rows().for_each(|(row, n)| constraint.domains.add_many(row, n));
                    }
                }
            }
        }
        let mut counts = Counts { constraints };
        counts.measure();
        counts
    }

    fn measure(&mut self) {
        for constraint in &mut self.constraints {
            let few = (constraint.domains.len() as i64) < constraint.rule.min_domains;
            constraint.least = if few { 0 } else { constraint.domains.least() };
        }
    }

    pub fn domains(&self) -> impl Iterator<Item = &Domains> {
        self.constraints.iter().map(|constraint| &constraint.domains)
    }

    /// How high the emptiest domain is, for the rules that a node alone can break: when it rises, nodes that were refused
    /// may take pods again.
    pub fn levels(&self) -> Vec<i64> {
        let own = self.constraints.iter().filter(|it| it.rule.required && it.domains.topology.is_fine);
        own.map(|constraint| constraint.least).collect()
    }

    /// One more pod of this class is on a node.
    pub fn placed(&mut self, row: usize) {
        for constraint in self.constraints.iter_mut().filter(|constraint| constraint.is_own) {
            constraint.domains.add(row);
        }
        self.measure();
    }
}

fn fits(scene: &Scene<'_>, row: usize) -> bool {
    refusal(scene, row).is_none()
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    reasons.extend(refusal(scene, row));
}

fn refusal<'a>(scene: &Scene<'a>, row: usize) -> Option<Reason<'a>> {
    let required = scene.spread.constraints.iter().filter(|constraint| constraint.rule.required);
    for constraint in required.filter(|constraint| scene.sees(&constraint.domains)) {
        if !constraint.domains.topology.has(row) {
            return Some(Reason::NoLabel(&constraint.rule.key));
        }
        let count = constraint.domains.count(row).unwrap_or(0) + i64::from(constraint.is_own);
        if count - constraint.least > constraint.rule.max_skew {
            return Some(Reason::Uneven);
        }
    }
    None
}
