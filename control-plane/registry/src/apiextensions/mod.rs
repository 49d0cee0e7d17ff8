//! Kinds that users define: `apiextensions.k8s.io/v1`.
//!
//! A definition is an object like any other. What it defines becomes rows of the catalog (`rows`), served by the same
//! code as the built-in kinds.

mod conversion;
mod definition;
mod names;
mod rows;
mod schema;
mod validations;

use copepod_api::Resource;

pub use conversion::{Conversion, Converter};
pub use rows::{Definition, rows_of};

use crate::Row;

pub const DEFINITIONS: Resource = Resource::known("apiextensions.k8s.io", "customresourcedefinitions");

pub(crate) fn rows() -> Vec<Row> {
    vec![definition::row()]
}
