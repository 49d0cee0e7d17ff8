//! Who belongs to whom: the objects a controller manages, those it may adopt, and those it has to let go.

use std::sync::Arc;

use copepod_api::{Meta, Object, Of, Request, Typed, User, selector::LabelSelector};
use copepod_store::View;
use serde_json::{Value, json};

use crate::write;

/// The dependents of an owner, sorted by what is to be done with them.
#[derive(Default)]
pub struct Claims {
    /// Managed by the owner, the adopted ones included.
    pub own: Vec<Arc<Object>>,
    /// Nobody's, and the selector matches: the owner takes them.
    pub adopt: Vec<Arc<Object>>,
    /// The owner's, but the selector matches no more: the owner lets go.
    pub release: Vec<Arc<Object>>,
}

impl Claims {
    /// Claims to objects of the type `T`.
    pub fn of<T: Typed, O: Typed>(view: &View, owner: &Of<O>, selector: &LabelSelector) -> Claims {
        let mut claims = Claims::default();
        let resource = T::resource();
        let is_own =
            |object: &&Arc<Object>| object.key.resource == resource && is_controlled_by(&object.meta, owner.uid());
        for dependent in view.dependents(owner.uid()).filter(is_own) {
            let matches = selector.matches(&dependent.meta.labels);
            if matches {
                claims.own.push(dependent.clone());
            } else if !dependent.meta.is_leaving() && !owner.meta().is_leaving() {
                claims.release.push(dependent.clone());
            }
        }
        if !owner.meta().is_leaving() && !selector.is_everything() {
            let namespace = owner.key().namespace();
            let single = view.single(&resource, namespace, selector);
            claims.adopt = single.filter(|object| !object.meta.is_leaving()).cloned().collect();
            claims.own.extend(claims.adopt.iter().cloned());
        }
        claims
    }

    /// Its own as a type has them; those that do not fit it are nobody's.
    pub fn own_as<T: Typed>(&self) -> Vec<Of<T>> {
        self.own.iter().filter_map(|object| Of::new(object.clone()).ok()).collect()
    }

    /// The requests that take and let go.
    pub fn settle<O: Typed>(&self, user: &User, owner: &Of<O>) -> Vec<Request> {
        let adopt = self.adopt.iter().map(|dependent| {
            let mut owners = references(dependent);
            owners.push(reference(owner));
            write::patch(user, dependent, json!({"metadata": {"ownerReferences": owners}}))
        });
        let release = self.release.iter().map(|dependent| {
            let mut owners = references(dependent);
            owners.retain(|reference| reference["uid"] != owner.uid());
            write::patch(user, dependent, json!({"metadata": {"ownerReferences": owners}}))
        });
        adopt.chain(release).collect()
    }
}

pub fn is_controlled_by(meta: &Meta, uid: &str) -> bool {
    meta.controller().is_some_and(|owner| owner.uid == uid)
}

/// The reference by which an object names `owner` as its controller.
pub fn reference<O: Typed>(owner: &Of<O>) -> Value {
    json!({
        "apiVersion": O::API_VERSION, "kind": O::KIND, "name": owner.key().name(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true,
    })
}

pub fn references(object: &Object) -> Vec<Value> {
    object.apart().value()["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default()
}
