//! The network of one node, as the agent uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rtnetlink::Handle;

use crate::{
    DNS_ADDRESS,
    addresses::{Addresses, Range},
    dns::{Names, Search, Server},
    link,
    nft::{self, Table},
    services::{self, HostPort, Service},
};

pub struct Config {
    /// Where is written down which pod has which address.
    pub state_dir: PathBuf,
    /// Name servers for names outside the cluster.
    pub upstream: Vec<SocketAddr>,
}

/// Another node, and the range of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: Ipv4Addr,
    pub range: String,
}

/// A pod to be connected.
#[derive(Clone, Debug)]
pub struct PodLink {
    pub uid: String,
    /// The container's side of ports of the node; their address is filled in.
    pub host_ports: Vec<HostPort>,
    /// Which names the pod tries for one that is not complete.
    pub search: Search,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("{what}: {error}")]
    Netlink { what: &'static str, error: rtnetlink::Error },
    #[error("nftables: {0}")]
    Nft(String),
    #[error("the range of this node's pods is not known yet")]
    NoRange,
    #[error("all addresses of {0} are taken")]
    Full(String),
    #[error("{0}")]
    Other(String),
}

impl NetworkError {
    pub(crate) fn io(what: impl std::fmt::Display, error: std::io::Error) -> NetworkError {
        NetworkError::Io { what: what.to_string(), error }
    }

    pub(crate) fn netlink(what: &'static str, error: rtnetlink::Error) -> NetworkError {
        NetworkError::Netlink { what, error }
    }
}

pub struct Network {
    handle: Handle,
    dns: Arc<Server>,
    addresses: Mutex<Addresses>,
    range: Mutex<Option<Range>>,
    /// Services and host ports as they were given last, and what the kernel holds of them.
    given: tokio::sync::Mutex<Given>,
}

#[derive(Default)]
struct Given {
    services: Vec<Service>,
    host_ports: BTreeMap<String, Vec<HostPort>>,
    table: Table,
    routes: BTreeSet<(String, Ipv4Addr)>,
}

impl Network {
    /// Makes the rules. What pods are connected stays so; connections that are open stay open, because the kernel keeps
    /// their translations apart from the rules.
    pub async fn open(config: Config) -> Result<Network, NetworkError> {
        link::sysctl("ip_forward", "1")?;
        let handle = link::connect()?;
        link::own(&handle, DNS_ADDRESS).await?;
        nft::run(&nft::rules()).await?;
        let dns = Server::start((DNS_ADDRESS, 53).into(), config.upstream).await?;
        let directory = config.state_dir.join("addresses");
        let addresses = Addresses::open(&directory).map_err(|error| NetworkError::io(directory.display(), error))?;
        Ok(Network {
            handle,
            dns,
            addresses: Mutex::new(addresses),
            range: Mutex::default(),
            given: tokio::sync::Mutex::default(),
        })
    }

    /// Gives a pod its link and address; asked again, the same.
    pub async fn attach(&self, pod: &PodLink, netns: &Path) -> Result<Ipv4Addr, NetworkError> {
        let range = (*self.range.lock().unwrap_or_else(PoisonError::into_inner)).ok_or(NetworkError::NoRange)?;
        let taken = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take(&pod.uid, range);
        let address = taken
            .map_err(|error| NetworkError::io("writing an address down", error))?
            .ok_or_else(|| NetworkError::Full(range.to_string()))?;
        link::attach(&self.handle, &pod.uid, netns, address).await?;
        self.know(pod, address).await?;
        Ok(address)
    }

    async fn know(&self, pod: &PodLink, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.dns.set_search(address, Some(pod.search.clone()));
        if !pod.host_ports.is_empty() {
            let ports = pod.host_ports.iter().map(|port| HostPort { address, ..port.clone() }).collect();
            let mut given = self.given.lock().await;
            given.host_ports.insert(pod.uid.clone(), ports);
            given.tell().await?;
        }
        Ok(())
    }

    pub async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        link::detach(&self.handle, uid).await?;
        {
            let mut given = self.given.lock().await;
            if given.host_ports.remove(uid).is_some() {
                given.tell().await?;
            }
        }
        let released = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(uid);
        if let Some(address) = released.map_err(|error| NetworkError::io("forgetting an address", error))? {
            self.dns.set_search(address, None);
        }
        Ok(())
    }

    /// A pod that was connected before this process began.
    pub async fn adopt(&self, pod: &PodLink, address: Ipv4Addr) -> Result<(), NetworkError> {
        {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            if addresses.of(&pod.uid) != Some(address) {
                let kept = addresses.keep(&pod.uid, address);
                kept.map_err(|error| NetworkError::io("writing an address down", error))?;
            }
        }
        self.know(pod, address).await
    }

    /// The range of this node's pods, and where those of the others are.
    pub async fn set_nodes(&self, own: Option<&str>, peers: &[Peer]) -> Result<(), NetworkError> {
        if let Some(range) = own.and_then(Range::parse) {
            *self.range.lock().unwrap_or_else(PoisonError::into_inner) = Some(range);
        }
        let mut given = self.given.lock().await;
        let wanted: BTreeSet<(String, Ipv4Addr)> =
            peers.iter().map(|peer| (peer.range.clone(), peer.address)).collect();
        let gone: Vec<(String, Ipv4Addr)> = given.routes.difference(&wanted).cloned().collect();
        for (range, address) in gone {
            if let Some(range) = Range::parse(&range) {
                link::forget_route(&self.handle, range, address).await?;
            }
            given.routes.remove(&(range, address));
        }
        let added: Vec<(String, Ipv4Addr)> = wanted.difference(&given.routes).cloned().collect();
        let mut failed = None;
        for (range, address) in added {
            let Some(parsed) = Range::parse(&range) else { continue };
            match link::route_to(&self.handle, parsed, address).await {
                Ok(()) => drop(given.routes.insert((range, address))),
                // The others are reached all the same.
                Err(error) => drop(failed.get_or_insert(NetworkError::Other(format!("{range} at {address}: {error}")))),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// All services. When it returns, every new connection on this node sees them.
    pub async fn set_services(&self, services: Vec<Service>) -> Result<(), NetworkError> {
        let mut given = self.given.lock().await;
        if given.services != services {
            self.dns.set_names(Names::of(&services));
        }
        given.services = services;
        given.tell().await
    }

    /// Takes away everything that `open` and `attach` made.
    pub async fn tear_down() -> Result<(), NetworkError> {
        let handle = link::connect()?;
        link::remove_all(&handle).await?;
        link::disown(&handle, DNS_ADDRESS).await?;
        nft::run("table ip copepod {}\ndelete table ip copepod\n").await
    }
}

impl Given {
    async fn tell(&mut self) -> Result<(), NetworkError> {
        let elements = services::elements(&self.services, &self.host_ports);
        self.table.apply(elements).await
    }
}

/// The name servers of this machine, without our own.
pub fn upstream(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .filter(|address| *address != IpAddr::V4(DNS_ADDRESS))
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}
