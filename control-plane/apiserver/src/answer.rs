//! Responses.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use copepod_api::{Status, decode};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WARNING},
};
use serde_json::Value;

use crate::{accept::Encoding, compress::Long};

/// When a client may ask again where nobody said.
const RETRY_SECONDS: i32 = 1;

/// Warnings go into headers, whose space is limited.
const WARNINGS_MAX: usize = 32;
const WARNING_BYTES_MAX: usize = 1024;

/// JSON in the encoding that the client wants.
pub fn json(code: u16, bytes: impl Into<Bytes>, encoding: Encoding) -> Response {
    let bytes: Bytes = bytes.into();
    match encoding {
        Encoding::Json => typed(code, "application/json", bytes),
        Encoding::Pretty => {
            let pretty = serde_json::from_slice::<Value>(&bytes).and_then(|value| serde_json::to_vec_pretty(&value));
            let mut pretty = pretty.unwrap_or_else(|_| bytes.to_vec());
            pretty.push(b'\n');
            typed(code, "application/json", pretty)
        }
        Encoding::Yaml => match serde_json::from_slice(&bytes) {
            Ok(value) => typed(code, "application/yaml", decode::to_yaml(&value)),
            Err(_) => typed(code, "application/json", bytes),
        },
        Encoding::Protobuf => {
            match serde_json::from_slice::<Value>(&bytes).ok().and_then(|value| as_protobuf(&value)) {
                Some(body) => typed(code, copepod_protobuf::MEDIA_TYPE, body),
                None => typed(code, "application/json", bytes),
            }
        }
    }
}

/// `None` for what has no message.
pub fn as_protobuf(value: &Value) -> Option<Vec<u8>> {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let known = copepod_protobuf::known(text("apiVersion"), text("kind"))?;
    Some(copepod_protobuf::whole(&known, value))
}

pub fn value(code: u16, value: &Value, encoding: Encoding) -> Response {
    json(code, decode::to_json(value), encoding)
}

pub fn typed(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer that is made while it is sent; see `compress`.
pub fn long(content_type: &'static str, body: Body) -> Response {
    let mut response = typed(200, content_type, body);
    response.extensions_mut().insert(Long);
    response
}

pub fn refusal(status: &Status, encoding: Encoding) -> Response {
    let mut response = value(status.code(), &status.to_value(), encoding);
    let seconds = status.details().and_then(|details| details.retry_after_seconds);
    let is_temporary = matches!(status.code(), 429 | 503);
    if let Some(seconds) = seconds.or(is_temporary.then_some(RETRY_SECONDS)) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning: 299` headers, as kubectl prints them.
pub fn warn<'a>(response: &mut Response, warnings: impl IntoIterator<Item = &'a str>) {
    for warning in warnings.into_iter().take(WARNINGS_MAX) {
        let mut text = String::with_capacity(warning.len() + 8);
        for letter in warning.chars() {
            match letter {
                '"' | '\\' => text.extend(['\\', letter]),
                letter if letter.is_control() => text.push(' '),
                letter => text.push(letter),
            }
            if text.len() >= WARNING_BYTES_MAX {
                break;
            }
        }
        if let Ok(header) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(WARNING, header);
        }
    }
}
