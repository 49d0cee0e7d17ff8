//! `x-kubernetes-validations`: rules in CEL that stand in the schema of a kind.
//!
//! A schema becomes a tree that has, at each place, the type by which its rules see the value, and the rules. The same
//! tree says what is wrong with a definition (`check`) and with an object (`judge`).

mod check;
mod judge;
mod names;
mod tree;

pub use check::check;
pub use judge::judge;
pub use tree::Tree;
