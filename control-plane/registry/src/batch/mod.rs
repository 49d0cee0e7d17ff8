//! Work that ends: `batch/v1`.

mod cronjob;
mod job;

use crate::Row;

pub(crate) fn rows() -> Vec<Row> {
    vec![cronjob::row(), job::row()]
}
