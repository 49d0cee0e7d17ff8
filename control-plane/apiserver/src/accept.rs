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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    Table(Include),
}

/// What the rows of a table carry besides their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Wanted {
    pub fn of(headers: &HeaderMap, uri: &Uri) -> StatusResult<Wanted> {
        let json = if is_pretty(headers, uri) { Encoding::Pretty } else { Encoding::Json };
        let mut ranges = ranges(headers).peekable();
        if ranges.peek().is_none() {
            return Ok(Wanted { shape: Shape::Whole, encoding: json });
        }
        for range in ranges {
            let encoding = match range.media.as_str() {
                "application/json" | "application/*" | "*/*" => json,
                "application/yaml" => Encoding::Yaml,
                _ => continue,
            };
            let shape = match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
                (None, ..) => Shape::Whole,
                (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Shape::Table(include(uri)?),
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                    Shape::Metadata
                }
                _ => continue,
            };
            return Ok(Wanted { shape, encoding });
        }
        Err(Status::not_acceptable(
            "only the following media types are accepted: application/json, application/yaml, \
             application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        ))
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

/// People with curl or a browser read what they get.
pub fn is_pretty(headers: &HeaderMap, uri: &Uri) -> bool {
    let asked = Query::of(uri).ok().and_then(|query| query.optional_flag("pretty").ok().flatten());
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    asked.unwrap_or_else(|| ["curl/", "Mozilla/", "Wget/"].iter().any(|people| agent.starts_with(people)))
}

/// One media range of an Accept header.
pub struct Range {
    pub media: String,
    parameters: Vec<(String, String)>,
}

impl Range {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// The media ranges of a request, in the order in which clients prefer them; none that they refuse (`q=0`).
pub fn ranges(headers: &HeaderMap) -> impl Iterator<Item = Range> {
    headers
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
        .filter(|range| !range.media.is_empty() && !range.parameter("q").is_some_and(|q| q.parse() == Ok(0.0)))
}
