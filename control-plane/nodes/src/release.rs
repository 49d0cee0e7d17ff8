//! When a pod that was asked to leave may be stopped.
//!
//! Elsewhere the signal to a leaving pod races the news that it leaves, and requests that are routed meanwhile are lost;
//! hence everybody's `preStop: sleep`. Here the order is kept: first no EndpointSlice offers the pod any more, then every
//! living node says that its data path knows, then the pod's own node is told to stop it.

use std::collections::BTreeMap;

use copepod_api::{
    Key, Object, Revision,
    k8s_openapi::api::discovery::v1::EndpointSlice,
    resource::{ENDPOINT_SLICES, PODS},
};
use copepod_store::{Event, View};

/// The leaving pods of one session, and the revision that all nodes must contain before each is stopped.
#[derive(Default)]
pub struct Leaving {
    pods: BTreeMap<Key, Wait>,
}

struct Wait {
    uid: String,
    /// Known once no slice offers the pod.
    withdrawn_at: Option<Revision>,
}

impl Leaving {
    pub fn of(node: &str, view: &View) -> Leaving {
        let mut leaving = Leaving::default();
        view.pods_on(node).for_each(|pod| leaving.consider(pod));
        leaving
    }

    pub fn after(&mut self, node: &str, events: &[Event]) {
        for event in events {
            let object = &event.object;
            if object.key.resource == PODS && object.node.as_deref() == Some(node) {
                match event.kind {
                    copepod_store::EventKind::Deleted => drop(self.pods.remove(&object.key)),
                    _ => self.consider(object),
                }
            }
        }
    }

    fn consider(&mut self, pod: &Object) {
        if pod.meta.is_leaving() {
            let uid = pod.meta.uid.to_string();
            self.pods.entry(pod.key.clone()).or_insert(Wait { uid, withdrawn_at: None });
        }
    }

    pub fn is_waiting(&self) -> bool {
        !self.pods.is_empty()
    }

    /// The uids of pods that may be stopped now that every node contains so much; each is named once.
    pub fn released(&mut self, view: &View, contained: Revision) -> Vec<String> {
        let mut released = Vec::new();
        self.pods.retain(|key, wait| {
            if wait.withdrawn_at.is_none() && !is_offered(view, key, &wait.uid) {
                wait.withdrawn_at = Some(view.revision());
            }
            let may_stop = wait.withdrawn_at.is_some_and(|revision| contained >= revision);
            if may_stop {
                released.push(std::mem::take(&mut wait.uid));
            }
            !may_stop
        });
        released
    }
}

fn is_offered(view: &View, pod: &Key, uid: &str) -> bool {
    view.objects(&ENDPOINT_SLICES, Some(pod.namespace()))
        .filter_map(|object| object.typed::<EndpointSlice>().ok())
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)))
        .any(|endpoint| endpoint.target_ref.as_ref().is_some_and(|target| target.uid.as_deref() == Some(uid)))
}
