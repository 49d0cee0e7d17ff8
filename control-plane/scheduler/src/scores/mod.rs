//! What makes one node better than another. A new score is a file and a line in one of the two lists.
//!
//! Scores are absolute and not normalised over the candidates, so that placing a pod changes the score of one node only
//! (and those of its zone, downwards), and a heap stays true.

mod allocation;
mod images;
mod inter_pod;
mod node_affinity;
pub mod spread;
mod taints;

pub use inter_pod::Counts as PodCounts;

use crate::place::Scene;

pub type Score = fn(&Scene<'_>, usize) -> i64;

/// These see only the node itself.
pub const FIXED: &[Score] = &[node_affinity::score, taints::score, images::score];

/// These depend on the pods that are on nodes already.
pub const CHANGING: &[Score] = &[allocation::score, spread::score, inter_pod::score];
