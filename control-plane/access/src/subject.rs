//! Who holds a role.

use std::{fmt, sync::Arc};

use copepod_api::User;
use serde::Deserialize;

/// What the user names of service accounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The user that a service account is.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// A subject of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Subject {
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub namespace: String,
}

/// Under what a subject is found: a service account is a user as well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    User(Arc<str>),
    Group(Arc<str>),
}

impl Subject {
    /// `place`: the namespace of the binding, where a service account without a namespace is.
    pub fn holder(&self, place: &str) -> Option<Holder> {
        let namespace = if self.namespace.is_empty() { place } else { &self.namespace };
        match self.kind.as_str() {
            "User" => Some(Holder::User(self.name.as_str().into())),
            "Group" => Some(Holder::Group(self.name.as_str().into())),
            "ServiceAccount" if !namespace.is_empty() => {
                Some(Holder::User(service_account_user(namespace, &self.name).into()))
            }
            _ => None,
        }
    }
}

impl Holder {
    /// Everything under which a user is found.
    pub fn of(user: &User) -> impl Iterator<Item = Holder> + '_ {
        let groups = user.groups.iter().map(|group| Holder::Group(group.clone()));
        std::iter::once(Holder::User(user.name.clone())).chain(groups)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Group(name) => write!(f, "Group {name:?}"),
            Holder::User(name) => match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|own| own.split_once(':')) {
                Some((namespace, name)) => write!(f, "ServiceAccount \"{name}/{namespace}\""),
                None => write!(f, "User {name:?}"),
            },
        }
    }
}
