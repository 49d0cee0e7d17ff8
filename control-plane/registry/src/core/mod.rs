//! The core group: `v1`.

mod allocate;
mod configmap;
mod endpoints;
pub(crate) mod event;
mod namespace;
mod node;
pub(crate) mod pod;
mod secret;
mod service;
mod serviceaccount;

use crate::Row;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        configmap::row(),
        endpoints::row(),
        event::row(),
        namespace::row(),
        node::row(),
        pod::row(),
        secret::row(),
        serviceaccount::row(),
        service::row(),
    ]
}
