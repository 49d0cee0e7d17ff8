//! One suite for all runtimes, for real: namespaces, cgroups, processes. Needs root.
//!
//! What every runtime must do stands in `contract`; what only one of them promises, with its factory.

mod containerd;
mod contract;
mod embedded;
mod world;
