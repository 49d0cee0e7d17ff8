//! Request bodies: bounded each, and bounded together.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use copepod_api::{
    Status, StatusResult,
    decode::{self, BODY_BYTES_MAX, Fault, Limits},
    request::FieldValidation,
    schema::Schema,
};
use http::{HeaderMap, header::CONTENT_LENGTH, header::CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How much of all bodies together may be in memory. A few dozen of the largest; many thousands of usual ones.
const BODIES_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(BODIES_BYTES_MAX >= 8 * BODY_BYTES_MAX);

/// Permits are counted in blocks, because a semaphore counts in 32 bits.
const BLOCK: usize = 1024;

/// How long a client may take to send a body. The largest takes this long at a megabit a second.
const READ_MAX: Duration = Duration::from_secs(30);

/// The room for bodies.
pub struct Bodies(Semaphore);

impl Default for Bodies {
    fn default() -> Self {
        Bodies(Semaphore::new(BODIES_BYTES_MAX / BLOCK))
    }
}

/// A body, and its part of the room for as long as it lives.
pub struct Held<'a> {
    pub bytes: Bytes,
    _room: SemaphorePermit<'a>,
}

impl Bodies {
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> StatusResult<Held<'_>> {
        let stated = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if stated.is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let blocks = stated.unwrap_or(BODY_BYTES_MAX).div_ceil(BLOCK) as u32;
        let room = tokio::time::timeout(READ_MAX, self.0.acquire_many(blocks)).await;
        let Ok(Ok(room)) = room else {
            return Err(Status::too_many_requests("too many request bodies are on their way; ask again later", 1));
        };
        let read = tokio::time::timeout(READ_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        let bytes = match read {
            Err(_) => return Err(Status::timeout(format!("the body did not arrive within {} s", READ_MAX.as_secs()))),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
            Ok(Err(error)) => return Err(Status::bad_request(format!("the body cannot be read: {error}"))),
            Ok(Ok(body)) => body.to_bytes(),
        };
        Ok(Held { bytes, _room: room })
    }
}

fn too_large() -> Status {
    Status::too_large(format!("Request entity too large: limit is {BODY_BYTES_MAX} bytes"))
}

/// The media type of a body without its parameters; none counts as JSON.
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" => "application/json".to_owned(),
        media => media.to_ascii_lowercase(),
    }
}

/// A body as a value.
pub struct Decoded {
    pub value: Value,
    /// What is to be said of fields that were written twice, in the words of Kubernetes.
    pub duplicates: Vec<String>,
}

pub fn json(bytes: &[u8]) -> StatusResult<Decoded> {
    let (value, duplicates) = decode::json(bytes, &Limits::default()).map_err(unreadable)?;
    let duplicates = duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    Ok(Decoded { value, duplicates })
}

pub fn yaml(bytes: &[u8]) -> StatusResult<Decoded> {
    let (value, duplicates) = decode::yaml(bytes, &Limits::default()).map_err(unreadable)?;
    let duplicates =
        duplicates.iter().map(|it| format!("line {}: key {:?} already set in map", it.line, it.key)).collect();
    Ok(Decoded { value, duplicates })
}

fn unreadable(error: decode::DecodeError) -> Status {
    match error.fault {
        Fault::TooLarge => Status::too_large(error.to_string()),
        _ => Status::bad_request(format!("the object provided is unrecognized (must be JSON or YAML): {error}")),
    }
}

/// An object in one of the encodings that are taken.
pub fn object(headers: &HeaderMap, bytes: &[u8]) -> StatusResult<Decoded> {
    match media_type(headers).as_str() {
        "application/json" => json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes),
        copepod_protobuf::MEDIA_TYPE => Ok(Decoded { value: copepod_protobuf::decode(bytes)?, duplicates: Vec::new() }),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf (not {other})"
        ))),
    }
}

/// Fields written twice: refused, reported or let pass. Gives the warnings. Where the body is a whole object, a refusal
/// also names the fields that its kind does not have, so that all has to be mended once.
pub fn judge_duplicates(decoded: &Decoded, schema: Option<&Schema>, how: FieldValidation) -> StatusResult<Vec<String>> {
    match how {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !decoded.duplicates.is_empty() => {
            let mut sentences =
                schema.map(|schema| schema.check(&decoded.value).unknown_sentences()).unwrap_or_default();
            sentences.extend(decoded.duplicates.iter().cloned());
            sentences.truncate(SENTENCES_MAX);
            Err(Status::bad_request(format!("strict decoding error: {}", sentences.join(", "))))
        }
        FieldValidation::Warn | FieldValidation::Strict => Ok(decoded.duplicates.clone()),
    }
}

/// Nobody reads more, and a hostile body could have a million.
const SENTENCES_MAX: usize = 100;
