//! Who may do what: role-based access control as a pure function of the state.
//!
//! A `Wish` is what somebody wants to do. `Index` is everything that roles and bindings grant, arranged by who holds it;
//! it is made from a view, made again only when one of the four collections changed, and then decodes only what did.
//! `escalation` is the rule that nobody gives away what they do not hold; `defaults` are the roles every cluster has.

pub mod defaults;
pub mod escalation;
mod index;
pub mod node;
mod resources;
mod rule;
mod subject;
mod wish;

#[cfg(test)]
mod tests;

pub use index::{Decision, Index};
pub use resources::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};
pub use rule::Rule;
pub use subject::{SERVICE_ACCOUNT_PREFIX, service_account_user};
pub use wish::{Attributes, Wish};
