//! Who lives. The leader hears heartbeats and writes only when it changes its mind about a node.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::{
    Object, Request, Revision, Timestamp, User,
    k8s_openapi::api::{coordination::v1::Lease, core::v1::Node},
    resource::NODES,
    time::rfc3339,
};
use copepod_store::{Door, EventKind, View};

use crate::{
    Hub,
    pace::SILENCE_MAX,
    status::{self, Readiness},
};

/// Where kubelets renew their leases, and how long one is good for that does not say.
const LEASES_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: u64 = 40;

/// Between two looks at all nodes, so that one at the edge of silence does not make this a busy loop.
const REST: Duration = Duration::from_millis(50);

/// Watches over the nodes while this server leads; dropped when it no longer does.
pub async fn watch(door: Arc<dyn Door>, hub: Arc<Hub>) {
    let user = User::system("system:node-front");
    let mut nodes = door.watch(Some(NODES), door.view().revision());
    let mut noted = Noted::default();
    let (mut looked, mut next) = (Instant::now(), Instant::now());
    loop {
        let mut objects: Vec<Arc<Object>> = Vec::new();
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {
                let view = door.view();
                objects.extend(view.objects(&NODES, None).cloned());
                looked = Instant::now();
                next = looked + next_look(&hub, &view);
            }
            // Some session is over, and its node has less time from now on.
            () = hub.closed.notified() => next = next.min(looked + REST),
            events = nodes.next() => match events {
                Ok(events) => for event in events {
                    match event.kind {
                        EventKind::Deleted => noted.forget(&hub, event.object.key.name()),
                        _ => objects.push(event.object),
                    }
                },
                Err(_) => {
                    nodes = door.watch(Some(NODES), door.view().revision());
                    next = looked + REST;
                }
            },
        }
        let view = door.view();
        let now = Timestamp::now();
        let changed = objects.iter().filter_map(|node| noted.look(&view, &hub, &user, node, now)).collect();
        note(&*door, changed).await;
    }
}

/// Nodes that are as this server thinks of them, so that they need not be read again. What it decides, it decides anew
/// from the view.
#[derive(Default)]
struct Noted(BTreeMap<Arc<str>, (Revision, Readiness)>);

impl Noted {
    /// What is to be written because this server thinks otherwise of a node than its object says.
    fn look(&mut self, view: &View, hub: &Hub, user: &User, node: &Object, now: Timestamp) -> Option<Request> {
        let name = node.key.name();
        let readiness = readiness(view, hub, node, now)?;
        if self.0.get(name) == Some(&(node.revision, readiness)) {
            return None;
        }
        let request = status::ready(view, user, name, readiness, &rfc3339(now));
        if request.is_none() {
            self.0.insert(name.into(), (node.revision, readiness));
        }
        request
    }

    fn forget(&mut self, hub: &Hub, name: &str) {
        hub.forget(name);
        self.0.remove(name);
    }
}

/// Those who fall silent together are noted together; where that is refused, each alone.
async fn note(door: &dyn Door, changed: Vec<Request>) {
    for together in changed.chunks(TOGETHER_MAX) {
        if door.submit(together.to_vec()).await.is_ok() {
            let nodes: Vec<&str> = together.iter().map(|request| &*request.target.name).collect();
            tracing::info!(?nodes, "whether nodes live has changed");
            continue;
        }
        for request in together {
            if let Err(status) = door.submit(vec![request.clone()]).await {
                let node = &*request.target.name;
                tracing::warn!(node, %status, "could not note whether the node lives");
            }
        }
    }
}

/// Nodes noted in one transaction.
const TOGETHER_MAX: usize = 100;

/// Gives every node of ours the benefit of the doubt when a server begins to lead.
pub fn assume_alive(hub: &Hub, view: &View) {
    hub.has_nodes(view.count(&NODES));
    let nodes = view.objects(&NODES, None).filter(|node| is_ours(node));
    nodes.for_each(|node| hub.assume_alive(node.key.name()));
}

/// Whether an agent of ours runs it. Others, such as a kubelet, hold no session here.
fn is_ours(node: &Object) -> bool {
    let Ok(node) = node.decoded::<Node>() else { return false };
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| info.kubelet_version.contains("+copepod"))
}

/// What the leader thinks of a node. A node that is not ours says itself that it is ready, and shows that it lives by
/// renewing its lease; one without a lease is believed.
fn readiness(view: &View, hub: &Hub, node: &Object, now: Timestamp) -> Option<Readiness> {
    let name = node.key.name();
    let patience = hub.patience(name);
    if patience.is_some() || is_ours(node) {
        let alive = patience.is_some_and(|patience| !patience.is_zero());
        return Some(if alive { Readiness::Alive } else { Readiness::Silent });
    }
    let lease = view.get::<Lease>(LEASES_NAMESPACE, name)?;
    let spec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref()?.0;
    let good_for =
        Duration::from_secs(spec.lease_duration_seconds.and_then(|s| s.try_into().ok()).unwrap_or(LEASE_SECONDS));
    (renewed + good_for < now).then_some(Readiness::Silent)
}

/// When some node that lives may have been silent for too long.
fn next_look(hub: &Hub, view: &View) -> Duration {
    let patience = view.objects(&NODES, None).filter_map(|node| hub.patience(node.key.name()));
    patience.filter(|patience| !patience.is_zero()).min().unwrap_or(SILENCE_MAX).min(SILENCE_MAX).max(REST)
}
