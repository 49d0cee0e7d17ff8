//! The nodes that a pod may run on whatever else runs there, remembered for pods that ask for the same.
//!
//! Pods differ in what they ask for more often than in where they may run: most may run anywhere. So what follows from
//! nodes alone is worked out once for all of them, until a node changes.

use std::sync::Arc;

use crate::shape::Shape;

/// How many answers are remembered: a cluster has few kinds of nodes, and few ways to ask for them.
const ANSWERS_MAX: usize = 16;

/// Rows, and the part of their score that no pod changes.
pub type Candidates = Arc<[(usize, i64)]>;

#[derive(Default)]
pub struct Remembered {
    answers: Vec<(Shape, Candidates)>,
}

impl Remembered {
    pub fn get(&self, shape: &Shape) -> Option<Candidates> {
        self.answers.iter().find(|(known, _)| known.runs_where(shape)).map(|(_, candidates)| candidates.clone())
    }

    pub fn put(&mut self, shape: &Shape, candidates: &Candidates) {
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.remove(0);
        }
        self.answers.push((shape.clone(), candidates.clone()));
    }

    pub fn clear(&mut self) {
        self.answers.clear();
    }
}
