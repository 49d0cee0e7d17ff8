//! What surrounds messages: envelopes, lists, and frames of a watch.

use bytes::Bytes;
use serde_json::Value;

use super::{
    MAGIC,
    table::Known,
    wire::{put_bytes, put_head, put_message},
    write,
};

/// An object as a body.
pub fn whole(known: &Known, object: &Value) -> Vec<u8> {
    let mut raw = Vec::new();
    if let Some(object) = object.as_object() {
        write::message(&mut raw, known.message, object);
    }
    let mut out = head(&known.api_version, &known.kind, raw.len());
    out.extend_from_slice(&raw);
    out.extend_from_slice(TAIL);
    out
}

/// What stands before a message of this length in a body.
fn head(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + api_version.len() + kind.len() + 24 + length);
    out.extend_from_slice(MAGIC);
    put_message(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
    put_head(&mut out, 2, length);
    out
}

/// Neither an encoding nor a type of the content: it is what its type says.
const TAIL: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// The items of a list, written one by one: how long all are stands before them, so they are kept until the last.
pub struct ListParts {
    item: Known,
    written: Vec<u8>,
}

impl ListParts {
    pub fn new(item: Known) -> ListParts {
        ListParts { item, written: Vec::new() }
    }

    pub fn push(&mut self, object: &Value) {
        put_message(&mut self.written, 2, |out| {
            if let Some(object) = object.as_object() {
                write::message(out, self.item.message, object);
            }
        });
    }
}

/// A list as a body, in two pieces; its `kind` is that of its items and `List`.
pub fn list(parts: ListParts, metadata: &Value) -> [Bytes; 2] {
    let mut own = Vec::new();
    put_message(&mut own, 1, |out| {
        if let Some(metadata) = metadata.as_object() {
            write::message(out, "meta.ListMeta", metadata);
        }
    });
    let kind = format!("{}List", parts.item.kind);
    let mut out = head(&parts.item.api_version, &kind, own.len() + parts.written.len());
    out.extend_from_slice(&own);
    let mut items = parts.written;
    items.extend_from_slice(TAIL);
    [out.into(), items.into()]
}

/// One event of a watch: its length in four bytes, then `meta.WatchEvent`, which holds the object as a body.
pub fn frame(out: &mut Vec<u8>, event: &str, known: &Known, object: &Value) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put_bytes(out, 1, event.as_bytes());
    let body = whole(known, object);
    put_message(out, 2, |out| put_bytes(out, 1, &body));
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}
