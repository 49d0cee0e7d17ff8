//! What is said about pods, until the control plane has heard it.
//!
//! Only the newest status of a pod matters, so reports are kept by pod and not in a queue: however long the control plane
//! is away, they take no more room than the pods themselves.
//!
//! And most pods that begin run a moment later. What is said of them until then keeps the control plane as busy as what is
//! said then, so it waits that moment, and mostly is never said.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
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
    /// And from when on it may be said.
    unsaid: BTreeMap<String, Instant>,
}

/// How long what is said of a pod may wait for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    None,
    /// It begins, which whoever looks at it wants to know if it takes long enough to be looked at.
    Moment,
}

/// More than most starts take, and less than a glance.
const MOMENT: Duration = Duration::from_millis(200);

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, report: PodStatus, patience: Patience, now: Instant) {
        let due = match patience {
            Patience::None => now,
            Patience::Moment => now + MOMENT,
        };
        let mut inner = self.lock();
        // What has waited longer has not waited less by what came after.
        inner.unsaid.entry(report.uid.clone()).and_modify(|before| *before = due.min(*before)).or_insert(due);
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
    pub fn say_all_again(&self, now: Instant) {
        let mut inner = self.lock();
        inner.unsaid = inner.latest.keys().map(|uid| (uid.clone(), now)).collect();
        drop(inner);
        self.changed.notify_one();
    }

    /// What was said of the pod has been taken for nothing.
    pub fn say_again(&self, uid: &str, now: Instant) {
        let mut inner = self.lock();
        if inner.latest.contains_key(uid) {
            inner.unsaid.insert(uid.to_owned(), now);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Takes reports that may be said and were not yet: as many as fit into so many bytes of statuses, and one at least.
    pub fn take(&self, max_bytes: usize, now: Instant) -> Vec<PodStatus> {
        let mut inner = self.lock();
        let due: Vec<String> = inner.unsaid.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| uid.clone()).collect();
        let (mut taken, mut n_bytes) = (Vec::new(), 0);
        for uid in due {
            let report = inner.latest.get(&uid).cloned();
            n_bytes += report.as_ref().map_or(0, |report| report.status.len());
            if n_bytes > max_bytes && !taken.is_empty() {
                break;
            }
            inner.unsaid.remove(&uid);
            taken.extend(report);
        }
        taken
    }

    /// When the first may be said of those that were not.
    fn due(&self) -> Option<Instant> {
        self.lock().unsaid.values().min().copied()
    }

    /// Returns when there is something to take.
    pub async fn changed(&self) {
        loop {
            let changed = self.changed.notified();
            let Some(due) = self.due() else {
                changed.await;
                continue;
            };
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = changed => (),
                () = tokio::time::sleep_until(due.into()) => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn uids(reports: &Reports, now: Instant) -> Vec<String> {
        reports.take(99, now).into_iter().map(|report| report.uid).collect()
    }

    fn report(uid: &str, length: usize) -> PodStatus {
        PodStatus { uid: uid.into(), status: vec![0; length].into(), ..PodStatus::default() }
    }

    #[test]
    fn a_report_is_said_once_and_again_when_it_was_taken_for_nothing() {
        let (reports, now) = (Reports::default(), Instant::now());
        for uid in ["a", "b"] {
            reports.put(report(uid, 0), Patience::None, now);
        }
        assert_eq!((uids(&reports, now), uids(&reports, now)), (vec!["a".into(), "b".into()], vec![]));
        reports.say_again("b", now);
        reports.say_again("nobody", now);
        assert_eq!((uids(&reports, now), uids(&reports, now)), (vec!["b".into()], vec![]));
    }

    #[test]
    fn many_reports_are_said_in_parts() {
        let (reports, now) = (Reports::default(), Instant::now());
        for (uid, length) in [("a", 500), ("b", 40), ("c", 40), ("d", 40)] {
            reports.put(report(uid, length), Patience::None, now);
        }
        let parts: Vec<Vec<String>> = (0..4).map(|_| uids(&reports, now)).collect();
        assert_eq!(parts, [vec!["a"], vec!["b", "c"], vec!["d"], vec![]]);
    }

    #[test]
    fn a_beginning_is_said_if_it_lasts() {
        let (reports, now) = (Reports::default(), Instant::now());
        reports.put(report("quick", 1), Patience::Moment, now);
        reports.put(report("slow", 1), Patience::Moment, now);
        assert_eq!(uids(&reports, now), [""; 0]);
        reports.put(report("quick", 2), Patience::None, now + MOMENT / 4);
        // Step by step, and no later for that.
        reports.put(report("slow", 2), Patience::Moment, now + MOMENT / 2);
        let (early, late) = (reports.take(99, now + MOMENT / 2), reports.take(99, now + MOMENT));
        let said = |reports: Vec<PodStatus>| reports.into_iter().map(|report| (report.uid, report.status.len()));
        assert_eq!(said(early).collect::<Vec<_>>(), [("quick".into(), 2)]);
        assert_eq!(said(late).collect::<Vec<_>>(), [("slow".into(), 2)]);
        assert_eq!(reports.due(), None);
    }

    #[tokio::test]
    async fn nobody_waits_for_what_may_be_said() {
        let reports = Reports::default();
        reports.put(report("a", 0), Patience::None, Instant::now());
        reports.changed().await;
        reports.say_all_again(Instant::now());
        reports.changed().await;
        assert_eq!(uids(&reports, Instant::now()), ["a"]);
        let nothing = std::pin::pin!(reports.changed());
        assert!(nothing.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}
