//! The node front: joining, assignments, heartbeats, status and tunnels to nodes.
//!
//! Nothing ever dials an agent. Each agent holds one session to the leader; down it come the node's pods and all they
//! refer to, and what the data path needs; up it go status, heartbeats and acknowledgements. Heartbeats stay in memory:
//! only a change of mind (a node fell silent, a node is back) is written.

mod backlog;
mod board;
mod dispatch;
mod echo;
mod everybody;
mod feed;
mod hearing;
mod hub;
mod join;
mod lost;
mod neighbours;
mod pace;
mod peers;
mod references;
mod release;
mod service;
mod silence;
mod slices;
mod status;
mod tunnel;

pub use hub::Hub;
pub use join::Issue;
pub use service::NodeFront;
pub use tunnel::Tunnel;

/// What is decided here without clock, task and socket, for a front that is simulated.
pub mod rules {
    pub use crate::{
        backlog::Backlog,
        board::{Board, Name, Told},
        everybody::Parts,
        release::{Leaving, Release},
        status::{Readiness, introduction, ready},
    };
}
