//! Pods made of a template by whoever owns them, and what is told about that.

use std::collections::BTreeSet;

use copepod_api::{Key, Of, Typed, resource};
use copepod_store::View;
use serde_json::{Value, json};

use crate::{hash, owned};

/// How many pods one event names.
pub const NAMES_IN_EVENT: usize = 5;

/// A pod of a template, without its name.
pub fn pod<O: Typed>(owner: &Of<O>, template: &Value) -> Value {
    let mut metadata = json!({
        "generateName": format!("{}-", owner.key().name()),
        "namespace": owner.key().namespace(),
        "ownerReferences": [owned::reference(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Names for new pods, which follow from the owner as it was read: the same plan made twice names the same pods. Taken
/// names are skipped: they are of pods that count already, or are on their way out. So are those that come a second time:
/// of 500 names of five letters two are equal in one plan of a hundred, and that plan would be refused for ever.
pub fn names<'a, O: Typed>(view: &'a View, owner: &'a Of<O>, prefix: &str) -> impl Iterator<Item = String> + 'a {
    let revision = owner.object().revision.to_string();
    let base = base_name(prefix).to_owned();
    let name = move |index: u64| {
        let parts = [owner.uid().as_bytes(), revision.as_bytes(), &index.to_be_bytes()];
        format!("{base}-{}", hash::letters(hash::fnv1a(&parts), 5))
    };
    let namespace = owner.key().namespace();
    let mut given = BTreeSet::new();
    let is_free = move |name: &String| view.object(&Key::new(resource::PODS, namespace, name.as_str())).is_none();
    (0_u64..).map(name).filter(is_free).filter(move |name| given.insert(name.clone()))
}

/// A pod's name also has to serve as its host name: 63 letters with the suffix.
fn base_name(owner: &str) -> &str {
    let end = owner.char_indices().map(|(at, _)| at).find(|at| *at >= 57).unwrap_or(owner.len());
    owner[..end].trim_end_matches(['-', '.'])
}

/// One sentence for many pods, so that a large set does not drown the events of others.
pub fn sentence(what: &str, names: &[String]) -> String {
    match names {
        [name] => format!("{what} pod: {name}"),
        names if names.len() <= NAMES_IN_EVENT => format!("{what} pods: {}", names.join(", ")),
        names => format!("{what} {} pods: {}", names.len(), first(names)),
    }
}

/// Many pods in a sentence that speaks of one: `Pod web-0`, `Pods web-0, web-1`.
pub fn named(what: &str, names: &[String]) -> String {
    match names {
        [name] => format!("{what} {name}"),
        names if names.len() <= NAMES_IN_EVENT => format!("{what}s {}", names.join(", ")),
        names => format!("{} {what}s {}", names.len(), first(names)),
    }
}

fn first(names: &[String]) -> String {
    format!("{} and {} more", names[..NAMES_IN_EVENT].join(", "), names.len() - NAMES_IN_EVENT)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copepod_api::{Body, Object, Revision, k8s_openapi::api::apps::v1::ReplicaSet};

    use super::*;

    #[test]
    fn no_two_pods_of_a_plan_have_one_name() {
        const N: usize = 20_000;
        let object = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "uid": "u"}});
        let key = Key::new(resource::REPLICA_SETS, "default", "web");
        let object = Object::store(key, &Body::encode(&object), Revision(1)).unwrap();
        let owner: Of<ReplicaSet> = Of::new(Arc::new(object)).unwrap();
        let names: Vec<String> = names(&View::default(), &owner, "web").take(N).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), N);
    }
}
