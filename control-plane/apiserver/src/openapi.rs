//! OpenAPI v3, and v2 for older clients, served.
//!
//! Of v3 there is an index and a document a group and version; of v2 one document of everything.
//!
//! The documents are made from the rows when somebody asks, and only their hashes are kept: clients read a few of them,
//! once, and keep them by hash, while every server would carry them in memory for ever.

mod gnostic;
mod v2;

use std::sync::{Arc, Mutex, PoisonError};

use axum::{body::Body, response::Response};
use copepod_api::{
    Status, StatusResult,
    openapi::{self, Served},
};
use copepod_registry::Catalog;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY},
};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::{
    accept::{self, Encoding},
    answer,
};

/// Documents take a moment of a processor each to make: one at a time is enough for anybody.
static MAKING: Semaphore = Semaphore::const_new(1);

pub async fn answer(path: Option<&str>, catalog: Arc<Catalog>, headers: &HeaderMap) -> StatusResult<Response> {
    if accept::ranges(headers).next().is_some()
        && !accept::ranges(headers)
            .any(|range| matches!(range.media.as_str(), "application/json" | "*/*" | "application/*"))
    {
        return Err(Status::not_acceptable("only application/json is served here"));
    }
    let path = path.map(str::to_owned);
    let _turn = MAKING.acquire().await.map_err(Status::internal)?;
    let made = tokio::task::spawn_blocking(move || match path {
        None => Some((index(&catalog), None)),
        Some(path) => document(&catalog, &path).map(|document| (document, hash(&catalog, &path))),
    });
    let (document, hash) = made.await.map_err(Status::internal)?.ok_or_else(Status::no_such_path)?;
    let mut response = answer::json(200, document, Encoding::Json);
    if let Some(tag) = hash.and_then(|hash| HeaderValue::from_str(&format!("\"{hash}\"")).ok()) {
        response.headers_mut().insert(ETAG, tag);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

/// `api/v1`, `apis/apps/v1`, …, with what each is about.
fn paths(catalog: &Catalog) -> Vec<(String, &str, &str)> {
    let mut paths: Vec<(String, &str, &str)> = Vec::new();
    for row in catalog.rows() {
        let (group, version) = (&*row.kind.group, &*row.kind.version);
        let path = openapi::group_path(group, version).trim_start_matches('/').to_owned();
        if !paths.iter().any(|(known, ..)| *known == path) {
            paths.push((path, group, version));
        }
    }
    paths
}

/// How the client wants the document of v2: in protobuf, or in JSON.
fn wants_protobuf(headers: &HeaderMap) -> StatusResult<bool> {
    let mut ranges = accept::ranges(headers).peekable();
    if ranges.peek().is_none() {
        return Ok(false);
    }
    let known = ranges.find_map(|range| match range.media.as_str() {
        "application/json" | "*/*" | "application/*" => Some(false),
        gnostic::MEDIA_TYPE | gnostic::ASKED_FOR_AS => Some(true),
        _ => None,
    });
    known.ok_or_else(|| {
        Status::not_acceptable(format!("only application/json and {} are served here", gnostic::MEDIA_TYPE))
    })
}

/// The hash of the last document of v2, by which clients ask whether it changed.
static LAST: Mutex<Option<(Arc<Catalog>, String)>> = Mutex::new(None);

/// The one document of v2.
pub async fn answer_v2(catalog: Arc<Catalog>, headers: &HeaderMap) -> StatusResult<Response> {
    let in_protobuf = wants_protobuf(headers)?;
    let known = headers.get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let _turn = MAKING.acquire().await.map_err(Status::internal)?;
    let make = move || {
        let last = |hash: Option<String>| {
            let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            *last = hash.map(|hash| (catalog.clone(), hash)).or_else(|| last.take());
            last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &catalog)).map(|(_, hash)| format!("\"{hash}\""))
        };
        if let (Some(tag), Some(known)) = (last(None), &known)
            && tag == *known
        {
            return (None, Some(tag));
        }
        let groups = paths(&catalog).into_iter().map(|(_, group, version)| of_group(&catalog, group, version));
        let document = v2::document(groups);
        let text = document.to_string();
        let tag = last(Some(openapi::hash(text.as_bytes())));
        (Some(if in_protobuf { gnostic::document(&document) } else { text.into_bytes() }), tag)
    };
    let (document, tag) = tokio::task::spawn_blocking(make).await.map_err(Status::internal)?;
    let mut response = match document {
        Some(document) if in_protobuf => answer::typed(200, gnostic::MEDIA_TYPE, document),
        Some(document) => answer::json(200, document, Encoding::Json),
        None => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
    };
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn document(catalog: &Catalog, path: &str) -> Option<String> {
    let (_, group, version) = paths(catalog).into_iter().find(|(own, ..)| own == path)?;
    Some(of_group(catalog, group, version).to_string())
}

fn of_group(catalog: &Catalog, group: &str, version: &str) -> Value {
    let served: Vec<Served<'_>> = catalog
        .rows()
        .iter()
        .filter(|row| row.kind.group == group && row.kind.version == version)
        .map(|row| Served { kind: &row.kind, verbs: row.verbs })
        .collect();
    openapi::document(group, version, &served)
}

/// The paths with the hashes of their documents.
type Hashes = Arc<Vec<(String, String)>>;

/// Those of the last catalog. To make them, all documents have to be made, and clients ask for the index often.
static HASHED: Mutex<Option<(Arc<Catalog>, Hashes)>> = Mutex::new(None);

fn hashes(catalog: &Arc<Catalog>) -> Hashes {
    let mut hashed = HASHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, hashes)) = &*hashed
        && Arc::ptr_eq(of, catalog)
    {
        return hashes.clone();
    }
    let hash = |(path, ..): (String, _, _)| {
        let hash = openapi::hash(document(catalog, &path).unwrap_or_default().as_bytes());
        (path, hash)
    };
    let hashes: Hashes = Arc::new(paths(catalog).into_iter().map(hash).collect());
    *hashed = Some((catalog.clone(), hashes.clone()));
    hashes
}

fn hash(catalog: &Arc<Catalog>, path: &str) -> Option<String> {
    hashes(catalog).iter().find(|(own, _)| own == path).map(|(_, hash)| hash.clone())
}

fn index(catalog: &Arc<Catalog>) -> String {
    openapi::index(hashes(catalog).iter().map(|(path, hash)| (path.as_str(), hash.as_str()))).to_string()
}
