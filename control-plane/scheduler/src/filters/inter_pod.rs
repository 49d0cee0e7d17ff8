//! A pod may want others near, or far away; and others may want it far away.

use copepod_store::View;

use crate::{
    place::{Domains, Scene},
    refusal::{Check, Reason},
    selectors::PodTerm,
    shape::Shape,
    table::Table,
};

/// How many pods each rule finds in each domain.
pub struct Counts {
    near: Vec<Domains>,
    /// Somebody matches all the rules of nearness at once.
    has_company: bool,
    /// The pod itself is one of those that it wants near: then the first may go anywhere.
    is_own_company: bool,
    apart: Vec<(Domains, bool)>,
    /// Domains that pods keep for themselves, away from such as this one.
    kept: Vec<Domains>,
}

impl Counts {
    pub fn of(table: &Table, view: &View, shape: &Shape) -> Counts {
        let matches = |term: &PodTerm| term.matches(view, &shape.namespace, &shape.labels);
        let mut counts = Counts {
            near: shape.near.iter().map(|term| Domains::of(table, &term.key)).collect(),
            has_company: false,
            is_own_company: shape.near.iter().all(matches),
            apart: shape.apart.iter().map(|term| (Domains::of(table, &term.key), matches(term))).collect(),
            kept: Vec::new(),
        };
        if !shape.near.is_empty() || !shape.apart.is_empty() {
            for (row, placed) in table.pods() {
                let is = |term: &PodTerm| term.matches(view, &placed.shape.namespace, &placed.shape.labels);
                if !shape.near.is_empty() && shape.near.iter().all(is) {
                    counts.add_company(row);
                }
                for (term, (domains, _)) in shape.apart.iter().zip(&mut counts.apart) {
                    if is(term) {
                        domains.add(row);
                    }
                }
            }
        }
        for (row, placed) in table.keeping_apart() {
            for term in placed.shape.apart.iter().filter(|term| matches(term)) {
                let known = counts.kept.iter_mut().find(|domains| domains.key == term.key);
                match known {
                    Some(domains) => domains.add(row),
                    None => {
                        let mut domains = Domains::of(table, &term.key);
                        domains.add(row);
                        counts.kept.push(domains);
                    }
                }
            }
        }
        counts
    }

    fn add_company(&mut self, row: usize) {
        self.has_company = true;
        self.near.iter_mut().for_each(|domains| domains.add(row));
    }

    /// One more pod of this class is on a node.
    pub fn placed(&mut self, row: usize) {
        if self.is_own_company && !self.near.is_empty() {
            self.add_company(row);
        }
        for (domains, is_own) in &mut self.apart {
            if *is_own {
                domains.add(row);
            }
        }
    }
}

pub fn check(scene: &Scene<'_>, row: usize) -> Check {
    let counts = &scene.pods;
    if counts.kept.iter().any(|domains| domains.count(row).unwrap_or(0) > 0) {
        return Err(vec![Reason::plain("node(s) didn't satisfy existing pods anti-affinity rules")]);
    }
    if counts.apart.iter().any(|(domains, _)| domains.count(row).unwrap_or(0) > 0) {
        return Err(vec![Reason::plain("node(s) didn't match pod anti-affinity rules")]);
    }
    let first_of_its_kind = !counts.has_company && counts.is_own_company;
    let is_near = counts.near.iter().all(|domains| match domains.count(row) {
        Some(count) => count > 0 || first_of_its_kind,
        None => false,
    });
    if is_near { Ok(()) } else { Err(vec![Reason::plain("node(s) didn't match pod affinity rules")]) }
}
