//! Which templates a set had, as ControllerRevisions: what `kubectl rollout history` lists and `undo` goes back to.
//!
//! A revision holds a strategic merge patch that puts the template in the place of whatever is there; kubectl sends it as
//! it is. Revisions are found by their content, never by their name. A template that comes back is its old revision again,
//! with the next number.

use std::{collections::BTreeSet, sync::Arc};

use copepod_api::{
    Action, Key, Object, Of, Request, Typed,
    k8s_openapi::api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::PodTemplateSpec,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Work, identity, order};
use crate::{hash, owned, write};

const HASH: &str = "controller.kubernetes.io/hash";

/// How many revisions are kept besides those in use, where nothing is said.
const LIMIT: i32 = 10;

/// What a name may have besides the letters of a hash.
const NAME_MAX: usize = 223;

pub struct Revision {
    pub name: String,
    pub template: Value,
}

pub struct History {
    /// What pods are that wait for their turn.
    pub current: Revision,
    /// What the set's template is.
    pub update: Revision,
    pub collisions: i32,
    /// The set's template is not the newest revision yet; with this it is.
    pub request: Option<Request>,
    /// By number, oldest first.
    revisions: Vec<Arc<Object>>,
}

impl History {
    pub fn read(work: &Work<'_>, own: &[Arc<Object>]) -> History {
        let mut revisions = own.to_vec();
        revisions.sort_by_key(|revision| (number(revision), revision.meta.creation_timestamp, revision.key.clone()));
        let template = &work.set.object().value()["spec"]["template"];
        let status = work.set.status.as_ref();
        let mut collisions = status.and_then(|status| status.collision_count).unwrap_or(0);
        let next = revisions.last().map_or(0, |newest| number(newest)).saturating_add(1);
        let equal = revisions.iter().rfind(|revision| is_same(&template_of(revision), template));
        let is_newest = |revision: &Object| number(revision).saturating_add(1) == next;
        let (name, request) = match equal {
            Some(revision) if is_newest(revision) => (revision.key.name().to_owned(), None),
            Some(revision) => {
                let again = write::patch(work.user, revision, json!({"revision": next}));
                (revision.key.name().to_owned(), Some(again))
            }
            None => {
                let (name, hash) = free_name(work, template, &mut collisions);
                let object = made(work.set, &name, &hash, template, next);
                let create = Action::Create { object };
                let namespace = work.set.key().namespace();
                let request = Request::of::<ControllerRevision>(work.user, namespace, &name, "", create);
                (name, Some(request))
            }
        };
        let update = Revision { name, template: template.clone() };
        let current = status.and_then(|status| status.current_revision.as_deref()).filter(|name| *name != update.name);
        let current = current.and_then(|name| revisions.iter().find(|revision| revision.key.name() == name));
        let current = match current {
            Some(revision) => Revision { name: revision.key.name().to_owned(), template: template_of(revision) },
            // A set begins with what it is.
            None => Revision { name: update.name.clone(), template: template.clone() },
        };
        History { current, update, collisions, request, revisions }
    }

    /// What a new pod is. Below the partition, and before its turn has come, it is what it was.
    pub fn of(&self, work: &Work<'_>, ordinal: i64, start: i64) -> &Revision {
        let strategy = work.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return &self.update;
        }
        let status = work.set.status.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let n_old = match rolling {
            Some(_) => order::partition(rolling),
            None => status.and_then(|status| status.current_replicas).unwrap_or(0).into(),
        };
        if ordinal - start < n_old { &self.current } else { &self.update }
    }

    /// Forgets the oldest revisions that nobody uses, beyond the limit.
    pub fn forget<'a>(&self, work: &Work<'_>, pods: impl Iterator<Item = &'a Arc<Object>>) -> Vec<Request> {
        let mut used: BTreeSet<&str> = pods.filter_map(|pod| identity::revision(pod)).collect();
        used.extend([self.current.name.as_str(), self.update.name.as_str()]);
        let unused: Vec<&Arc<Object>> =
            self.revisions.iter().filter(|revision| !used.contains(revision.key.name())).collect();
        let limit = usize::try_from(work.spec.revision_history_limit.unwrap_or(LIMIT)).unwrap_or(0);
        let surplus = unused.len().saturating_sub(limit);
        let doomed = unused.into_iter().take(surplus).filter(|revision| !revision.meta.is_leaving());
        doomed.map(|revision| write::delete_unchanged(work.user, revision)).collect()
    }
}

fn number(revision: &Object) -> i64 {
    revision.value()["revision"].as_i64().unwrap_or(0)
}

fn template_of(revision: &Object) -> Value {
    let mut template = revision.value()["data"]["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    template
}

/// The same pods would come out of both. What one of them states and the other leaves out may still be the same.
fn is_same(left: &Value, right: &Value) -> bool {
    let typed = |template: &Value| PodTemplateSpec::deserialize(template).ok();
    left == right || typed(left).is_some_and(|left| typed(right) == Some(left))
}

/// A name that nothing has yet, and the hash in it. The hash names a new revision and never finds one, so that another
/// object has the name is no more than a reason to count on.
fn free_name(work: &Work<'_>, template: &Value, collisions: &mut i32) -> (String, String) {
    let (set, text) = (work.set.key().name(), template.to_string());
    let base = set.get(..NAME_MAX).unwrap_or(set);
    loop {
        let hash = hash::letters(hash::fnv1a(&[text.as_bytes(), &collisions.to_be_bytes()]), 10);
        let name = format!("{base}-{hash}");
        let namespace = work.set.key().name.namespace.clone();
        if work.view.object(&Key::new(ControllerRevision::resource(), namespace, name.as_str())).is_none() {
            return (name, hash);
        }
        *collisions = collisions.wrapping_add(1);
    }
}

fn made(set: &Of<StatefulSet>, name: &str, hash: &str, template: &Value, number: i64) -> Value {
    let mut labels = template["metadata"]["labels"].clone();
    labels[HASH] = json!(hash);
    let mut patch = template.clone();
    patch["$patch"] = json!("replace");
    let mut metadata = json!({
        "name": name, "namespace": set.key().namespace(), "labels": labels,
        "ownerReferences": [owned::reference(set)],
    });
    if !set.meta().annotations.is_empty() {
        metadata["annotations"] = json!(set.meta().annotations.to_map());
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata,
        "data": {"spec": {"template": patch}}, "revision": number,
    })
}
