//! Whole clusters in one thread, from a seed.
//!
//! Servers are the real log, Raft, state machine and registry, on disks, clocks and a network that are simulated and fail
//! as the seed says. Clients write, read and watch meanwhile, and what they were told is held against what must be so:
//! see `facts`, `linear` and `laws`. In half of the runs there are nodes, too, and on the leader the real controllers and
//! the real scheduler make pods run there that the real rules of the agent start and stop. A run depends on its plan and on nothing else, so a failing seed fails again, and a plan with
//! less in it can be tried in its place.

mod calls;
mod chores;
mod dice;
mod disk;
mod facts;
mod front;
mod laws;
mod leading;
mod linear;
mod network;
mod node;
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
    /// Messages of former terms are taken for ones of this term, and so is what a leader has decided in them.
    IgnoreTerm,
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
    /// Servers forget how far their logs were synchronised, and take rot at the end for a torn write.
    ForgetSynced,
    /// The scheduler never hears of some pods.
    ForgetPod,
    /// An agent says that its machine offers more than it does.
    Boast,
    /// An agent does not see that a pod is to leave.
    IgnoreDeletion,
    /// An agent does not say everything again when it comes to another server.
    SayOnce,
    /// Evictions ask no budget.
    IgnoreBudget,
    /// ReplicaSets stay whose Deployments are gone.
    SkipCollection,
    /// Pods are stopped before the other nodes have stopped sending them requests.
    EarlyRelease,
    /// Pods of StatefulSets are given up as soon as they are to leave.
    GiveUpEarly,
    /// What is to be told later counts as if it had been told.
    CountUntold,
    /// An agent does not say what by its clock is older than what it has said.
    BelieveClock,
    /// An agent that starts does not look what runs.
    ForgetRunning,
    /// A node keeps the version that it has said first.
    KeepVersion,
}

impl Mutation {
    pub const ALL: [Mutation; 21] = [
        Mutation::SkipSync,
        Mutation::Amnesia,
        Mutation::IgnoreTerm,
        Mutation::LocalReads,
        Mutation::EarlyAnswers,
        Mutation::DropPrecondition,
        Mutation::SplitTransaction,
        Mutation::LoseEvent,
        Mutation::ForgetSynced,
        Mutation::ForgetPod,
        Mutation::Boast,
        Mutation::IgnoreDeletion,
        Mutation::SayOnce,
        Mutation::IgnoreBudget,
        Mutation::SkipCollection,
        Mutation::EarlyRelease,
        Mutation::GiveUpEarly,
        Mutation::CountUntold,
        Mutation::BelieveClock,
        Mutation::ForgetRunning,
        Mutation::KeepVersion,
    ];

    /// Within so many seeds it must be found.
    pub fn budget(self) -> u64 {
        if self.is_about_nodes() { 40 } else { 150 }
    }

    /// Whether it shows only where there are nodes.
    pub fn is_about_nodes(self) -> bool {
        Self::ALL.iter().position(|it| *it == self).is_some_and(|place| place >= 9)
    }
}
