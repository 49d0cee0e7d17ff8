//! Nodes without containers: the agent as it is, with rooms that only pretend.
//!
//! Tests run one such agent and look at what it asks of its rooms; measurements run thousands of them in one process, each
//! with its own identity, session and disk, to see what so many nodes cost a server. Nothing in the agent knows whether its
//! rooms are real.

mod images;
mod network;
mod runtime;

use std::sync::Arc;

pub use self::{
    images::HollowImages,
    network::{HollowNetwork, Told},
    runtime::HollowRuntime,
};
use crate::surface::Rooms;

/// Rooms for one node: its pods have addresses from `first` on, and `told` hears of each change of its data path.
pub fn rooms(first: std::net::Ipv4Addr, told: Option<Told>) -> Rooms {
    Rooms {
        runtime: Arc::new(HollowRuntime::default()),
        network: Arc::new(HollowNetwork::new(first, told)),
        images: Arc::new(HollowImages),
    }
}
