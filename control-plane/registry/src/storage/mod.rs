//! Kinds of storage and who provides it: `storage.k8s.io/v1`.

mod class;
mod csi;

use crate::Row;

pub(crate) fn rows() -> Vec<Row> {
    vec![csi::driver(), csi::node(), csi::capacity(), class::storage(), csi::attachment(), class::attributes()]
}
