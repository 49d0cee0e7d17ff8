//! What rules a node out. A new filter is a file and a line in one of the lists.

pub mod inter_pod;
mod node_affinity;
mod ports;
mod resources;
pub mod spread;
mod taints;
mod unschedulable;

use crate::{place::Scene, refusal::Check};

pub type Filter = fn(&Scene<'_>, usize) -> Check;

/// These see only the node itself, and hold or fail for a whole class.
pub const FIXED: &[Filter] = &[unschedulable::check, node_affinity::check, taints::check];

/// These depend on the pods that are on nodes already.
pub const CHANGING: &[Filter] = &[resources::check, ports::check];

/// These are rules about other pods, on the node and in its domains.
pub const AMONG_PODS: &[Filter] = &[inter_pod::check, spread::check];

pub use node_affinity::check as affinity;
pub use taints::{check as taints, tolerates};
