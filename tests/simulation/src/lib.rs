//! Whole clusters in one thread, from a seed.
//!
//! Servers are the real log, Raft, state machine and registry, on disks, clocks and a network that are simulated and fail
//! as the seed says. Clients write, read and watch meanwhile, and what they were told is held against what must be so:
//! see `facts` and `linear`. A run depends on its plan and on nothing else, so a failing seed fails again, and a plan with
//! less in it can be tried in its place.

mod calls;
mod dice;
mod disk;
mod facts;
mod linear;
mod network;
mod plan;
mod server;
mod world;

#[cfg(test)]
mod tests;

pub use plan::{Fault, Plan, SECOND};
pub use world::{Report, run};

/// A mistake that is made on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Disks say that they have synchronised, and have not.
    SkipSync,
    /// A server that lost its power comes back with the disk it had when it first started: votes and entries are forgotten.
    Amnesia,
    /// Reads are answered without asking the leader.
    LocalReads,
    /// Writes are answered before they are committed.
    EarlyAnswers,
    /// The version that a client expects is not looked at.
    DropPrecondition,
    /// What belongs together is written apart.
    SplitTransaction,
    /// A watch that goes on elsewhere leaves out an event.
    LoseEvent,
}

impl Mutation {
    pub const ALL: [Mutation; 7] = [
        Mutation::SkipSync,
        Mutation::Amnesia,
        Mutation::LocalReads,
        Mutation::EarlyAnswers,
        Mutation::DropPrecondition,
        Mutation::SplitTransaction,
        Mutation::LoseEvent,
    ];
}
