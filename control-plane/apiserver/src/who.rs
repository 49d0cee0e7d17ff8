//! Who asks.
//!
//! The connection's certificate says it (see `serve`), or a token that the request bears. A server of the cluster may
//! speak for the user whose request it passes on. Whoever is allowed to may act as somebody else (see `impersonation`).

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::Request;
use copepod_api::{Status, StatusResult, User};
use copepod_identity::SERVERS_GROUP;
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::{access::Judge, front::Front, impersonation, tokens};

const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_EXTRA: &str = "x-remote-extra-";

pub const AUTHENTICATED: &str = "system:authenticated";
pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Whoever shows nothing. Roles decide what that is good for.
pub fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
}

/// Who is at the other end of the connection.
pub fn caller(request: &Request) -> User {
    request.extensions().get::<User>().cloned().unwrap_or_else(anonymous)
}

/// The user that a request of this caller counts as.
pub async fn user(front: &Front, judge: &Judge, mut caller: User, headers: &HeaderMap) -> StatusResult<User> {
    if &*caller.name == ANONYMOUS
        && let Some(token) = bearer(headers)
    {
        let identity = tokens::authenticate(&*front.door, &front.keys, token, &[]).await;
        caller = identity.map_err(|_| Status::unauthorized())?.user;
    }
    if caller.is_in(SERVERS_GROUP)
        && let Some(user) = described(headers)?
    {
        return Ok(user);
    }
    impersonation::user(judge, caller, headers)
}

/// The token that a request bears.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// The server that passed a request on is known to be one of the cluster.
pub fn is_forwarded(request: &Request) -> bool {
    request.headers().contains_key(REMOTE_USER)
        && request.extensions().get::<User>().is_some_and(|caller| caller.is_in(SERVERS_GROUP))
}

/// Whether a header says whom a request is for. Between servers, only the server itself may say it.
pub fn says_who(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || ["x-remote-", "impersonate-"].iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Describes a user to the server that a request is passed on to.
pub fn describe(user: &User, headers: &mut HeaderMap) -> StatusResult<()> {
    let value = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| Status::bad_request("the user's name cannot stand in a header"))
    };
    headers.insert(REMOTE_USER, value(&user.name)?);
    for group in &user.groups {
        headers.append(REMOTE_GROUP, value(group)?);
    }
    if let Some(uid) = &user.uid {
        headers.insert(REMOTE_UID, value(uid)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::from_bytes(format!("{REMOTE_EXTRA}{}", escaped(key)).as_bytes())
            .map_err(|_| Status::bad_request("what is known of the user cannot stand in a header"))?;
        for own in values {
            headers.append(name.clone(), value(own)?);
        }
    }
    Ok(())
}

fn described(headers: &HeaderMap) -> StatusResult<Option<User>> {
    let Some(name) = headers.get(REMOTE_USER).filter(|value| !value.is_empty()) else { return Ok(None) };
    Ok(Some(User {
        name: text(name)?,
        uid: headers.get(REMOTE_UID).map(text).transpose()?,
        groups: headers.get_all(REMOTE_GROUP).iter().map(text).collect::<StatusResult<_>>()?,
        extra: extra(headers, REMOTE_EXTRA)?,
    }))
}

pub fn text(value: &HeaderValue) -> StatusResult<Arc<str>> {
    std::str::from_utf8(value.as_bytes())
        .map(Arc::from)
        .map_err(|_| Status::bad_request("a header that describes a user is not UTF-8"))
}

/// What headers of this prefix say; what follows the prefix is the key.
pub fn extra(headers: &HeaderMap, prefix: &str) -> StatusResult<BTreeMap<Arc<str>, Vec<Arc<str>>>> {
    let mut extra: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(prefix) {
            extra.entry(crate::path::decoded(key)?.into()).or_default().push(text(value)?);
        }
    }
    Ok(extra)
}

/// A key as part of a header's name: names of headers are lower case, and have few signs.
fn escaped(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect()
}
