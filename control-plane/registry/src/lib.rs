//! What each kind means.
//!
//! Every write goes one way: *decode → default → admit → validate → transaction*. `transact` is that way, a pure function
//! of a view and requests. What all kinds share stands in the pipeline, once; what makes a kind different stands in its
//! row: data, and only those functions that differ.
//!
//! To add a kind: write its row in the file of its API group and put it into that file's list.

mod catalog;
mod row;
mod rules;

mod admission;
mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;
mod webhook_client;

mod asking;
mod pipeline;

mod age;
mod json;
mod jsonpath;
mod objectmeta;
mod opening;

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use copepod_api::{Reply, Resource, Timestamp, Txn};
use copepod_store::{Event, View};

pub use crate::core::SERVICE_RANGE_TEXT;
pub use apiextensions::{Conversion, Converter};
pub use asking::{Answer, Connection, Open, Question, Testimony, Undecided, Verdict, connect};
pub use catalog::Catalog;
pub use pipeline::{decide, failed_request, transact};
pub use row::{Column, Row};
pub use scheduling::SYSTEM as SYSTEM_PRIORITIES;

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

/// The built-in kinds, in the order of discovery. What a cluster serves, its `Catalog` says.
pub fn rows() -> &'static [Arc<Row>] {
    static ROWS: LazyLock<Vec<Arc<Row>>> = LazyLock::new(|| {
        let mut rows = core::rows();
        rows.extend(admissionregistration::rows());
        rows.extend(apiextensions::rows());
        rows.extend(apiregistration::rows());
        rows.extend(apps::rows());
        rows.extend(autoscaling::rows());
        rows.extend(batch::rows());
        rows.extend(certificates::rows());
        rows.extend(coordination::rows());
        rows.extend(discovery::rows());
        rows.extend(events::rows());
        rows.extend(flowcontrol::rows());
        rows.extend(networking::rows());
        rows.extend(node::rows());
        rows.extend(policy::rows());
        rows.extend(rbac::rows());
        rows.extend(resource::rows());
        rows.extend(scheduling::rows());
        rows.extend(storage::rows());
        rows.into_iter().map(Arc::new).collect()
    });
    &ROWS
}

/// The row of a built-in kind at a version; an empty version asks for the preferred one.
pub fn row(resource: &Resource, version: &str) -> Option<&'static Row> {
    catalog::find(rows(), resource, version).map(|row| &**row)
}
