//! What only the leader does: begun when this server leads, dropped as a whole when it no longer does.

use std::{sync::Arc, time::Duration};

use copepod_apiserver::Tunnels;
use copepod_identity::Authority;
use copepod_nodes::NodeFront;
use copepod_replica::Replica;
use copepod_store::Door;
use tokio::task::JoinSet;

use crate::{
    bootstrap, driver, keyed,
    registrations::{self, Local},
    scheduling,
};

/// Before what has failed begins anew, so that one that fails at once does not keep the server busy.
const RETRY: Duration = Duration::from_secs(1);

/// What the work of a leader is done with.
pub struct Means {
    pub replica: Replica,
    pub door: Arc<dyn Door>,
    pub nodes: NodeFront,
    pub tunnels: Arc<dyn Tunnels>,
    pub authority: Arc<Authority>,
}

pub async fn while_leading(means: Means) {
    let mut role = means.replica.role();
    loop {
        let Ok(leading) = role.wait_for(|role| role.leading).await.map(|role| role.clone()) else { return };
        tracing::info!(term = leading.term, "this server leads");
        let mut loops = begin(&means);
        let is_over = tokio::select! {
            lost = role.wait_for(|role| !role.leading || role.term != leading.term) => Some(lost.is_err()),
            // None of them ends by itself; if one fails, all begin anew.
            ended = loops.join_next() => {
                tracing::error!(?ended, "what a leader does has failed, and begins anew");
                None
            }
        };
        // Whoever leads next, perhaps this server, must not meet them.
        loops.shutdown().await;
        means.nodes.stop_leading();
        match is_over {
            Some(true) => return,
            Some(false) => (),
            None => tokio::time::sleep(RETRY).await,
        }
        tracing::info!(term = leading.term, "this server leads no more");
    }
}

/// Each is a task of its own: the scheduler may think for a second about thousands of pods, and whoever reads the log of
/// events meanwhile must not fall behind.
fn begin(means: &Means) -> JoinSet<()> {
    let Means { replica, door, nodes, tunnels, authority } = means;
    let controllers = copepod_controllers::ALL.iter().map(|controller| Box::new(controller) as Box<dyn driver::Job>);
    let jobs: Vec<Box<dyn driver::Job>> =
        controllers.chain(keyed::jobs(authority)).chain([Box::new(Local) as _]).collect();
    let mut loops = JoinSet::new();
    loops.spawn(bootstrap::run(door.clone(), replica.clone()));
    loops.spawn(driver::run(door.clone(), jobs));
    loops.spawn(scheduling::run(door.clone()));
    loops.spawn(registrations::run(door.clone(), tunnels.clone()));
    loops.spawn({
        let nodes = nodes.clone();
        async move { nodes.lead().await }
    });
    loops
}
