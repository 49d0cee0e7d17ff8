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
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, LOCATION, VARY},
};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::{
    accept::{self, Encoding},
    answer,
    query::Query,
};

/// Documents take a moment of a processor each to make: one at a time is enough for anybody.
static MAKING: Semaphore = Semaphore::const_new(1);

/// The index of v3 (no path), or a document of it. `programs`: what others add to the index.
pub async fn answer(
    path: Option<&str>,
    catalog: Arc<Catalog>,
    programs: Map<String, Value>,
    uri: &Uri,
    headers: &HeaderMap,
) -> StatusResult<Response> {
    if accept::ranges(headers).next().is_some()
        && !accept::ranges(headers)
            .any(|range| matches!(range.media.as_str(), "application/json" | "*/*" | "application/*"))
    {
        return Err(Status::not_acceptable("only application/json is served here"));
    }
    let Some(path) = path.map(str::to_owned) else {
        let mut index = make(move || index(&catalog)).await?;
        if let Some(paths) = index["paths"].as_object_mut() {
            paths.extend(programs);
        }
        return Ok(answer::json(200, index.to_string(), Encoding::Json));
    };
    let (own_path, own_catalog) = (path.clone(), catalog.clone());
    let hash = make(move || hash(&own_catalog, &own_path)).await?.ok_or_else(Status::no_such_path)?;
    let tag = format!("\"{hash}\"");
    let query = Query::of(uri)?;
    let mut response = match (query.text("hash"), known(headers, &tag)) {
        // The document of that hash is no more; whoever keeps documents by their hashes must not keep this one by it.
        (Some(asked), _) if asked != hash => {
            let mut response = bare(StatusCode::MOVED_PERMANENTLY);
            let location = HeaderValue::from_str(&openapi::location(&path, &hash)).map_err(Status::internal)?;
            response.headers_mut().insert(LOCATION, location);
            return Ok(response);
        }
        (_, true) => bare(StatusCode::NOT_MODIFIED),
        (asked, false) => {
            let is_for_good = asked.is_some();
            let document = make(move || document(&catalog, &path)).await?.ok_or_else(Status::no_such_path)?;
            let mut response = answer::json(200, document, Encoding::Json);
            if is_for_good {
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            }
            response
        }
    };
    tagged(&mut response, &tag);
    Ok(response)
}

/// Makes something of the documents, by a thread that may take its time, in turn.
async fn make<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> StatusResult<T> {
    let _turn = MAKING.acquire().await.map_err(Status::internal)?;
    tokio::task::spawn_blocking(make).await.map_err(Status::internal)
}

/// The client has what this tag names.
fn known(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|known| known.as_bytes() == tag.as_bytes())
}

fn bare(code: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

fn tagged(response: &mut Response, tag: &str) {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
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

/// The tag of the last document of v2, by which clients ask whether it changed.
static LAST: Mutex<Option<(Arc<Catalog>, String)>> = Mutex::new(None);

/// The one document of v2. `programs`: documents of others, and what the paths begin with that they are believed about.
pub async fn answer_v2(
    catalog: Arc<Catalog>,
    programs: Vec<(Arc<Value>, String)>,
    headers: &HeaderMap,
) -> StatusResult<Response> {
    let in_protobuf = wants_protobuf(headers)?;
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let is_ours = programs.is_empty();
    if let Some((of, tag)) = last
        && is_ours
        && Arc::ptr_eq(&of, &catalog)
        && known(headers, &tag)
    {
        let mut response = bare(StatusCode::NOT_MODIFIED);
        tagged(&mut response, &tag);
        return Ok(response);
    }
    let (document, tag) = make(move || {
        let groups = paths(&catalog).into_iter().map(|(_, group, version)| of_group(&catalog, group, version));
        let mut document = v2::document(groups);
        programs.iter().for_each(|(program, prefix)| v2::add(&mut document, program, prefix));
        let text = document.to_string();
        let tag = format!("\"{}\"", openapi::hash(text.as_bytes()));
        if is_ours {
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((catalog.clone(), tag.clone()));
        }
        (if in_protobuf { gnostic::document(&document) } else { text.into_bytes() }, tag)
    })
    .await?;
    let mut response = match in_protobuf {
        _ if known(headers, &tag) => bare(StatusCode::NOT_MODIFIED),
        true => answer::typed(200, gnostic::MEDIA_TYPE, document),
        false => answer::json(200, document, Encoding::Json),
    };
    tagged(&mut response, &tag);
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

fn index(catalog: &Arc<Catalog>) -> Value {
    openapi::index(hashes(catalog).iter().map(|(path, hash)| (path.as_str(), hash.as_str())))
}
