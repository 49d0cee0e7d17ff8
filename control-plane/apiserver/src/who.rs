//! Who asks.
//!
//! The connection's certificate says it (see `serve`). A server of the cluster may speak for the user whose request it
//! passes on, and an administrator may act as somebody else (`kubectl --as`).

use std::sync::Arc;

use axum::extract::Request;
use copepod_api::{Resource, Status, StatusResult, User};
use copepod_identity::{MASTERS_GROUP, SERVERS_GROUP};
use http::{HeaderMap, HeaderName, HeaderValue};

pub const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
pub const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");
pub const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const ACT_AS_USER: &str = "impersonate-user";
const ACT_AS_GROUP: &str = "impersonate-group";
const ACT_AS_UID: &str = "impersonate-uid";

pub const AUTHENTICATED: &str = "system:authenticated";
pub const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

pub fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
}

/// The user that a request counts as. Nobody is unauthorized here: what needs no name is answered before.
pub fn user(request: &Request) -> StatusResult<User> {
    let caller = request.extensions().get::<User>().filter(|user| &*user.name != ANONYMOUS);
    let caller = caller.ok_or_else(Status::unauthorized)?;
    let headers = request.headers();
    if caller.is_in(SERVERS_GROUP)
        && let Some(user) = described(headers, REMOTE_USER.as_str(), REMOTE_GROUP.as_str(), REMOTE_UID.as_str())?
    {
        return Ok(user);
    }
    match described(headers, ACT_AS_USER, ACT_AS_GROUP, ACT_AS_UID)? {
        None => Ok(caller.clone()),
        Some(user) if caller.is_in(MASTERS_GROUP) => Ok(User {
            groups: match &*user.name {
                ANONYMOUS => vec![UNAUTHENTICATED.into()],
                _ if user.is_in(AUTHENTICATED) => user.groups,
                _ => user.groups.into_iter().chain([AUTHENTICATED.into()]).collect(),
            },
            ..user
        }),
        Some(user) => {
            let why = format!("User {:?} cannot impersonate resource \"users\" in API group \"\"", caller.name);
            Err(Status::forbidden(&Resource::known("", "users"), &user.name, why))
        }
    }
}

/// The server that passed a request on is known to be one of the cluster.
pub fn is_forwarded(request: &Request) -> bool {
    request.headers().contains_key(REMOTE_USER)
        && request.extensions().get::<User>().is_some_and(|caller| caller.is_in(SERVERS_GROUP))
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
    Ok(())
}

fn described(headers: &HeaderMap, name: &str, group: &str, uid: &str) -> StatusResult<Option<User>> {
    let text = |value: &HeaderValue| -> StatusResult<Arc<str>> {
        std::str::from_utf8(value.as_bytes())
            .map(Arc::from)
            .map_err(|_| Status::bad_request(format!("the header {name} is not UTF-8")))
    };
    let Some(user) = headers.get(name).filter(|value| !value.is_empty()) else {
        return match headers.contains_key(group) || headers.contains_key(uid) {
            true if name == ACT_AS_USER => {
                Err(Status::bad_request("groups to act as were given without a user to act as"))
            }
            _ => Ok(None),
        };
    };
    Ok(Some(User {
        name: text(user)?,
        uid: headers.get(uid).map(text).transpose()?,
        groups: headers.get_all(group).iter().map(text).collect::<StatusResult<_>>()?,
        ..User::default()
    }))
}
