//! Kubernetes' protobuf encoding, both ways.
//!
//! Clients written in Go prefer it: controllers read and watch in it, kubectl's `create` and `drain` send what they write
//! in it and do not fall back to JSON. Here an object is JSON, and protobuf is another way of writing that down: `table`
//! says which number is which field, `read` makes JSON of what clients send, and `write` does the opposite.
//!
//! A body is an envelope: four magic bytes, then `runtime.Unknown` with the object's type and its message.

mod envelope;
mod read;
mod table;
pub mod wire;
mod write;

#[cfg(test)]
mod tests;

pub use envelope::{ListParts, frame, list, whole};
pub use read::decode;
pub use table::{Known, known};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Every body begins with it.
const MAGIC: &[u8] = b"k8s\0";
