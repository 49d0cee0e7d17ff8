//! `copepod agent`: makes this machine a node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    path::PathBuf,
};

use clap::Args;
use copepod_node_agent::{AgentConfig, RuntimeChoice};
use tokio_util::sync::CancellationToken;

use crate::failure::{Doing, Failure, Outcome};

#[derive(Args)]
pub struct Agent {
    /// Name of the node [default: the host's name]
    #[arg(long, env = "COPEPOD_NAME")]
    name: Option<String>,
    /// host:port of any server; needed for the first start
    #[arg(long, env = "COPEPOD_SERVER")]
    server: Option<String>,
    /// Token for nodes, from `copepod token create`; needed for the first start
    #[arg(long, env = "COPEPOD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Where assignments, volumes, logs and container state are kept
    #[arg(long, env = "COPEPOD_DATA_DIR", default_value = "/var/lib/copepod/agent")]
    data_dir: PathBuf,
    /// Where namespaces are pinned and sockets live
    #[arg(long, env = "COPEPOD_RUN_DIR", default_value = "/run/copepod")]
    run_dir: PathBuf,
    /// Where images are kept; may be shared by several agents of one machine
    #[arg(long, env = "COPEPOD_IMAGES_DIR", default_value = "/var/lib/copepod/images")]
    images_dir: PathBuf,
    /// Name of the cgroup of its containers [default: the node's name]
    #[arg(long, hide = true)]
    cgroup: Option<String>,
    /// Address of this node on the network between nodes [default: the address of the way out]
    #[arg(long, env = "COPEPOD_ADDRESS")]
    address: Option<IpAddr>,
    /// Label of the node; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Socket of a CRI runtime to use instead of the embedded one, such as /run/containerd/containerd.sock
    #[arg(long, env = "COPEPOD_RUNTIME_SOCKET", value_name = "PATH")]
    runtime_socket: Option<PathBuf>,
    /// Mirror of a registry: docker.io=http://10.0.0.5:5000; may be given several times
    #[arg(long = "mirror", value_name = "REGISTRY=URL", value_parser = mirror)]
    mirrors: Vec<(String, String)>,
}

pub async fn run(agent: Agent, stop: CancellationToken) -> Outcome {
    let name = agent.name.map_or_else(host_name, Ok)?;
    let config = AgentConfig {
        cgroup: agent.cgroup.unwrap_or_else(|| name.clone()),
        name,
        data_dir: agent.data_dir,
        run_dir: agent.run_dir,
        images_dir: agent.images_dir,
        server: agent.server,
        token: agent.token,
        address: agent.address.or_else(way_out),
        labels: agent.labels.into_iter().collect::<BTreeMap<_, _>>(),
        runtime: agent.runtime_socket.map_or(RuntimeChoice::Embedded, RuntimeChoice::Cri),
        mirrors: agent.mirrors,
    };
    copepod_node_agent::run(config, stop).await.map_err(|error| Failure::new(error.to_string()))
}

pub fn mirror(text: &str) -> Result<(String, String), String> {
    let (registry, url) = pair(text)?;
    if registry.is_empty() || !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err("a mirror is REGISTRY=http://HOST:PORT or REGISTRY=https://HOST:PORT".to_owned());
    }
    Ok((registry, url))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub fn host_name() -> Outcome<String> {
    let name = nix::unistd::gethostname().doing("the host's name cannot be read")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The address that packets to the world leave from. Nothing is sent: connecting a UDP socket only asks for the route.
pub fn way_out() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}
