//! What rules a node out. A new filter is a file and a line in one of the lists.

pub mod inter_pod;
mod node_affinity;
mod ports;
mod resources;
pub mod spread;
mod taints;
mod unschedulable;

use crate::{place::Scene, refusal::Reason};

/// Whether a node takes a pod, asked of every node; and why not, asked where somebody is to be told.
pub struct Filter {
    pub fits: fn(&Scene<'_>, usize) -> bool,
    pub why: for<'a> fn(&Scene<'a>, usize, &mut Vec<Reason<'a>>),
}

/// These see only the node itself, and hold or fail for a whole class.
pub const FIXED: &[Filter] = &[unschedulable::FILTER, node_affinity::FILTER, taints::FILTER];

/// These depend on the pods that are on nodes already.
pub const CHANGING: &[Filter] = &[resources::FILTER, ports::FILTER];

/// These are rules about other pods, on the node and in its domains.
pub const AMONG_PODS: &[Filter] = &[inter_pod::FILTER, spread::FILTER];

pub use node_affinity::fits as affinity;
pub use taints::{fits as taints, tolerates};
