//! What the client wants to be answered with.

use copepod_api::{Status, StatusResult};
use http::{
    HeaderMap, Uri,
    header::{ACCEPT, USER_AGENT},
};

use crate::query::Query;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub shape: Shape,
    pub encoding: Encoding,
}

/// How an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    Table(Include),
}

/// What the rows of a table carry besides their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Include {
    Nothing,
    Metadata,
    Object,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Pretty,
    Yaml,
    Protobuf,
}

/// What there is to choose from.
#[derive(Clone, Copy)]
pub struct Offer {
    /// The kind can be written in protobuf.
    pub has_message: bool,
    /// Its objects are stored, and can be shown as tables or as metadata.
    pub has_shapes: bool,
}

impl Wanted {
    pub fn of(headers: &HeaderMap, uri: &Uri, offer: Offer) -> StatusResult<Wanted> {
        let Offer { has_message, has_shapes } = offer;
        let json = json(headers, uri);
        let mut ranges = ranges(headers).peekable();
        if ranges.peek().is_none() {
            return Ok(Wanted { shape: Shape::Whole, encoding: json });
        }
        for range in ranges {
            let encoding = match range.media.as_str() {
                "application/json" | "application/*" | "*/*" => json,
                "application/yaml" => Encoding::Yaml,
                copepod_protobuf::MEDIA_TYPE => Encoding::Protobuf,
                _ => continue,
            };
            let shape = match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
                (None, ..) if encoding == Encoding::Protobuf && !has_message => continue,
                (None, ..) => Shape::Whole,
                _ if !has_shapes => continue,
                // Tables have no message, because their cells are JSON.
                (Some("Table"), Some("meta.k8s.io"), Some("v1")) if encoding != Encoding::Protobuf => {
                    Shape::Table(include(uri)?)
                }
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                    Shape::Metadata
                }
                _ => continue,
            };
            return Ok(Wanted { shape, encoding });
        }
        let protobuf = if has_message { ", application/vnd.kubernetes.protobuf" } else { "" };
        let shapes = if has_shapes {
            ", application/json;as=Table;v=v1;g=meta.k8s.io, \
             application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
        } else {
            ""
        };
        Err(Status::not_acceptable(format!(
            "only the following media types are accepted: application/json, application/yaml{protobuf}{shapes}"
        )))
    }
}

fn include(uri: &Uri) -> StatusResult<Include> {
    match Query::of(uri)?.text("includeObject") {
        None | Some("Metadata") => Ok(Include::Metadata),
        Some("None") => Ok(Include::Nothing),
        Some("Object") => Ok(Include::Object),
        Some(other) => {
            Err(Status::bad_request(format!("includeObject: must be None, Metadata or Object, not {other:?}")))
        }
    }
}

/// How a refusal is written: like the answer would have been, and in JSON where the client takes nothing that we know.
pub fn of_refusal(headers: &HeaderMap, uri: &Uri) -> Encoding {
    let json = json(headers, uri);
    let known = ranges(headers).find_map(|range| match range.media.as_str() {
        "application/json" | "application/*" | "*/*" => Some(json),
        "application/yaml" => Some(Encoding::Yaml),
        copepod_protobuf::MEDIA_TYPE => Some(Encoding::Protobuf),
        _ => None,
    });
    known.unwrap_or(json)
}

fn json(headers: &HeaderMap, uri: &Uri) -> Encoding {
    if is_pretty(headers, uri) { Encoding::Pretty } else { Encoding::Json }
}

/// People with curl or a browser read what they get.
fn is_pretty(headers: &HeaderMap, uri: &Uri) -> bool {
    let asked = Query::of(uri).ok().and_then(|query| query.optional_flag("pretty").ok().flatten());
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    asked.unwrap_or_else(|| ["curl/", "Mozilla/", "Wget/"].iter().any(|people| agent.starts_with(people)))
}

/// Clients name three or four.
const RANGES_MAX: usize = 64;

/// One media range of an Accept header.
pub struct Range {
    pub media: String,
    parameters: Vec<(String, String)>,
}

impl Range {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn quality(&self) -> f32 {
        self.parameter("q").and_then(|q| q.parse().ok()).unwrap_or(1.0)
    }
}

/// The media ranges of a request, in the order in which clients prefer them; none that they refuse (`q=0`).
pub fn ranges(headers: &HeaderMap) -> impl Iterator<Item = Range> {
    let mut ranges: Vec<Range> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
                .collect();
            Range { media, parameters }
        })
        .filter(|range| !range.media.is_empty() && range.quality() > 0.0)
        .take(RANGES_MAX)
        .collect();
    ranges.sort_by(|one, other| other.quality().total_cmp(&one.quality()));
    ranges.into_iter()
}
