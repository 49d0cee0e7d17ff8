//! How the events of a watch stand in its stream: a line of JSON each, or in protobuf a length and a message.

use copepod_api::{Status, StatusResult};
use serde_json::Value;

use crate::{
    accept::{Encoding, Shape, Wanted},
    path::Asked,
};
use copepod_protobuf::Known;

pub enum Frames {
    Json,
    /// Of objects of one kind.
    Protobuf(Known),
}

impl Frames {
    pub fn of(asked: &Asked, wanted: &Wanted) -> StatusResult<Frames> {
        let known = match (wanted.encoding, wanted.shape) {
            (Encoding::Json | Encoding::Pretty, _) => return Ok(Frames::Json),
            (Encoding::Yaml, _) => None,
            (Encoding::Protobuf, Shape::Metadata) => copepod_protobuf::known("meta.k8s.io/v1", "PartialObjectMetadata"),
            (Encoding::Protobuf, _) => copepod_protobuf::known(&asked.row.kind.api_version(), &asked.row.kind.name),
        };
        known.map(Frames::Protobuf).ok_or_else(|| {
            Status::not_acceptable(
                "only the following media types are accepted: application/json;stream=watch, \
                 application/vnd.kubernetes.protobuf;stream=watch",
            )
        })
    }

    pub fn content_type(&self) -> &'static str {
        match self {
            Frames::Json => "application/json",
            Frames::Protobuf(_) => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// `write` writes the object in JSON.
    pub fn write(&self, out: &mut Vec<u8>, event: &str, write: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Frames::Json => {
                out.extend_from_slice(br#"{"type":""#);
                out.extend_from_slice(event.as_bytes());
                out.extend_from_slice(br#"","object":"#);
                write(out);
                out.extend_from_slice(b"}\n");
            }
            Frames::Protobuf(known) => {
                let mut object = Vec::new();
                write(&mut object);
                copepod_protobuf::frame(out, event, known, &serde_json::from_slice(&object).unwrap_or_default());
            }
        }
    }

    pub fn write_status(&self, out: &mut Vec<u8>, status: &Status) {
        let status: Value = status.to_value();
        match copepod_protobuf::known("v1", "Status") {
            Some(known) if matches!(self, Frames::Protobuf(_)) => {
                copepod_protobuf::frame(out, "ERROR", &known, &status)
            }
            _ => Frames::Json.write(out, "ERROR", |out| out.extend_from_slice(status.to_string().as_bytes())),
        }
    }
}
