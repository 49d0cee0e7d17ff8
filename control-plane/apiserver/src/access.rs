//! Who may do what.
//!
//! Administrators and servers may do everything. For everybody else roles and bindings decide, and for nodes what they
//! need besides. What roles grant is kept arranged between requests, and made anew when one of them changed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use copepod_access::{Attributes, Decision, Index, Rule, Wish};
use copepod_api::{Resource, Status, StatusResult, User, resource};
use copepod_identity::{NODES_GROUP, SERVERS_GROUP};
use copepod_store::View;

use crate::{path::Asked, query::Query};

/// What roles grant, as of the last request.
#[derive(Default)]
pub struct Access {
    index: ArcSwap<Index>,
}

impl Access {
    /// Who may do what in this view.
    pub fn at(&self, view: &View) -> Judge {
        let known = self.index.load_full();
        if known.is_of(view) {
            return Judge { index: known };
        }
        let index = Arc::new(known.updated(view));
        self.index.store(index.clone());
        Judge { index }
    }
}

/// Who may do what at one moment.
#[derive(Clone)]
pub struct Judge {
    index: Arc<Index>,
}

impl Judge {
    pub fn decide(&self, user: &User, wish: &Wish<'_>) -> Decision {
        if user.is_in(SERVERS_GROUP) || (user.is_in(NODES_GROUP) && node_may(wish)) {
            return Decision { is_allowed: true, reason: String::new() };
        }
        self.index.decide(user, wish)
    }

    /// All that roles give a user in a namespace.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.index.rules(user, namespace)
    }

    pub fn check(&self, user: &User, wish: &Wish<'_>) -> StatusResult<()> {
        if self.decide(user, wish).is_allowed {
            return Ok(());
        }
        let why = wish.refusal(&user.name);
        Err(match wish {
            Wish::Path { .. } => Status::new(403, "Forbidden", format!("forbidden: {why}")),
            Wish::Object(wish) => Status::forbidden(&Resource::new(wish.group, wish.resource), wish.name, why),
        })
    }
}

/// What nodes may do without a role: read, except Secrets. What they need and may change comes and goes over their
/// session.
fn node_may(wish: &Wish<'_>) -> bool {
    let Wish::Object(wish) = wish else { return false };
    let is_secrets = (wish.group, wish.resource) == (&*resource::SECRETS.group, &*resource::SECRETS.plural);
    ["get", "list", "watch"].contains(&wish.verb) && !is_secrets && wish.subresource.is_empty()
}

/// What a request about objects wishes.
pub fn wish<'a>(asked: &'a Asked, verb: &'a str, query: &'a Query) -> Wish<'a> {
    let is_collection = asked.name.is_empty();
    Wish::Object(Attributes {
        verb,
        group: &asked.row.kind.group,
        resource: &asked.row.kind.plural,
        subresource: &asked.subresource,
        // A namespace is in itself: who may read what is in it may be given the right to read it.
        namespace: match asked.row.kind.resource() == resource::NAMESPACES {
            true => &asked.name,
            false => &asked.namespace,
        },
        // A selection of one name is that object, so that a right to it suffices.
        name: match is_collection && verb != "create" {
            true => query.text("fieldSelector").and_then(only_name).unwrap_or_default(),
            false => &asked.name,
        },
    })
}

/// The name in `metadata.name=x`, where the selector requires one.
fn only_name(selector: &str) -> Option<&str> {
    let name = selector.split(',').find_map(|part| part.trim().strip_prefix("metadata.name="))?;
    Some(name.strip_prefix('=').unwrap_or(name))
}
