//! Acting as somebody else: `kubectl --as`.
//!
//! Each part of who one wants to be is a right of its own, given by roles: the verb `impersonate` on `users`, `groups`,
//! `serviceaccounts`, `uids` and `userextras`.

use copepod_access::{Attributes, SERVICE_ACCOUNT_PREFIX, Wish};
use copepod_api::{Status, StatusResult, User};
use http::{HeaderMap, HeaderName};

use crate::{
    access::Judge,
    who::{self, ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED},
};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const EXTRA: &str = "impersonate-extra-";

/// The group that rights about uids and extras belong to.
const API_GROUP: &str = "authentication.k8s.io";

/// The user that `caller` counts as: who they want to be, if they may.
pub fn user(judge: &Judge, caller: User, headers: &HeaderMap) -> StatusResult<User> {
    let Some(name) = headers.get(USER).filter(|value| !value.is_empty()) else {
        let has_more = headers.keys().any(|name| name == GROUP || name == UID || name.as_str().starts_with(EXTRA));
        return match has_more {
            true => Err(Status::bad_request("groups, a uid or extras to act with were given without a user to act as")),
            false => Ok(caller),
        };
    };
    let mut user = User {
        name: who::text(name)?,
        uid: headers.get(UID).map(who::text).transpose()?,
        groups: headers.get_all(GROUP).iter().map(who::text).collect::<StatusResult<_>>()?,
        extra: who::extra(headers, EXTRA)?,
    };
    let account = user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|account| account.split_once(':'));
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let verb = "impersonate";
        let wish = Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() };
        judge.check(&caller, &Wish::Object(wish))
    };
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", &user.name)?,
    }
    for group in &user.groups {
        may("", "groups", "", "", group)?;
    }
    for (key, value) in user.extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value))) {
        may(API_GROUP, "userextras", key, "", value)?;
    }
    if let Some(uid) = &user.uid {
        may(API_GROUP, "uids", "", "", uid)?;
    }

    if let Some((namespace, _)) = account.filter(|_| user.groups.is_empty()) {
        user.groups = account_groups(namespace);
    }
    let known = if &*user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(known.into());
    }
    Ok(user)
}

/// The groups of every service account of a namespace, without [`AUTHENTICATED`].
pub fn account_groups(namespace: &str) -> Vec<std::sync::Arc<str>> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}").into()]
}
