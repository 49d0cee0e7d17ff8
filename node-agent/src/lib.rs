//! The node agent: pulls what is its own, writes it down, and makes it so.
//!
//! ```text
//! session ──▶ assignments (on disk) ──▶ one worker a pod ──▶ runtime, network, images, volumes
//!    ▲                                        │
//!    └────────────── reports ◀────────────────┘
//! ```
//! What is deliberately absent: the agent keeps nothing in memory that its next life could not find on disk or ask the
//! runtime for; nothing ever dials it; stopping it stops no container.

mod adopt;
mod agent;
mod assemble;
mod assignments;
mod config;
mod connect;
mod container;
mod credentials;
mod cri;
pub mod embedded;
mod events;
mod executor;
mod files;
mod handlers;
#[cfg(any(test, feature = "hollow"))]
pub mod hollow;
mod kept;
mod logs;
mod machine;
mod membership;
mod node;
mod paths;
mod ports;
mod reports;
mod session;
mod streams;
pub mod surface;
mod tokens;
mod tries;
mod tunnels;
mod worker;

#[cfg(test)]
mod tests;

pub use assemble::run_with;
pub use config::{AgentConfig, AgentError, RuntimeChoice};
pub use embedded::run;
pub use membership::has_joined;
