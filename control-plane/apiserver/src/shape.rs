//! Objects as clients want to see them: whole, only their metadata, or as rows of a table.
//!
//! Everything is written into one buffer from stored bytes; only the cells of a table are computed.

use copepod_api::{Object, Timestamp};
use copepod_registry::Row;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::accept::{Include, Shape};

/// One object in its shape.
pub fn one(row: &Row, object: &Object, shape: Shape, now: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.size() + 64);
    write(&mut out, row, object, shape, now, true);
    out
}

/// The same into a buffer; `with_columns` for the first table of a stream.
pub fn write(out: &mut Vec<u8>, row: &Row, object: &Object, shape: Shape, now: Timestamp, with_columns: bool) {
    match shape {
        Shape::Whole => out.extend_from_slice(&object.bytes()),
        Shape::Metadata => write_metadata(out, &object.bytes()),
        Shape::Table(include) => {
            write_table_head(out, row, &format!(r#"{{"resourceVersion":"{}"}}"#, object.revision), with_columns);
            write_row(out, row, object, include, now);
            out.extend_from_slice(TABLE_END);
        }
    }
}

/// A table up to its rows; `metadata` is JSON.
pub fn write_table_head(out: &mut Vec<u8>, row: &Row, metadata: &str, with_columns: bool) {
    out.extend_from_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.extend_from_slice(metadata.as_bytes());
    out.extend_from_slice(br#","columnDefinitions":"#);
    if with_columns {
        let columns: Vec<_> = row
            .table_columns()
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect();
        write_json(out, &columns);
    } else {
        out.extend_from_slice(b"null");
    }
    out.extend_from_slice(br#","rows":["#);
}

pub const TABLE_END: &[u8] = b"]}";

pub fn write_row(out: &mut Vec<u8>, row: &Row, object: &Object, include: Include, now: Timestamp) {
    out.extend_from_slice(br#"{"cells":"#);
    write_json(out, &row.table_row(object, now));
    out.extend_from_slice(br#","object":"#);
    match include {
        Include::Nothing => out.extend_from_slice(b"null"),
        Include::Metadata => write_metadata(out, &object.bytes()),
        Include::Object => out.extend_from_slice(&object.bytes()),
    }
    out.push(b'}');
}

/// A `PartialObjectMetadata`, cut out of the object's bytes.
pub fn write_metadata(out: &mut Vec<u8>, object: &[u8]) {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice::<Head<'_>>(object).map_or("{}", |head| head.metadata.get());
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
}

fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("JSON values always encode into memory");
}
