//! The vocabulary of Copepod: what an object, a kind, a request, a transaction and a plan are.
//!
//! Everything here is a value. Nothing here knows a clock, a dice, a file, a socket or a thread, so the same words serve
//! the servers, the agents, the command line, a simulation and a test.

pub mod apply;
pub mod cron;
pub mod decode;
pub mod ephemeral;
mod facts;
pub mod field;
mod held;
pub mod key;
pub mod kind;
pub mod meta;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod plan;
pub mod quantity;
pub mod quota;
pub mod request;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod texts;
pub mod time;
pub mod txn;
pub mod typed;

pub use facts::{Health, NODE_LOST, NodeFacts, Phase, PodFacts};
pub use held::{Packer, Packing};
pub use k8s_openapi;
pub use key::{Key, Name, Revision};
pub use kind::{Kind, Scope, Subresource};
pub use meta::Meta;
pub use object::{Body, Object};
pub use plan::Plan;
pub use quantity::Quantity;
pub use request::{Action, DeleteOptions, Patch, Reply, Request, Target, User, WriteOptions};
pub use resource::Resource;
pub use schema::Schema;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Status, StatusResult};
pub use texts::Texts;
pub use time::Timestamp;
pub use txn::{Expect, Op, Txn};
pub use typed::{Of, Typed};
