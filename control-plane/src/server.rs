//! A server, assembled.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use copepod_api::Timestamp;
use copepod_apiserver::{Forwarder, Webhooks};
use copepod_identity::Authority;
use copepod_nodes::{Hub, NodeFront};
use copepod_proto::nodes::nodes_server::NodesServer;
use copepod_replica::{Member, Replica};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    ServerError,
    admission::Admission,
    door::ServerDoor,
    join,
    keys::{Keys, write_private},
    leading::{self, Means},
    links::Links,
    logs::NodeTunnels,
    operations::{self, Operations},
    packing,
    peers::{PeerFront, PeerTransport},
};

pub struct ServerConfig {
    /// Unique among the servers.
    pub name: String,
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// `host:port` under which nodes, clients and other servers reach this one.
    pub advertise: String,
    /// A cluster to become part of; without it, and with an empty disk, a new cluster begins.
    pub join: Option<JoinServer>,
}

#[derive(Clone, Debug)]
pub struct JoinServer {
    /// `host:port` of any server of the cluster.
    pub server: String,
    pub token: String,
}

/// The host of `host:port` or `[host]:port`.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

/// Runs a server until `stop`, which hands leadership over first.
pub async fn run(config: ServerConfig, stop: CancellationToken) -> Result<(), ServerError> {
    let keys = Keys::in_directory(config.data_dir.join("keys"))?;
    let place = join::place(&config, &keys).await?;
    let (certificate, key) = keys.authority()?.ok_or_else(|| {
        ServerError::keys(config.data_dir.join("keys/authority.crt"), "is missing although this server has state")
    })?;
    let authority = Arc::new(Authority::from_pem(&certificate, &key).map_err(identity)?);
    // Issued at each start and in memory only: a server holds the authority's key anyway, so its own certificate needs
    // no life beyond the process.
    let issued = authority.issue_server(&config.name, host(&config.advertise), Timestamp::now()).map_err(identity)?;
    let admin = join::admin_kubeconfig(&config, &authority)?;
    write_private(&config.data_dir.join("admin.kubeconfig"), admin.as_bytes())?;

    let listener = TcpListener::bind(config.listen).await.map_err(|error| listening(&config, error))?;
    let links = Links::new(&certificate, &issued.certificate_pem, &issued.key_pem);
    let replica = Replica::open(
        copepod_replica::Config {
            id: place.id,
            data_dir: config.data_dir.join("raft"),
            name: config.name.clone(),
            address: config.advertise.clone(),
            bootstrap: place.founds,
            contacts: place.contacts.iter().map(Member::from).collect(),
        },
        Arc::new(PeerTransport::new(links)),
    )?;
    let hub = Hub::new();
    let tunnels = Arc::new(NodeTunnels::new(hub.clone()));
    let door = ServerDoor::open(replica.clone(), Webhooks::new(tunnels.clone()));
    let admission = Arc::new(Admission::new(authority.clone(), keys.clone(), door.clone(), replica.clone()));

    let nodes = NodeFront::new(door.clone(), hub, admission.clone());
    let peers = PeerFront { replica: replica.clone(), admission };
    let grpc =
        tonic::service::Routes::new(NodesServer::new(nodes.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(peers.service())
            .prepare();
    let tls = copepod_identity::server_config(&certificate, &issued).map_err(identity)?;
    let own = Some((issued.certificate_pem.as_str(), issued.key_pem.as_str()));
    let forwarder = Forwarder::new(copepod_identity::client_config(&certificate, own).map_err(identity)?);
    let front = copepod_apiserver::Config { forwarder: Some(forwarder) };
    let rest = copepod_apiserver::router(door.clone(), tunnels.clone(), front);
    let own = Operations { name: config.name.clone(), replica: replica.clone(), door: door.clone(), keys };
    let router = grpc.into_axum_router().reset_fallback().merge(operations::router(own)).merge(rest);

    let packing = tokio::spawn(packing::run(door.clone()));
    let means = Means { replica: replica.clone(), door, nodes, tunnels, authority };
    let loops = tokio::spawn(leading::while_leading(means));
    tracing::info!(name = config.name, address = config.advertise, "the server is up");
    let removed = tokio::spawn(stop_when_removed(replica.clone(), place.id, stop.clone()));
    copepod_apiserver::serve(listener, Arc::new(ArcSwap::from_pointee(tls)), router, stop).await;

    loops.abort();
    packing.abort();
    replica.transfer_leadership(None).await;
    replica.shutdown().await;
    match removed.is_finished() {
        true => Err(ServerError::Removed { path: config.data_dir }),
        false => Ok(()),
    }
}

/// Ends when the cluster has removed this server, which serves nobody from then on.
async fn stop_when_removed(replica: Replica, id: u64, stop: CancellationToken) {
    let mut members = replica.membership();
    // One that joins knows no members yet, and the first that it hears of include it.
    let is_out = |members: &Arc<Vec<Member>>| !members.is_empty() && members.iter().all(|member| member.id != id);
    let was_removed = members.wait_for(is_out).await.is_ok();
    if !was_removed {
        // It stops for another reason.
        std::future::pending::<()>().await;
    }
    stop.cancel();
}

/// Deltas to nodes carry whole object sets after a reset, status batches those of a full node.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

fn identity(error: impl std::fmt::Display) -> ServerError {
    ServerError::Identity(error.to_string())
}

fn listening(config: &ServerConfig, error: std::io::Error) -> ServerError {
    ServerError::Listen { address: config.listen, cause: error.to_string() }
}
