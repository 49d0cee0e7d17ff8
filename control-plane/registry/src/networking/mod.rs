//! Traffic into a cluster, and who may speak to whom: `networking.k8s.io/v1`.

mod cidr;
mod ingress;
mod policy;

use crate::Row;

pub(crate) fn rows() -> Vec<Row> {
    vec![ingress::class(), ingress::row(), cidr::address(), policy::row(), cidr::range()]
}
