//! Events: what happened to a pod, for people.

use bytes::Bytes;
use copepod_api::{Timestamp, time::rfc3339};
use serde_json::json;
use tokio::sync::{Mutex, mpsc};

use crate::surface::PodRef;

/// Events waiting for a session. Beyond this the newest are dropped: they help people and nothing depends on them.
const WAITING_MAX: usize = 256;

pub struct Events {
    node: String,
    sender: mpsc::Sender<Bytes>,
    receiver: Mutex<mpsc::Receiver<Bytes>>,
}

impl Events {
    pub fn new(node: &str) -> Events {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        Events { node: node.into(), sender, receiver: Mutex::new(receiver) }
    }

    pub fn normal(&self, pod: &PodRef, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.record("Normal", pod, container, reason, message.into());
    }

    pub fn warning(&self, pod: &PodRef, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.record("Warning", pod, container, reason, message.into());
    }

    fn record(&self, kind: &str, pod: &PodRef, container: Option<&str>, reason: &str, message: String) {
        let now = Timestamp::now();
        tracing::debug!(pod = pod.name, namespace = pod.namespace, container, reason, message, "event");
        let path = container.map(|name| format!("spec.containers{{{name}}}"));
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "type": kind, "reason": reason, "message": message, "count": 1,
            "metadata": {
                "name": format!("{}.{:x}", pod.name, now.as_nanosecond()), "namespace": pod.namespace,
            },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
                "fieldPath": path,
            },
            "firstTimestamp": rfc3339(now), "lastTimestamp": rfc3339(now),
            "source": {"component": "copepod-agent", "host": self.node},
            "reportingComponent": "copepod-agent", "reportingInstance": self.node,
        });
        let _ = self.sender.try_send(event.to_string().into_bytes().into());
    }

    /// The next event; one session at a time waits here.
    pub async fn next(&self) -> Bytes {
        match self.receiver.lock().await.recv().await {
            Some(event) => event,
            // The sender lives as long as this; unreachable in practice, and waiting is the harmless answer.
            None => std::future::pending().await,
        }
    }
}
