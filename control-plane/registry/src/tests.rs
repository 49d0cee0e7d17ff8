//! Worlds and requests as short texts, and what came of them.

mod accounts;
mod admission;
mod asking;
mod definitions;
mod encodings;
pub(crate) mod fixture;
mod hostile;
mod kinds;
mod lifecycle;
mod offers;
mod openings;
mod policies;
mod rbac;
mod tables;
mod transactions;
mod validations;
mod validity;
