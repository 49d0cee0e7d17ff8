//! What only the leader does: begun when this server leads, dropped as a whole when it no longer does.

use std::sync::Arc;

use copepod_apiserver::Tunnels;
use copepod_identity::Authority;
use copepod_nodes::NodeFront;
use copepod_replica::Replica;
use copepod_store::Door;

use crate::{
    bootstrap, driver, keyed,
    registrations::{self, Local},
    scheduling,
};

/// What the work of a leader is done with.
pub struct Means {
    pub replica: Replica,
    pub door: Arc<dyn Door>,
    pub nodes: NodeFront,
    pub tunnels: Arc<dyn Tunnels>,
    pub authority: Arc<Authority>,
}

pub async fn while_leading(means: Means) {
    let Means { replica, door, nodes, tunnels, authority } = means;
    let controllers = copepod_controllers::ALL.iter().map(|controller| Box::new(controller) as Box<dyn driver::Job>);
    let jobs: Vec<Box<dyn driver::Job>> =
        controllers.chain(keyed::jobs(&authority)).chain([Box::new(Local) as _]).collect();
    let mut role = replica.role();
    loop {
        let Ok(leading) = role.wait_for(|role| role.leading).await.map(|role| role.clone()) else { return };
        tracing::info!(term = leading.term, "this server leads");
        tokio::select! {
            lost = role.wait_for(|role| !role.leading || role.term != leading.term) => if lost.is_err() { return },
            () = bootstrap::run(door.clone(), replica.clone()) => (),
            () = driver::run(door.clone(), &jobs) => (),
            () = scheduling::run(door.clone()) => (),
            () = registrations::run(door.clone(), tunnels.clone()) => (),
            () = nodes.lead() => (),
        }
        nodes.stop_leading();
        tracing::info!(term = leading.term, "this server leads no more");
    }
}
