//! The core group: `v1`.

mod allocate;
mod configmap;
mod endpoints;
pub(crate) mod event;
mod limitrange;
mod namespace;
mod node;
mod persistentvolume;
mod persistentvolumeclaim;
pub(crate) mod pod;
mod podtemplate;
mod replicationcontroller;
mod resourcequota;
mod secret;
mod service;
mod serviceaccount;

use crate::Row;

pub use allocate::SERVICE_RANGE_TEXT;
pub(crate) use persistentvolumeclaim::spec as claim_spec;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        configmap::row(),
        endpoints::row(),
        event::row(),
        limitrange::row(),
        namespace::row(),
        node::row(),
        persistentvolumeclaim::row(),
        persistentvolume::row(),
        pod::row(),
        podtemplate::row(),
        replicationcontroller::row(),
        resourcequota::row(),
        secret::row(),
        serviceaccount::row(),
        service::row(),
    ]
}
