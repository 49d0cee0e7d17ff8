//! Pods that are to be replaced before they go.
//!
//! An eviction takes a pod away first and lets its set make up for it. Where that is too much to ask (one replica, a
//! budget without room), a pod can be marked instead: its set starts another one, waits until that is available, and only
//! then deletes the marked one, as a rolling update with surge would. `copepod drain --surge` marks the pods of a node;
//! the mark is an annotation, so any client can set it, and taking it away before the end keeps the pod.

use std::sync::Arc;

use copepod_api::{Meta, Object, meta::REPLACE};

use crate::pods;

/// The pod is marked: what it does is to be done by another one.
pub fn is_wanted(meta: &Meta) -> bool {
    meta.annotations.get(REPLACE).is_some_and(|value| value == "true")
}

/// The marked pods that may go: all but as many as others are missing. Those that serve nobody go first.
pub fn replaced<'a>(marked: &[&'a Arc<Object>], others_available: usize, wanted: usize) -> Vec<&'a Arc<Object>> {
    let missing = wanted.saturating_sub(others_available);
    let (serving, idle): (Vec<_>, Vec<_>) = marked.iter().partition(|pod| pods::is_ready(pod));
    idle.into_iter().chain(serving.into_iter().skip(missing)).collect()
}
