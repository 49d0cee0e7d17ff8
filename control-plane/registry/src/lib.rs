//! What each kind means.
//!
//! Every write goes one way: *decode → default → admit → validate → transaction*. `transact` is that way, a pure function
//! of a view and requests. What all kinds share stands in the pipeline, once; what makes a kind different stands in its
//! row: data, and only those functions that differ.

use std::sync::Arc;

use copepod_api::{Kind, Object, Reply, Request, Resource, Revision, Status, Timestamp, Txn};
use copepod_store::{Event, View};

/// A kind and what makes it different.
pub struct Row {
    pub kind: Kind,
}

/// What a decision may know besides the view: the time, and numbers that nobody can guess.
pub struct Env<'a> {
    pub now: Timestamp,
    pub dice: &'a mut dyn FnMut() -> u64,
}

/// Requests turned into a transaction, and the world after it.
pub struct Transaction {
    pub txn: Txn,
    pub view: View,
    pub events: Vec<Event>,
    /// In the order of the requests; valid once the transaction is committed.
    pub replies: Vec<Reply>,
}

/// All kinds served, in the order of discovery.
pub fn rows() -> &'static [Row] {
    &[]
}

/// The row of a resource at a version; an empty version asks for the preferred one.
pub fn row(resource: &Resource, version: &str) -> Option<&'static Row> {
    rows().iter().find(|row| row.kind.resource() == *resource && (version.is_empty() || row.kind.version == version))
}

/// Carries requests out on a fork of `view`: all or none.
pub fn transact(view: &View, requests: &[Request], env: &mut Env<'_>) -> Result<Transaction, Status> {
    let (_, _, _) = (view, requests, &env.now);
    let _: Option<(Arc<Object>, Revision)> = None;
    Err(Status::unavailable("the registry is empty"))
}
