//! OpenAPI v3, served.
//!
//! The documents are made from the rows when somebody asks, and only their hashes are kept: clients read a few of them,
//! once, and keep them by hash, while every server would carry them in memory for ever.

use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use copepod_api::{
    Status, StatusResult,
    openapi::{self, Served},
};
use copepod_registry::Catalog;
use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, ETAG},
};
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

fn document(catalog: &Catalog, path: &str) -> Option<String> {
    let (_, group, version) = paths(catalog).into_iter().find(|(own, ..)| own == path)?;
    let served: Vec<Served<'_>> = catalog
        .rows()
        .iter()
        .filter(|row| row.kind.group == group && row.kind.version == version)
        .map(|row| Served { kind: &row.kind, verbs: row.verbs })
        .collect();
    Some(openapi::document(group, version, &served).to_string())
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
