//! Which node a pod runs on.

use copepod_api::{Plan, Timestamp, k8s_openapi::api::core::v1::Pod};
use copepod_store::{Event, View};

/// Places pods on nodes. What it keeps between two calls is a table derived from the view, nothing else.
#[derive(Default)]
pub struct Scheduler {}

impl Scheduler {
    pub fn new() -> Self {
        Scheduler::default()
    }

    /// Places every pod that waits. `events` are those since the last call; they keep the table of nodes fresh.
    pub fn schedule(&mut self, view: &View, events: &[Event], now: Timestamp) -> Vec<Plan> {
        let _ = (view, events, now);
        Vec::new()
    }
}

/// Why a pod is where it is, or nowhere.
pub fn explain(view: &View, pod: &Pod, now: Timestamp) -> Vec<String> {
    let _ = (view, pod, now);
    Vec::new()
}
