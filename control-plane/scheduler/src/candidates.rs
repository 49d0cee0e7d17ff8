//! The nodes that a pod may run on whatever else runs there, remembered for pods that ask for the same.
//!
//! Pods differ in what they ask for more often than in where they may run: most may run anywhere. So what follows from
//! nodes alone is worked out once for all of them, until a node changes. Images come to nodes all the time, and change
//! nothing but the score of that node.

use std::{collections::BTreeSet, sync::Arc};

use crate::shape::Shape;

/// How many answers are remembered: a cluster has few kinds of nodes, and few ways to ask for them.
const ANSWERS_MAX: usize = 16;

/// Rows, and the part of their score that no pod changes.
pub type Candidates = Arc<[(usize, i64)]>;

struct Answer {
    shape: Shape,
    candidates: Candidates,
    /// Rows whose score is another one by now.
    touched: BTreeSet<usize>,
}

#[derive(Default)]
pub struct Remembered {
    answers: Vec<Answer>,
}

impl Remembered {
    /// What is remembered, and which rows of it are to be scored again.
    pub fn get(&mut self, shape: &Shape) -> Option<(Candidates, BTreeSet<usize>)> {
        let answer = self.answers.iter_mut().find(|answer| answer.shape.runs_where(shape))?;
        Some((answer.candidates.clone(), std::mem::take(&mut answer.touched)))
    }

    pub fn put(&mut self, shape: &Shape, candidates: &Candidates) {
        self.answers.retain(|answer| !answer.shape.runs_where(shape));
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.remove(0);
        }
        let (shape, candidates) = (shape.clone(), candidates.clone());
        self.answers.push(Answer { shape, candidates, touched: BTreeSet::new() });
    }

    /// The score of a row has changed, and not whether it is there.
    pub fn touch(&mut self, row: usize) {
        for answer in &mut self.answers {
            answer.touched.insert(row);
        }
    }

    pub fn clear(&mut self) {
        self.answers.clear();
    }
}
