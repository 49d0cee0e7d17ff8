//! What an agent has said and nobody has written down yet.
//!
//! While a server is busy, what waits to be decided waits for seconds. Heard meanwhile, it waits together: of each pod the
//! newest word, and all of it is one transaction. And an agent that is heard is answered, so that it stays; one that leaves a
//! busy server and comes back says everything again, and makes it busier.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use copepod_api::{Request, User};
use copepod_proto::nodes::{PodStatus, StatusBatch};
use copepod_store::View;
use serde_json::{Value, json};

use crate::status;

/// Events of pods that wait; beyond this, and as many pods, the agent is not heard for a while.
const WAITING_MAX: usize = 512;

/// Requests of one transaction. Others wait for it.
const BATCH: usize = 64;

#[derive(Default)]
pub struct Backlog {
    /// By uid.
    pods: BTreeMap<String, PodStatus>,
    node_status: Option<Value>,
    events: VecDeque<Bytes>,
}

impl Backlog {
    pub fn add(&mut self, batch: StatusBatch) {
        self.pods.extend(batch.pods.into_iter().map(|report| (report.uid.clone(), report)));
        if let Ok(status) = serde_json::from_slice(&batch.node_status) {
            self.node_status = Some(status);
        }
    }

    pub fn add_event(&mut self, event: Bytes) {
        self.events.push_back(event);
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.events.is_empty() && self.node_status.is_none()
    }

    pub fn is_full(&self) -> bool {
        self.pods.len() >= WAITING_MAX || self.events.len() >= WAITING_MAX
    }

    /// Takes what one transaction holds, as requests.
    pub fn take(&mut self, view: &View, user: &User, node: &str) -> Vec<Request> {
        let mut requests = Vec::new();
        while requests.len() < BATCH
            && let Some((_, report)) = self.pods.pop_first()
        {
            requests.extend(status::of_pod(view, user, node, &report));
        }
        if let Some(status) = self.node_status.take() {
            requests.extend(status::of_node(view, user, node, &json!({ "status": status })));
        }
        // An event that is repeated is one object, and what is asked of it rests on what stands there.
        let mut named = BTreeSet::new();
        while requests.len() < BATCH
            && let Some(event) = self.events.front()
        {
            let request = status::of_event(view, user, event);
            if request.as_ref().is_some_and(|request| !named.insert(request.target.key())) {
                break;
            }
            requests.extend(request);
            self.events.pop_front();
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use copepod_api::{Action, Body, Expect, Key, Op, Timestamp, Txn, resource::PODS};

    use super::*;

    fn view(n_pods: usize) -> View {
        let ops = (0..n_pods).map(|number| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}")},
                "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}, "status": {"phase": "Pending"},
            });
            let key = Key::new(PODS, "d", format!("p{number}").as_str());
            Op::Put { key, body: Body::encode(&pod), expect: Expect::Absent }
        });
        let txn = Txn { ops: ops.collect() };
        View::default().apply(&txn, Timestamp::UNIX_EPOCH).unwrap().0
    }

    fn report(number: usize, phase: &str) -> PodStatus {
        PodStatus {
            namespace: "d".into(),
            name: format!("p{number}"),
            uid: format!("u{number}"),
            status: json!({ "phase": phase }).to_string().into_bytes().into(),
            gone: false,
        }
    }

    fn event(name: &str, count: u32) -> Bytes {
        json!({"metadata": {"namespace": "d", "name": name}, "count": count}).to_string().into()
    }

    fn user() -> User {
        User::system("system:node:n1")
    }

    #[test]
    fn of_each_pod_the_newest_word_is_written_and_all_of_it_at_once() {
        let (view, mut backlog) = (view(3), Backlog::default());
        for phase in ["Running", "Succeeded"] {
            backlog.add(StatusBatch { pods: vec![report(0, phase), report(1, phase)], ..StatusBatch::default() });
        }
        backlog.add(StatusBatch { pods: vec![report(2, "Pending")], ..StatusBatch::default() });
        let requests = backlog.take(&view, &user(), "n1");
        let phases: Vec<Value> = requests
            .iter()
            .map(|request| match &request.action {
                Action::Patch { patch: copepod_api::Patch::Merge(patch) } => patch["status"]["phase"].clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(phases, ["Succeeded", "Succeeded"], "and what is so already is not written");
        assert!(backlog.is_empty());
    }

    #[test]
    fn an_event_that_is_repeated_waits_for_the_first() {
        let (view, mut backlog) = (view(0), Backlog::default());
        for (name, count) in [("a", 1), ("b", 1), ("a", 2), ("c", 1)] {
            backlog.add_event(event(name, count));
        }
        let names = |requests: Vec<Request>| requests.iter().map(|it| it.target.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(backlog.take(&view, &user(), "n1")), ["a", "b"]);
        assert_eq!(names(backlog.take(&view, &user(), "n1")), ["a", "c"]);
        assert!(backlog.is_empty());
        backlog.add_event("nonsense".into());
        assert!(backlog.take(&view, &user(), "n1").is_empty() && backlog.is_empty());
    }

    #[test]
    fn a_transaction_has_an_end_and_so_has_what_waits() {
        let (view, mut backlog) = (view(600), Backlog::default());
        let mut n_heard = 0;
        while !backlog.is_full() {
            backlog.add(StatusBatch { pods: vec![report(n_heard, "Running")], ..StatusBatch::default() });
            n_heard += 1;
        }
        assert_eq!(n_heard, WAITING_MAX);
        let sizes: Vec<usize> =
            std::iter::from_fn(|| (!backlog.is_empty()).then(|| backlog.take(&view, &user(), "n1").len())).collect();
        assert_eq!(sizes, [BATCH; WAITING_MAX / BATCH]);
    }
}
