//! Who lives. The leader hears heartbeats and writes only when it changes its mind about a node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::{
    Of, Timestamp, User,
    k8s_openapi::api::{coordination::v1::Lease, core::v1::Node},
    resource::NODES,
    time::rfc3339,
};
use copepod_store::{Door, EventKind, View};

use crate::{
    Hub,
    hub::SILENCE_MAX,
    status::{self, Readiness},
};

/// Where kubelets renew their leases, and how long one is good for that does not say.
const LEASES_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: u64 = 40;

/// Watches over the nodes while this server leads; dropped when it no longer does.
pub async fn watch_silence(door: Arc<dyn Door>, hub: Arc<Hub>) {
    tokio::select! {
        () = watch(door, hub.clone()) => (),
        () = hub.count() => (),
    }
}

async fn watch(door: Arc<dyn Door>, hub: Arc<Hub>) {
    let user = User::system("system:node-front");
    let view = door.view();
    assume_alive(&hub, &view);
    let mut nodes = door.watch(Some(NODES), view.revision());
    loop {
        let view = door.view();
        let now = rfc3339(Timestamp::now());
        let mut changed = Vec::new();
        for node in view.list::<Node>(None) {
            if let Some(readiness) = readiness(&view, &hub, &node, Timestamp::now()) {
                changed.extend(status::ready(&view, &user, node.key().name(), readiness, &now));
            }
        }
        for request in changed {
            let (name, outcome) = (request.target.name.clone(), door.submit(vec![request]).await);
            match outcome {
                Ok(_) => tracing::info!(node = &*name, "whether the node lives has changed"),
                Err(status) => tracing::warn!(node = &*name, %status, "could not note whether the node lives"),
            }
        }
        let next = next_look(&hub, &door.view());
        tokio::select! {
            () = tokio::time::sleep(next) => (),
            events = nodes.next() => match events {
                Ok(events) => events
                    .iter()
                    .filter(|event| event.kind == EventKind::Deleted)
                    .for_each(|event| hub.forget(event.object.key.name())),
                Err(_) => nodes = door.watch(Some(NODES), door.view().revision()),
            },
        }
    }
}

/// Gives every node of ours the benefit of the doubt when a server begins to lead.
pub(crate) fn assume_alive(hub: &Hub, view: &View) {
    let nodes = view.list::<Node>(None).filter(|node| is_ours(node)).map(|node| node.key().name().to_owned());
    nodes.for_each(|name| hub.assume_alive(&name));
}

/// Whether an agent of ours runs it. Others, such as a kubelet, hold no session here.
fn is_ours(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| info.kubelet_version.contains("+copepod"))
}

/// What the leader thinks of a node. A node that is not ours says itself that it is ready, and shows that it lives by
/// renewing its lease; one without a lease is believed.
fn readiness(view: &View, hub: &Hub, node: &Of<Node>, now: Timestamp) -> Option<Readiness> {
    let name = node.key().name();
    if is_ours(node) || hub.last_seen(name).is_some() {
        let alive = hub.last_seen(name).is_some_and(|at| at.elapsed() <= SILENCE_MAX);
        return Some(if alive { Readiness::Alive } else { Readiness::Silent });
    }
    let lease = view.get::<Lease>(LEASES_NAMESPACE, name)?;
    let spec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref()?.0;
    let good_for =
        Duration::from_secs(spec.lease_duration_seconds.and_then(|s| s.try_into().ok()).unwrap_or(LEASE_SECONDS));
    (renewed + good_for < now).then_some(Readiness::Silent)
}

/// The first moment at which some node that lives may have been silent for too long. Bounded below, so that a node at
/// the edge does not make this a busy loop.
fn next_look(hub: &Hub, view: &View) -> Duration {
    let now = Instant::now();
    view.objects(&NODES, None)
        .filter_map(|node| hub.last_seen(node.key.name()))
        .filter(|at| at.elapsed() <= SILENCE_MAX)
        .map(|at| (at + SILENCE_MAX).saturating_duration_since(now))
        .min()
        .unwrap_or(SILENCE_MAX)
        .max(Duration::from_millis(50))
}
