//! Expressions in CEL, the Common Expression Language, as Kubernetes has it: with its types and functions, checked
//! before they are stored, and with a bound on what one may cost.
//!
//! The grammar and the standard macros are those of the crate `cel`. What it parses is made into a tree of our own, on
//! which types are inferred (`check`) and values computed (`eval`): so that a wrong expression is refused with the words
//! that users know, that JSON is used as it is, and that every step of an evaluation is paid for from a `Budget`. An
//! evaluation stands on the way of every write; without a budget one expression could stop a cluster.

mod ast;
mod budget;
mod check;
mod declarations;
mod eval;
mod functions;
mod json;
mod list;
mod lower;
mod parse;
mod program;
mod types;
mod value;
mod weight;

#[cfg(test)]
mod tests;

pub use budget::{Budget, CALL_COST_MAX, Fault};
pub use check::{AUTHORIZATION_COST, Scope as Declarations};
pub use eval::{Bindings, Variables};
pub use json::to_json;
pub use list::{List, Order};
pub use program::{Program, Wrong};
pub use types::{ObjectType, Type};
pub use value::{Host, Structure, Value};
