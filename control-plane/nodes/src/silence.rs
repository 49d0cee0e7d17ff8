//! Who lives. The leader hears heartbeats and writes only when it changes its mind about a node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::{Timestamp, User, k8s_openapi::api::core::v1::Node, resource::NODES, time::rfc3339};
use copepod_store::{Door, EventKind, View};

use crate::{
    Hub,
    hub::SILENCE_MAX,
    status::{self, Readiness},
};

/// Watches over the nodes while this server leads; dropped when it no longer does.
pub async fn watch_silence(door: Arc<dyn Door>, hub: Arc<Hub>) {
    let user = User::system("system:node-front");
    let view = door.view();
    hub.assume_alive(view.objects(&NODES, None).map(|node| node.key.name()));
    let mut nodes = door.watch(Some(NODES), view.revision());
    loop {
        let view = door.view();
        let now = rfc3339(Timestamp::now());
        let mut changed = Vec::new();
        for node in view.list::<Node>(None) {
            let name = node.key().name();
            changed.extend(status::ready(&view, &user, name, readiness(&hub, name), &now));
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

fn readiness(hub: &Hub, node: &str) -> Readiness {
    let alive = hub.last_seen(node).is_some_and(|at| at.elapsed() <= SILENCE_MAX);
    if alive { Readiness::Alive } else { Readiness::Silent }
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
