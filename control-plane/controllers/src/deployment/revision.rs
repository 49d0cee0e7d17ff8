//! Which template a set stands for, and which number in the deployment's history.

use std::collections::BTreeMap;

use copepod_api::{Texts, k8s_openapi::api::core::v1::PodTemplateSpec};
use serde_json::Value;

use crate::hash;

/// `kubectl rollout history` and `undo` read it.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers a set had before, where it was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the deployment when it last sized the set: how a change of it is noticed.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const TEMPLATE_HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations of the deployment that mean nothing on a set.
const NOT_COPIED: [&str; 5] = [REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, LAST_APPLIED];

/// How many letters of former revisions a set remembers.
const REVISION_HISTORY_LETTERS: usize = 2000;

type Annotations = BTreeMap<String, String>;

pub fn number(annotations: &Annotations) -> i64 {
    annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Gives a set its number, and the deployment's annotations (a change-cause among them).
pub fn annotate(set: &mut Annotations, deployment: &Texts, revision: i64) {
    for (key, value) in deployment.iter().filter(|(key, _)| !NOT_COPIED.contains(key)) {
        set.insert(key.to_owned(), value.to_owned());
    }
    let old = set.get(REVISION).cloned();
    let old_number = old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0);
    if old_number >= revision {
        return;
    }
    set.insert(REVISION.to_owned(), revision.to_string());
    if let Some(old) = old {
        let mut history: Vec<String> =
            set.get(REVISION_HISTORY).map(|h| h.split(',').map(str::to_owned).collect()).unwrap_or_default();
        history.push(old);
        while history.iter().map(|number| number.len() + 1).sum::<usize>() > REVISION_HISTORY_LETTERS {
            history.remove(0);
        }
        set.insert(REVISION_HISTORY.to_owned(), history.join(","));
    }
}

/// The same pods would come out of both.
pub fn is_same_template(left: &PodTemplateSpec, right: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let mut metadata = template.metadata.take().unwrap_or_default();
        if let Some(labels) = &mut metadata.labels {
            labels.remove(TEMPLATE_HASH);
        }
        metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
        metadata.annotations = metadata.annotations.filter(|annotations| !annotations.is_empty());
        template.metadata = Some(metadata);
        template
    };
    plain(left) == plain(right)
}

/// The letters that tell this template's set from its siblings'. Only ever used to name a new set, never to find one.
pub fn template_hash(template: &Value, collisions: i32) -> String {
    let text = template.to_string();
    hash::letters(hash::fnv1a(&[text.as_bytes(), &collisions.to_be_bytes()]), 10)
}
