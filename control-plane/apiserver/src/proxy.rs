//! `…/proxy/…`: HTTP to a pod, to some pod of a service, or to a port of a node, with the API's own permissions.
//!
//! The request goes through a tunnel to the node, so it reaches what only nodes reach. It is passed on as it is, but for
//! what is between this server and its client; where the answer names a place of the same program, the name is put
//! below the proxy's path.

mod links;
pub mod target;

use std::{io::Read, sync::Arc};

use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use copepod_api::{Status, StatusResult, User};
use flate2::read::GzDecoder;
use futures::StreamExt;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use target::Target;
use tokio_rustls::TlsConnector;

use crate::{
    answer,
    forward::{self, Switched},
    front::Front,
    path::Asked,
    programs,
    query::Query,
    read,
    streams::{self, Link, link::Connection},
    who,
};

/// What concerns one connection only (RFC 9110, section 7.6.1).
const OF_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// Pages are read whole to put their links right. Larger ones are no pages that somebody reads.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether a part of an object is a way to what it stands for.
pub fn is_proxy(asked: &Asked) -> bool {
    asked.subresource == "proxy"
}

pub async fn answer(front: &Front, request: Request, user: &User, asked: &Asked) -> StatusResult<Response> {
    let (prefix, rest) = split(request.uri().path());
    let (prefix, rest) = (prefix.to_owned(), rest.to_owned());
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    if rest.is_empty() && reads && !request.headers().contains_key(UPGRADE) {
        return Ok(moved(&format!("{prefix}/"), request.uri()));
    }
    // The nodes hold their sessions to the leader.
    let forwarder = front.config.forwarder.as_ref();
    let request = match forward::switch(&*front.door, forwarder, user, request).await? {
        Switched::Here(request) => request,
        Switched::Done(response) => return Ok(response),
    };
    let query = Query::of(request.uri())?;
    let warnings = streams::ask_webhooks(front, user, asked, &query).await?;
    let place = front.places.take()?;
    let view = read::view(&*front.door, None).await?;
    let target = target::of(&view, asked)?;
    let failed = |why: &str| Status::unavailable(format!("error trying to reach {:?}: {why}", asked.name));
    let link = front.tunnels.forward(target.query.clone()).await.map_err(|status| failed(status.message()))?;
    let connection = connection(link, &target).await.map_err(|why| failed(&why))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .map_err(|error| failed(&error.to_string()))?;
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
        drop(place);
    });
    let (passed_on, client) = passed_on(request, &prefix, &rest, &target.host)?;
    let mut answered = sender.send_request(passed_on).await.map_err(|error| failed(&error.to_string()))?;
    if answered.status() == StatusCode::SWITCHING_PROTOCOLS {
        streams::splice(client, hyper::upgrade::on(&mut answered));
        return Ok(answered.map(Body::new));
    }
    let mut response = answered.map(|body| Body::from_stream(Body::new(body).into_data_stream()));
    forget(response.headers_mut(), false);
    if let Some(location) = response.headers().get(LOCATION).and_then(|place| place.to_str().ok())
        && let Some(below) = below(&prefix, &target.host, location)
    {
        response.headers_mut().insert(LOCATION, below);
    }
    answer::warn(&mut response, warnings.iter().map(String::as_str));
    if is_page(response.headers()) {
        response = with_links(response, &prefix, &target.host).await?;
    }
    Ok(response)
}

/// The tunnel as the other side wants to be spoken to.
async fn connection(link: Link, target: &Target) -> Result<Box<dyn Connection + Unpin>, String> {
    let plain = link.into_connection();
    if !target.is_https {
        return Ok(Box::new(plain));
    }
    let host = target.host.rsplit_once(':').map_or(target.host.as_str(), |(host, _)| host);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} cannot be the name of a server"))?;
    let tls = TlsConnector::from(Arc::new(programs::client(None, None)?));
    let secured = tls.connect(name, plain).await.map_err(|error| format!("tls: {error}"))?;
    Ok(Box::new(secured))
}

/// The path of the proxy itself, and the rest, which is the other side's.
fn split(path: &str) -> (&str, &str) {
    // /api/v1/namespaces/NAMESPACE/pods/NAME/proxy and /api/v1/nodes/NAME/proxy
    let is_namespaced = path.split('/').filter(|part| !part.is_empty()).nth(2) == Some("namespaces");
    let mut left = if is_namespaced { 7 } else { 5 };
    let mut is_inside = false;
    for (place, letter) in path.char_indices() {
        if letter == '/' {
            if is_inside {
                left -= 1;
                if left == 0 {
                    return path.split_at(place);
                }
            }
            is_inside = false;
        } else {
            is_inside = true;
        }
    }
    (path, "")
}

