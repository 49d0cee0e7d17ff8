//! Puts the agent together and runs it.

use std::{
    fs,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex},
};

use copepod_api::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    assignments::Assignments,
    config::{AgentConfig, AgentError},
    connect::Dial,
    events::Events,
    machine::Machine,
    membership::Membership,
    node,
    reports::Reports,
    session::{self, Session},
    surface::{Cluster, Rooms},
};

/// Runs a node with the given rooms until `stop`. No container is touched by its end.
pub async fn run_with(config: AgentConfig, rooms: Rooms, stop: CancellationToken) -> Result<(), AgentError> {
    fs::create_dir_all(&config.data_dir)
        .map_err(AgentError::io(format!("the data directory {}", config.data_dir.display())))?;
    let membership = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        membership = Membership::establish(&config) => Arc::new(membership?),
    };
    let address = match config.address {
        Some(address) => address,
        None => address(&membership.servers())?,
    };
    let renewal = tokio::spawn({
        let (membership, stop) = (membership.clone(), stop.clone());
        async move { membership.keep_renewed(stop).await }
    });
    let authority = membership.authority();
    let done = drive(&config, rooms, membership, authority, address, stop).await;
    renewal.abort();
    done
}

/// The address under which other machines reach this one: the one it uses towards its servers.
fn address(servers: &[String]) -> Result<IpAddr, AgentError> {
    let found = servers.iter().find_map(|server| {
        let server = server.to_socket_addrs().ok()?.next()?;
        node::address_towards(&server.to_string()).ok()
    });
    found.ok_or_else(|| {
        AgentError::Join("the node's own address cannot be found: no server can be reached; give --address".into())
    })
}

/// The agent proper: everything but how servers are reached.
pub(crate) async fn drive(
    config: &AgentConfig,
    rooms: Rooms,
    dial: Arc<dyn Dial>,
    authority: String,
    address: IpAddr,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let opened = Assignments::open(&config.data_dir.join("assignments"), &config.name);
    let (assignments, slices, peers) = opened.map_err(AgentError::io("what this node was told"))?;
    let capacity = node::capacity(&config.data_dir);
    let version = rooms.runtime.version();
    let machine = Arc::new(Machine {
        name: config.name.clone(),
        cgroup: config.cgroup.clone(),
        data_dir: config.data_dir.clone(),
        rooms,
        host_ips: vec![address.to_string()],
        allocatable: capacity.clone(),
        authority,
        assignments: Mutex::new(assignments),
        cluster: Mutex::new(Cluster { slices, peers, ..Cluster::default() }),
        reports: Reports::default(),
        events: Events::new(&config.name),
        tokens: crate::tokens::Tokens::default(),
    });
    let object = node::object(config, address, &capacity, &version, Timestamp::now());
    let agent = Agent::start(machine).await?;
    let session = Session { agent: agent.clone(), dial, node: object.to_string().into_bytes() };
    tokio::select! {
        () = session::hold(session, stop.clone()) => (),
        () = agent.keep_data_path() => (),
        () = agent.keep_tokens() => (),
        () = agent.keep_written() => (),
        () = stop.cancelled() => (),
    }
    agent.write();
    // Workers may be in the middle of something; they end here with their runtime, and go on in the next life.
    agent.stop();
    Ok(())
}
