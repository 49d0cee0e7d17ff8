//! A pod may want others near, or far away; and others may want it far away.

use copepod_store::View;

use super::Filter;
use crate::{place::Scene, refusal::Reason, selectors::PodTerm, shape::Shape, table::Table, topology::Domains};

pub const FILTER: Filter = Filter { fits, why };

/// How many pods each rule finds in each domain.
#[derive(Default)]
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
            for crowd in table.crowds.all() {
                let is = |term: &PodTerm| term.matches(view, &crowd.shape.namespace, &crowd.shape.labels);
                if !shape.near.is_empty() && shape.near.iter().all(is) {
                    crowd.rows().for_each(|(row, n)| counts.add_company(row, n));
                }
                for (term, (domains, _)) in shape.apart.iter().zip(&mut counts.apart) {
                    if is(term) {
                        crowd.rows().for_each(|(row, n)| domains.add_many(row, n));
                    }
                }
            }
        }
        for crowd in table.crowds.keeping_apart() {
            for term in crowd.shape.apart.iter().filter(|term| matches(term)) {
                let known = counts.kept.iter().position(|domains| domains.topology.key == term.key);
                let known = known.unwrap_or_else(|| {
                    counts.kept.push(Domains::of(table, &term.key));
                    counts.kept.len() - 1
                });
                crowd.rows().for_each(|(row, n)| counts.kept[known].add_many(row, n));
            }
        }
        counts
    }

    fn add_company(&mut self, row: usize, n: i64) {
        self.has_company = true;
        self.near.iter_mut().for_each(|domains| domains.add_many(row, n));
    }

    pub fn domains(&self) -> impl Iterator<Item = &Domains> {
        self.near.iter().chain(self.apart.iter().map(|(domains, _)| domains)).chain(&self.kept)
    }

    /// One more pod of this class is on a node.
    pub fn placed(&mut self, row: usize) {
        if self.is_own_company && !self.near.is_empty() {
            self.add_company(row, 1);
        }
        for (domains, is_own) in &mut self.apart {
            if *is_own {
                domains.add(row);
            }
        }
    }
}

fn fits(scene: &Scene<'_>, row: usize) -> bool {
    refusal(scene, row).is_none()
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    reasons.extend(refusal(scene, row));
}

fn refusal(scene: &Scene<'_>, row: usize) -> Option<Reason<'static>> {
    let counts = &scene.pods;
    let refuses = |domains: &Domains| scene.sees(domains) && domains.count(row).unwrap_or(0) > 0;
    if counts.kept.iter().any(refuses) {
        return Some(Reason::Kept);
    }
    if counts.apart.iter().any(|(domains, _)| refuses(domains)) {
        return Some(Reason::Apart);
    }
    let first_of_its_kind = !counts.has_company && counts.is_own_company;
    let is_near = counts.near.iter().filter(|domains| scene.sees(domains)).all(|domains| match domains.count(row) {
        Some(count) => count > 0 || first_of_its_kind,
        None => false,
    });
    (!is_near).then_some(Reason::Near)
}
