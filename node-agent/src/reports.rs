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

    /// What was said of the pod has been taken for nothing.
    pub fn say_again(&self, uid: &str) {
        let mut inner = self.lock();
        if inner.latest.contains_key(uid) {
            inner.unsaid.insert(uid.to_owned());
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Takes reports that were not said yet: as many as fit into so many bytes of statuses, and one at least.
    pub fn take(&self, max_bytes: usize) -> Vec<PodStatus> {
        let mut inner = self.lock();
        let (mut taken, mut n_bytes) = (Vec::new(), 0);
        while let Some(uid) = inner.unsaid.first().cloned() {
            let report = inner.latest.get(&uid).cloned();
            n_bytes += report.as_ref().map_or(0, |report| report.status.len());
            if n_bytes > max_bytes && !taken.is_empty() {
                break;
            }
            inner.unsaid.remove(&uid);
            taken.extend(report);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_said_once_and_again_when_it_was_taken_for_nothing() {
        let reports = Reports::default();
        let uids = |reports: &Reports| reports.take(99).into_iter().map(|report| report.uid).collect::<Vec<_>>();
        for uid in ["a", "b"] {
            reports.put(PodStatus { uid: uid.into(), ..PodStatus::default() });
        }
        assert_eq!((uids(&reports), uids(&reports)), (vec!["a".into(), "b".into()], vec![]));
        reports.say_again("b");
        reports.say_again("nobody");
        assert_eq!((uids(&reports), uids(&reports)), (vec!["b".into()], vec![]));
    }

    #[test]
    fn many_reports_are_said_in_parts() {
        let reports = Reports::default();
        for (uid, length) in [("a", 500), ("b", 40), ("c", 40), ("d", 40)] {
            reports.put(PodStatus { uid: uid.into(), status: vec![0; length].into(), ..PodStatus::default() });
        }
        let uids = |reports: &Reports| reports.take(99).into_iter().map(|report| report.uid).collect::<Vec<_>>();
        assert_eq!([uids(&reports), uids(&reports), uids(&reports)], [vec!["a"], vec!["b", "c"], vec!["d"]]);
        assert_eq!(uids(&reports), [""; 0]);
    }
}
