//! The state of a cluster as a value.
//!
//! `View` is the whole state at one revision: taking one costs a pointer, and it never changes. `View::apply` is the state
//! machine: it takes a transaction and gives the next view, or says why not. `History` is the log of recent events that
//! watches read. Raft, disks and sockets are elsewhere; without them this same state machine is the world of tests,
//! simulation and `plan`.

mod apply;
mod collection;
pub mod difference;
pub mod door;
pub mod history;
pub mod resting;
mod single;
pub mod view;

#[cfg(test)]
mod copied;

pub use apply::{Event, EventKind, Refusal};
pub use door::{Cursor, Door, Leader};
pub use history::{Compacted, History};
pub use resting::Resting;
pub use view::{Snapshot, View};
