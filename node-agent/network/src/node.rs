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
    dns::{Names, Server},
    elements::state,
    link,
    pods::{Pods, Wishes},
    policies::{self, Policies},
    routes::{self, Route},
    services::{HostPort, Service},
    table::Table,
    tunnel,
};

pub struct Config {
    /// Where is written down which pod has which address.
    pub state_dir: PathBuf,
    /// Name servers for names outside the cluster.
    pub upstream: Vec<SocketAddr>,
}

/// A pod to be connected.
#[derive(Clone, Debug)]
pub struct PodLink {
    pub uid: String,
    pub wishes: Wishes,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("{what}: {error}")]
    Netlink { what: &'static str, error: rtnetlink::Error },
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
    /// What was given last, and what the kernel holds of it.
    given: tokio::sync::Mutex<Given>,
}

struct Given {
    /// `None` until somebody has said what services there are. So long the kernel keeps what it has.
    services: Option<Vec<Service>>,
    policies: Policies,
    pods: Pods,
    host_ports: BTreeMap<String, (Ipv4Addr, Vec<HostPort>)>,
    table: Table,
    /// Ways to the pods of other nodes as they were found last, and to whom this process has made one.
    routes: BTreeSet<Route>,
    peers: BTreeMap<Range, Ipv4Addr>,
}

impl Network {
    /// Takes the network over as it is. Pods that are connected stay so, and services go on being served as they were
    /// until `set_services` says what there is.
    pub async fn open(config: Config) -> Result<Network, NetworkError> {
        link::sysctl("ip_forward", "1")?;
        let handle = link::connect()?;
        link::own(&handle, DNS_ADDRESS).await?;
        let dns = Server::start((DNS_ADDRESS, 53).into(), config.upstream).await?;
        let directory = config.state_dir.join("addresses");
        let addresses = Addresses::open(&directory).map_err(|error| NetworkError::io(directory.display(), error))?;
        let directory = config.state_dir.join("pods");
        let pods = Pods::open(&directory).map_err(|error| NetworkError::io(directory.display(), error))?;
        let mut host_ports = BTreeMap::new();
        for (pod, wishes) in pods.all() {
            let Some(address) = addresses.of(pod) else { continue };
            dns.set_search(address, Some(wishes.search.clone()));
            if !wishes.host_ports.is_empty() {
                host_ports.insert(pod.to_owned(), (address, wishes.host_ports.clone()));
            }
        }
        let routes = routes::held(&handle).await?;
        let (table, peers) = (Table::default(), BTreeMap::new());
        let given = Given { services: None, policies: Policies::default(), pods, host_ports, table, routes, peers };
        Ok(Network {
            handle,
            dns,
            addresses: Mutex::new(addresses),
            range: Mutex::default(),
            given: tokio::sync::Mutex::new(given),
        })
    }

    /// Gives a pod its link and address; asked again, the same.
    pub async fn attach(&self, pod: &PodLink, netns: &Path) -> Result<Ipv4Addr, NetworkError> {
        let range = (*self.range.lock().unwrap_or_else(PoisonError::into_inner)).ok_or(NetworkError::NoRange)?;
        let taken = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take(&pod.uid, range);
        let address = taken
            .map_err(|error| NetworkError::io("writing an address down", error))?
            .ok_or_else(|| NetworkError::Full(range.to_string()))?;
        link::attach(&self.handle, &pod.uid, netns, address, self.mtu().await).await?;
        self.know(pod, address).await?;
        Ok(address)
    }

    async fn know(&self, pod: &PodLink, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.dns.set_search(address, Some(pod.wishes.search.clone()));
        let mut given = self.given.lock().await;
        let kept = given.pods.keep(&pod.uid, &pod.wishes);
        kept.map_err(|error| NetworkError::io("writing down what a pod asks for", error))?;
        let ports = (address, pod.wishes.host_ports.clone());
        if ports.1.is_empty() || given.host_ports.get(&pod.uid) == Some(&ports) {
            return Ok(());
        }
        given.host_ports.insert(pod.uid.clone(), ports);
        given.tell()
    }

