//! What each kind means.
//!
//! Every write goes one way: *decode → default → admit → validate → transaction*. `transact` is that way, a pure function
//! of a view and requests. What all kinds share stands in the pipeline, once; what makes a kind different stands in its
//! row: data, and only those functions that differ.
//!
//! To add a kind: write its row in the file of its API group and put it into that file's list.

mod row;

mod apps;
mod coordination;
mod core;
mod discovery;
mod policy;
mod rbac;

mod pipeline;

mod age;
mod json;
mod objectmeta;

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use copepod_api::{Reply, Resource, Timestamp, Txn};
use copepod_store::{Event, View};

pub use pipeline::{failed_request, transact};
pub use row::{Column, Row};

/// What a decision may know besides the view: the time, and numbers that nobody can guess.
pub struct Env<'a> {
    pub now: Timestamp,
    pub dice: &'a mut dyn FnMut() -> u64,
}

/// Requests turned into a transaction, and the world after it.
#[derive(Debug)]
pub struct Transaction {
    pub txn: Txn,
    pub view: View,
    pub events: Vec<Event>,
    /// In the order of the requests; valid once the transaction is committed.
    pub replies: Vec<Reply>,
}

/// All kinds served, in the order of discovery.
pub fn rows() -> &'static [Row] {
    static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
        let mut rows = core::rows();
        rows.extend(apps::rows());
        rows.extend(coordination::rows());
        rows.extend(discovery::rows());
        rows.extend(policy::rows());
        rows.extend(rbac::rows());
        rows
    });
    &ROWS
}

/// The row of a resource at a version; an empty version asks for the preferred one.
pub fn row(resource: &Resource, version: &str) -> Option<&'static Row> {
    rows().iter().find(|row| {
        row.kind.group == resource.group
            && row.kind.plural == resource.plural
            && (version.is_empty() || row.kind.version == version)
    })
}
