//! Scenarios on real clusters: servers and nodes in network namespaces of this machine, run by the binary under test.
//!
//! Each test has a cluster of its own and takes it down; waiting is for conditions, never for time.

mod api;
mod chaos;
mod clients;
mod failures;
mod golden;
mod harness;
mod kube_rs;
mod kubectl;
mod mistakes;
mod operations;
mod pods;
mod registry;
mod stateful;
mod streams;
mod traffic;
mod writers;
