//! What is said about pods, until the control plane has heard it.
//!
//! Only the newest status of a pod matters, so reports are kept by pod and not in a queue: however long the control plane
//! is away, they take no more room than the pods themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use copepod_proto::nodes::PodStatus;
use tokio::sync::Notify;

#[derive(Default)]
pub struct Reports {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    latest: BTreeMap<String, PodStatus>,
    unsaid: BTreeSet<String>,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, report: PodStatus) {
        let mut inner = self.lock();
        inner.unsaid.insert(report.uid.clone());
        inner.latest.insert(report.uid.clone(), report);
        drop(inner);
        self.changed.notify_one();
    }

    /// The pod is no business of the control plane any more.
    pub fn forget(&self, uid: &str) {
        let mut inner = self.lock();
        inner.latest.remove(uid);
        inner.unsaid.remove(uid);
    }

    /// A new session begins: everything has to be said again.
    pub fn say_all_again(&self) {
        let mut inner = self.lock();
        inner.unsaid = inner.latest.keys().cloned().collect();
        drop(inner);
        self.changed.notify_one();
    }

    /// Takes at most `max` reports that were not said yet.
    pub fn take(&self, max: usize) -> Vec<PodStatus> {
        let mut inner = self.lock();
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(uid) = inner.unsaid.pop_first() else { break };
            taken.extend(inner.latest.get(&uid).cloned());
        }
        if !inner.unsaid.is_empty() {
            self.changed.notify_one();
        }
        taken
    }

    /// Returns when there may be something to take.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
