//! Who may do what.
//!
//! Administrators and servers may do everything. For everybody else roles and bindings decide, and for nodes what they
//! need besides. What roles grant is kept arranged between requests, and made anew when one of them changed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use copepod_access::{Attributes, Decision, Index, Rule, Wish, node};
use copepod_api::{Resource, Status, StatusResult, User, resource};
use copepod_identity::SERVERS_GROUP;
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
            return Judge { index: known, view: view.clone() };
        }
        let index = Arc::new(known.updated(view));
        self.index.store(index.clone());
        Judge { index, view: view.clone() }
    }
}

/// Who may do what at one moment.
#[derive(Clone)]
pub struct Judge {
    index: Arc<Index>,
    view: View,
}

impl Judge {
    pub fn decide(&self, user: &User, wish: &Wish<'_>) -> Decision {
        let as_node = || node::name(user).is_some_and(|name| node::allows(&self.view, name, wish));
        if user.is_in(SERVERS_GROUP) || as_node() {
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

/// What a request about objects wishes.
pub fn wish<'a>(asked: &'a Asked, verb: &'a str, query: &'a Query) -> Wish<'a> {
    let is_collection = asked.name.is_empty();
    let selected = |field: &str| {
        let selector = query.text("fieldSelector").filter(|_| is_collection && verb != "create");
        selector.and_then(|selector| only(selector, field)).unwrap_or_default()
    };
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
        name: if is_collection { selected("metadata.name") } else { &asked.name },
        selected_node: selected("spec.nodeName"),
    })
}

/// The value that the selector requires of a field.
fn only<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|part| {
        let value = part.trim().strip_prefix(field)?.strip_prefix('=')?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })
}
