//! Who may do what.
//!
//! Until roles are objects, three groups decide: administrators and servers may do everything, nodes may read (what
//! they need and may change comes and goes over their session, so Secrets are not among it), and everybody else who
//! has a name may find out what the API offers.

use copepod_api::{Resource, Status, StatusResult, User, resource};
use copepod_identity::{MASTERS_GROUP, NODES_GROUP, SERVERS_GROUP};

use crate::path::Asked;

/// What somebody wants to do.
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub resource: Resource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> Attributes<'a> {
    pub fn of(asked: &'a Asked, verb: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            resource: asked.row.kind.resource(),
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
        }
    }
}

pub fn is_allowed(user: &User, wish: &Attributes<'_>) -> bool {
    let reads = ["get", "list", "watch"].contains(&wish.verb);
    user.is_in(MASTERS_GROUP)
        || user.is_in(SERVERS_GROUP)
        || (user.is_in(NODES_GROUP) && reads && wish.resource != resource::SECRETS && wish.subresource.is_empty())
}

pub fn check(user: &User, wish: &Attributes<'_>) -> StatusResult<()> {
    if is_allowed(user, wish) {
        return Ok(());
    }
    let plural = match wish.subresource {
        "" => wish.resource.plural.to_string(),
        subresource => format!("{}/{subresource}", wish.resource.plural),
    };
    let place = match wish.namespace {
        "" => " at the cluster scope".to_owned(),
        namespace => format!(" in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {plural:?} in API group {:?}{place}",
        user.name, wish.verb, wish.resource.group
    );
    Err(Status::forbidden(&wish.resource, wish.name, why))
}

/// What describes the API is open to everybody with a name.
pub fn check_path(user: &User) -> StatusResult<()> {
    match user.is_in(crate::who::AUTHENTICATED) || user.is_in(MASTERS_GROUP) {
        true => Ok(()),
        false => Err(Status::new(403, "Forbidden", format!("User {:?} cannot get this path", user.name))),
    }
}
