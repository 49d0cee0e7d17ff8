//! Pods are to lie evenly over domains.

use copepod_store::View;

use crate::{
    place::{Domains, Scene},
    refusal::{Check, Reason},
    shape::{Shape, Spread},
    table::Table,
};

/// How pods lie over the domains of each constraint.
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
    pub fn of(table: &Table, _view: &View, shape: &Shape, eligible: impl Fn(&Spread, usize) -> bool) -> Counts {
        let mut constraints: Vec<Constraint> = Vec::new();
        for rule in &shape.spread {
            let counts_for_all = |row: usize| shape.spread.iter().all(|r| table.labels[row].contains_key(&r.key));
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
            for (row, placed) in table.pods() {
                if placed.shape.namespace != shape.namespace || placed.pod.meta.is_leaving() {
                    continue;
                }
                for constraint in &mut constraints {
                    if constraint.rule.selector.matches(&placed.shape.labels) {
                        constraint.domains.add(row);
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

    /// One more pod of this class is on a node.
    pub fn placed(&mut self, row: usize) {
        for constraint in self.constraints.iter_mut().filter(|constraint| constraint.is_own) {
            constraint.domains.add(row);
        }
        self.measure();
    }
}

pub fn check(scene: &Scene<'_>, row: usize) -> Check {
    for constraint in scene.spread.constraints.iter().filter(|constraint| constraint.rule.required) {
        if !scene.table.labels[row].contains_key(&constraint.rule.key) {
            let text = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Err(vec![Reason::told(text, format!("it has no label {}", constraint.rule.key))]);
        }
        let count = constraint.domains.count(row).unwrap_or(0) + i64::from(constraint.is_own);
        if count - constraint.least > constraint.rule.max_skew {
            return Err(vec![Reason::plain("node(s) didn't match pod topology spread constraints")]);
        }
    }
    Ok(())
}
