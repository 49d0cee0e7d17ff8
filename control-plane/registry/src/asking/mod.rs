//! Those who are asked whether a write may happen, and who may change it on its way: policies in CEL, and webhooks.
//!
//! The way of a write is a pure function, and a webhook is a program somewhere else. So a write that must ask does not
//! wait: it ends with its questions open, the server gets the answers, and the write is decided again with what they
//! say. What was asked is known by its words, the old object's revision among them: where the world has changed
//! meanwhile, the words differ, and the question is asked anew. So nobody commits what nobody was asked about.

mod attempt;
mod authorizer;
mod connection;
pub(crate) mod expressions;
mod matching;
pub(crate) mod mutating;
pub(crate) mod policy;
mod testimony;
pub(crate) mod typing;
mod validating;
mod webhook;

use copepod_api::StatusResult;
use serde_json::Value;

pub(crate) use attempt::{Attempt, Operation};
pub use connection::{Connection, connect};
pub(crate) use testimony::waiting;
pub use testimony::{Answer, Open, Question, Testimony, Undecided, Verdict};

use crate::pipeline::World;

/// The resources that say who is asked. Nobody is asked about these, or a wrong one could never be repaired.
const GROUP: &str = "admissionregistration.k8s.io";

/// Lets those change the object who may; says whether anybody did.
pub(crate) fn mutate(world: &mut World<'_>, attempt: &Attempt<'_>, object: &mut Value) -> StatusResult<bool> {
    if &*attempt.row.kind.group == GROUP {
        return Ok(false);
    }
    let by_policies = mutating::mutate(world, attempt, object)?;
    let by_webhooks = webhook::mutate(world, attempt, object)?;
    Ok(by_policies || by_webhooks)
}

/// Asks everybody whether the write, as it is now, may happen.
pub(crate) fn validate(world: &mut World<'_>, attempt: &Attempt<'_>, object: &Value) -> StatusResult<()> {
    if &*attempt.row.kind.group == GROUP {
        return Ok(());
    }
    validating::validate(world, attempt, object)?;
    webhook::validate(world, attempt, object)
}

/// Asks about what carries no object that could be changed: a deletion, a connection.
pub(crate) fn ask(world: &mut World<'_>, attempt: &Attempt<'_>, object: &Value) -> StatusResult<()> {
    let mut shown = object.clone();
    mutate(world, attempt, &mut shown)?;
    validate(world, attempt, object)
}