    pub async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        link::detach(&self.handle, uid).await?;
        {
            let mut given = self.given.lock().await;
            if given.host_ports.remove(uid).is_some() {
                given.tell()?;
            }
            given.pods.forget(uid).map_err(|error| NetworkError::io("forgetting what a pod asked for", error))?;
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
    pub async fn set_nodes(
        &self,
        own: Option<(Range, Ipv4Addr)>,
        wanted: &BTreeMap<Range, Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        if let Some((range, _)) = own {
            *self.range.lock().unwrap_or_else(PoisonError::into_inner) = Some(range);
        }
        let mut given = self.given.lock().await;
        // Routes go with a link that was down for a moment, and nobody brings them back.
        given.routes = routes::held(&self.handle).await?;
        let gone: Vec<Route> =
            given.routes.iter().filter(|route| !wanted.contains_key(&route.range)).copied().collect();
        for route in gone {
            routes::remove(&self.handle, route).await;
            given.peers.remove(&route.range);
        }
        let mut failed = None;
        let routed: BTreeSet<Range> = given.routes.iter().map(|route| route.range).collect();
        for (&range, &address) in wanted {
            let is_routed = routed.contains(&range);
            if is_routed && given.peers.get(&range) == Some(&address) {
                continue;
            }
            match self.reach(&mut given, own, range, address).await {
                Ok(()) => drop(given.peers.insert(range, address)),
                // The others are reached all the same.
                Err(error) => {
                    failed.get_or_insert(NetworkError::Other(format!("{range} at {address}: {error}")));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Makes the way to the pods of another node, in the place of another way to them.
    async fn reach(
        &self,
        given: &mut Given,
        own: Option<(Range, Ipv4Addr)>,
        range: Range,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let hop = if routes::is_near(&self.handle, address).await? { address } else { range.base };
        let route = Route { range, hop };
        let tunnel = match route.is_tunnel() {
            true => {
                let tunnel = tunnel::open(&self.handle, own.ok_or(NetworkError::NoRange)?, self.mtu().await).await?;
                tunnel::know(&self.handle, tunnel, range, address).await?;
                Some(tunnel)
            }
            false => None,
        };
        routes::add(&self.handle, route, tunnel).await?;
        let others: Vec<Route> =
            given.routes.iter().filter(|held| held.range == range && **held != route).copied().collect();
        for other in others {
            routes::remove(&self.handle, other).await;
        }
        Ok(())
    }

    /// How large packets may be that leave this machine.
    async fn mtu(&self) -> Option<u32> {
        let uplink = routes::uplink(&self.handle).await?;
        link::mtu(&self.handle, uplink).await
    }

    /// All services, and who may speak to whom. When it returns, every new connection on this node sees them.
    pub async fn set_services(&self, services: Vec<Service>, policies: Policies) -> Result<(), NetworkError> {
        let mut given = self.given.lock().await;
        if given.services.as_ref() != Some(&services) {
            self.dns.set_names(Names::of(&services));
        }
        given.services = Some(services);
        given.policies = policies;
        given.tell()
    }

    /// Takes away everything that was made here, by whatever process.
    pub async fn tear_down() -> Result<(), NetworkError> {
        let handle = link::connect()?;
        for route in routes::held(&handle).await? {
            routes::remove(&handle, route).await;
        }
        tunnel::remove(&handle).await?;
        link::remove_all(&handle).await?;
        link::disown(&handle, DNS_ADDRESS).await?;
        Table::remove()
    }
}

impl Given {
    fn tell(&mut self) -> Result<(), NetworkError> {
        let Some(services) = &self.services else { return Ok(()) };
        let host_ports = self.host_ports.values().map(|(pod, ports)| (*pod, ports.as_slice()));
        let mut state = state(services, host_ports);
        policies::add(&mut state, &self.policies);
        self.table.apply(state)
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
