//! The rooms for real: what the agent's traits mean on this machine.

pub mod images;
