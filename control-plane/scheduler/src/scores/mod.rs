//! What makes one node better than another. A new score is a file and a line in one of the lists.
//!
//! Scores are absolute and not normalised over the candidates, so that placing a pod changes the score of one node only,
//! and of its domains as a whole.

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
pub const CHANGING: &[Score] = &[allocation::score];

/// These are wishes about other pods, on the node and in its domains.
pub const AMONG_PODS: &[Score] = &[spread::score, inter_pod::score];
