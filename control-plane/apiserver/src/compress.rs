//! Long answers are compressed for those who take it.
//!
//! Lists are mostly the same words again and again and shrink to a tenth. Short answers are sooner sent than compressed,
//! and a watch would have its events wait for each other, so neither is.

use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::Stream;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY},
};
use http_body::Body as _;

/// What is shorter is sent as it is.
const LEAST_BYTES: u64 = 128 * 1024;

/// The fastest: more effort costs several times the processor and saves a few hundredths.
const LEVEL: Compression = Compression::new(1);

/// In the extensions of an answer whose length is not known beforehand: it is long, and it ends.
#[derive(Clone, Copy)]
pub struct Long;

/// Whether the client takes gzip.
pub fn is_taken(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| {
        let (name, parameter) = coding.split_once(';').unwrap_or((coding, ""));
        let is_refused = parameter.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().unwrap_or(0.0) <= 0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

/// Compresses an answer that is worth it.
pub fn compressed(mut response: Response) -> Response {
    let is_long = response.extensions().get::<Long>().is_some()
        || response.body().size_hint().exact().is_some_and(|length| length > LEAST_BYTES);
    if !is_long || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response.headers_mut().remove(CONTENT_LENGTH);
    response.map(|body| Body::from_stream(Compressed::new(body.into_data_stream())))
}

/// The compressed form of a stream, made as it is read.
struct Compressed<S> {
    plain: S,
    /// Taken when the stream ends.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<S> Compressed<S> {
    fn new(plain: S) -> Self {
        Compressed { plain, encoder: Some(GzEncoder::new(Vec::new(), LEVEL)) }
    }
}

impl<S: Stream<Item = Result<Bytes, axum::Error>> + Unpin> Stream for Compressed<S> {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            let piece = match ready!(Pin::new(&mut this.plain).poll_next(context)) {
                Some(Ok(piece)) => encoder.write_all(&piece).map(|()| std::mem::take(encoder.get_mut())),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => match this.encoder.take() {
                    Some(encoder) => encoder.finish(),
                    None => return Poll::Ready(None),
                },
            };
            match piece {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Poll::Ready(Some(Ok(piece.into()))),
                Err(error) => return Poll::Ready(Some(Err(axum::Error::new(error)))),
            }
        }
    }
}