/// Relative links of the other side only work below a path that ends in a slash.
fn moved(path: &str, uri: &Uri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::try_from(format!("{path}{query}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The request as the other side gets it, and the client's connection, should both want to speak something else.
pub fn passed_on(
    mut request: Request,
    prefix: &str,
    rest: &str,
    host: &str,
) -> StatusResult<(http::Request<Body>, hyper::upgrade::OnUpgrade)> {
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let path = if rest.is_empty() { "/" } else { rest };
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut passed_on = http::Request::builder()
        .method(parts.method)
        .uri(format!("{path}{query}"))
        .body(body)
        .map_err(|error| Status::bad_request(format!("the path cannot be passed on: {error}")))?;
    let headers = passed_on.headers_mut();
    let told = parts.headers.iter().filter(|(name, _)| !who::says_who(name));
    headers.extend(told.map(|(name, value)| (name.clone(), value.clone())));
    let is_upgrade = parts.headers.contains_key(UPGRADE);
    forget(headers, is_upgrade);
    let value =
        |text: &str| HeaderValue::try_from(text).map_err(|_| Status::bad_request("a path that no header can name"));
    if let Some(original) = parts.headers.get(HOST) {
        headers.insert("x-forwarded-host", original.clone());
    }
    headers.insert("x-forwarded-uri", value(&format!("{prefix}{rest}"))?);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    headers.insert(HOST, value(host)?);
    Ok((passed_on, client))
}

/// Removes what concerns one connection only; of a connection that is to be switched, all but the wish.
pub fn forget(headers: &mut HeaderMap, is_upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_CONNECTION.iter().chain(&named) {
        if !(is_upgrade && *name == UPGRADE) {
            headers.remove(name);
        }
    }
    match is_upgrade {
        true => drop(headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"))),
        false => drop(headers.remove(UPGRADE)),
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_plain = headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding == "gzip");
    is_plain && kind.split(';').next().unwrap_or_default().trim() == "text/html"
}

/// A page with its links below the proxy's path. One that is too large is passed on as it is.
async fn with_links(response: Response, prefix: &str, host: &str) -> StatusResult<Response> {
    let (mut parts, mut body) = response.into_parts();
    let mut page = Vec::new();
    while page.len() <= PAGE_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| Status::unavailable(format!("the answer broke off: {error}")))?;
        page.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    if page.len() > PAGE_BYTES_MAX {
        let begun = futures::stream::iter([Ok(Bytes::from(page))]);
        return Ok(Response::from_parts(parts, Body::from_stream(begun.chain(body.into_data_stream()))));
    }
    if parts.headers.contains_key(CONTENT_ENCODING) {
        let mut plain = Vec::new();
        let read = GzDecoder::new(&*page).take(PAGE_BYTES_MAX as u64 + 1).read_to_end(&mut plain);
        if read.is_err() || plain.len() > PAGE_BYTES_MAX {
            return Ok(Response::from_parts(parts, Body::from(page)));
        }
        parts.headers.remove(CONTENT_ENCODING);
        page = plain;
    }
    let place = |link: &str| below(prefix, host, link).and_then(|link| link.to_str().ok().map(str::to_owned));
    let page = links::rewritten(&page, place);
    parts.headers.insert(CONTENT_LENGTH, page.len().into());
    Ok(Response::from_parts(parts, Body::from(page)))
}

/// Where a redirect leads for the client: below the proxy's path, unless it leads elsewhere.
fn below(prefix: &str, host: &str, location: &str) -> Option<HeaderValue> {
    let uri: Uri = location.parse().ok()?;
    let is_elsewhere = uri.authority().is_some_and(|authority| authority.as_str() != host);
    if is_elsewhere || !uri.path().starts_with('/') || uri.path().starts_with(&format!("{prefix}/")) {
        return None;
    }
    HeaderValue::try_from(format!("{prefix}{}", uri.path_and_query().map_or("/", |path| path.as_str()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_is_kept_as_it_is() {
        let pod = "/api/v1/namespaces/n/pods/http:p:80/proxy";
        for (path, rest) in [
            (pod.to_owned(), ""),
            (format!("{pod}/"), "/"),
            (format!("{pod}/a//b%2Fc/"), "/a//b%2Fc/"),
            (format!("{pod}/proxy/x"), "/proxy/x"),
        ] {
            assert_eq!(split(&path), (pod, rest));
        }
        assert_eq!(split("/api/v1/nodes/n1:80/proxy/x"), ("/api/v1/nodes/n1:80/proxy", "/x"));
    }

    #[test]
    fn redirects_stay_below_the_proxy() {
        let below = |location: &str| below("/p/proxy", "10.0.0.1:80", location);
        assert_eq!(below("/login?next=a").unwrap(), "/p/proxy/login?next=a");
        assert_eq!(below("http://10.0.0.1:80/x").unwrap(), "/p/proxy/x");
        for kept in ["http://example.com/x", "/p/proxy/x", "x/y"] {
            assert_eq!(below(kept), None, "{kept}");
        }
    }

    #[test]
    fn what_concerns_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        forget(&mut headers, false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
