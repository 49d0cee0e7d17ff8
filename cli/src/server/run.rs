//! `copepod server` without a verb: one server of the control plane.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use copepod_control_plane::{JoinServer, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::DATA_DIR;
use crate::failure::{Failure, Outcome};

#[derive(Args)]
pub struct Run {
    /// Name of this server, unique among the servers [default: the host's name]
    #[arg(long, env = "COPEPOD_NAME")]
    name: Option<String>,
    /// Where the replicated log, snapshots and keys are kept
    #[arg(long, env = "COPEPOD_DATA_DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Address and port to listen on, for clients, nodes and other servers
    #[arg(long, env = "COPEPOD_LISTEN", default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// host:port under which others reach this server [default: the address of the way out, and the port of --listen]
    #[arg(long, env = "COPEPOD_ADVERTISE")]
    advertise: Option<String>,
    /// host:port of a server of the cluster to join; without it a new cluster begins
    #[arg(long, env = "COPEPOD_JOIN", requires = "token")]
    join: Option<String>,
    /// Token for servers, from `copepod token create --role server`
    #[arg(long, env = "COPEPOD_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

pub async fn run(server: Run, stop: CancellationToken) -> Outcome {
    let advertise = match server.advertise {
        Some(advertise) => advertise,
        None if !server.listen.ip().is_unspecified() => server.listen.to_string(),
        None => super::own_address(server.listen.port())?,
    };
    let config = ServerConfig {
        name: server.name.map_or_else(crate::agent::host_name, Ok)?,
        data_dir: server.data_dir,
        listen: server.listen,
        advertise,
        join: server.join.zip(server.token).map(|(server, token)| JoinServer { server, token }),
    };
    copepod_control_plane::run(config, stop).await.map_err(|error| Failure::new(error.to_string()))
}
