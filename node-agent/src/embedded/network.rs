//! The pod network of this machine, told of the cluster's objects.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use copepod_network::{
    Config, DnsConfig, DnsPolicy, Endpoint, Host, HostPort, Network as Node, NetworkError, PodLink, Protocol, Search,
    Service, ServicePort, Wishes, resolv_conf, upstream,
};
use k8s_openapi::{
    api::core::v1::{self, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::policies::policies;
use crate::{
    AgentConfig, AgentError,
    surface::{Cluster, Failure, Network, PodNetwork, PodRef, Slice},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The API's default for the time of ClientIP affinity.
const AFFINITY_SECONDS: u64 = 10800;

pub struct PodsNetwork {
    node: Node,
    name: String,
    /// What was said last, and the pods that were attached here. A pod is known here before the cluster knows its address,
    /// and must not be open until then.
    known: tokio::sync::Mutex<Known>,
}

#[derive(Default)]
struct Known {
    cluster: Option<Cluster>,
    pods: BTreeMap<String, Pod>,
}

impl PodsNetwork {
    pub async fn open(config: &AgentConfig) -> Result<PodsNetwork, AgentError> {
        let opened = Node::open(Config {
            state_dir: config.data_dir.join("network"),
            upstream: upstream(Path::new(RESOLV_CONF)),
        });
        let node = opened.await.map_err(|error| AgentError::Room { room: "network", reason: error.to_string() })?;
        Ok(PodsNetwork { node, name: config.name.clone(), known: tokio::sync::Mutex::default() })
    }
}

impl PodsNetwork {
    /// Isolates a pod, if policies select it, before anything runs in it.
    async fn meet(&self, pod: &PodNetwork, address: Ipv4Addr) -> Result<(), Failure> {
        let mut known = self.known.lock().await;
        known.pods.insert(pod.pod.uid.clone(), seen_by_policies(&pod.object, address));
        match &known.cluster {
            Some(cluster) if !cluster.policies.is_empty() => self.tell(cluster, &known.pods).await,
            _ => Ok(()),
        }
    }

    async fn tell(&self, cluster: &Cluster, pods: &BTreeMap<String, Pod>) -> Result<(), Failure> {
        let policies = policies(cluster, &self.name, pods.values());
        self.node.set_services(services(cluster), policies).await.map_err(failure)
    }
}

/// What policies ask of a pod, and nothing else: it stays here as long as the pod does.
fn seen_by_policies(pod: &Pod, address: Ipv4Addr) -> Pod {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let container =
        |own: &v1::Container| v1::Container { name: own.name.clone(), ports: own.ports.clone(), ..Default::default() };
    Pod {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            labels: meta.labels.clone(),
            ..ObjectMeta::default()
        },
        spec: spec.map(|spec| v1::PodSpec {
            host_network: spec.host_network,
            init_containers: spec.init_containers.as_ref().map(|own| own.iter().map(container).collect()),
            containers: spec.containers.iter().map(container).collect(),
            ..v1::PodSpec::default()
        }),
        status: Some(v1::PodStatus {
            pod_ips: Some(vec![v1::PodIP { ip: address.to_string() }]),
            ..v1::PodStatus::default()
        }),
    }
}

#[tonic::async_trait]
impl Network for PodsNetwork {
    async fn attach(&self, pod: &PodNetwork, netns: &Path) -> Result<Vec<IpAddr>, Failure> {
        let address = self.node.attach(&link(pod), netns).await.map_err(failure)?;
        self.meet(pod, address).await?;
        Ok(vec![IpAddr::V4(address)])
    }

    async fn detach(&self, pod: &PodRef) -> Result<(), Failure> {
        self.known.lock().await.pods.remove(&pod.uid);
        self.node.detach(&pod.uid).await.map_err(failure)
    }

    async fn adopt(&self, pod: &PodNetwork, addresses: &[IpAddr]) -> Result<(), Failure> {
        match addresses.first() {
            Some(IpAddr::V4(address)) => {
                self.node.adopt(&link(pod), *address).await.map_err(failure)?;
                self.meet(pod, *address).await
            }
            _ => Ok(()),
        }
    }

    async fn apply(&self, cluster: &Cluster) -> Result<(), Failure> {
        // One node that cannot be reached must not keep the services of all others from being known.
        let routed = self.node.set_nodes(cluster.peers.own, &cluster.peers.others).await;
        let mut known = self.known.lock().await;
        self.tell(cluster, &known.pods).await?;
        known.cluster = Some(cluster.clone());
        drop(known);
        // What services there are is known here now, and said so; a route that is missing is tried again with the next
        // change, and must not hold up the stop of pods.
        if let Err(error) = routed {
            tracing::warn!(%error, "pods of another node cannot be reached");
        }
        Ok(())
    }

    fn resolv_conf(&self, pod: &Pod) -> String {
        let spec = pod.spec.as_ref();
        let on_host = spec.and_then(|spec| spec.host_network) == Some(true);
        let policy = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
            Some("None") => DnsPolicy::None,
            Some("Default") => DnsPolicy::Default,
            Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirst,
            _ if on_host => DnsPolicy::Default,
            _ => DnsPolicy::ClusterFirst,
        };
        let said = spec.and_then(|spec| spec.dns_config.as_ref());
        let config = DnsConfig {
            nameservers: said.and_then(|said| said.nameservers.clone()).unwrap_or_default(),
            searches: said.and_then(|said| said.searches.clone()).unwrap_or_default(),
            options: said
                .and_then(|said| said.options.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|option| {
                    let name = option.name.clone()?;
                    Some(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")))
                })
                .collect(),
        };
        let of_node = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        resolv_conf(policy, pod.metadata.namespace.as_deref().unwrap_or("default"), &of_node, &config)
    }
}

fn link(pod: &PodNetwork) -> PodLink {
    let host_ports = pod.host_ports.iter().filter_map(|port| {
        let host_ip = match port.host_ip {
            Some(IpAddr::V4(address)) => Some(address),
            // An address that this network has not; all addresses would be more than was asked for.
            Some(IpAddr::V6(_)) => return None,
            None => None,
        };
        let protocol = protocol(&port.protocol);
        Some(HostPort { protocol, host_ip, host_port: port.host_port, container_port: port.container_port })
    });
    let wishes = Wishes { host_ports: host_ports.collect(), search: Search::of(&pod.resolv_conf) };
    PodLink { uid: pod.pod.uid.clone(), wishes }
}

fn failure(error: NetworkError) -> Failure {
    Failure(error.to_string())
}

pub fn protocol(name: &str) -> Protocol {
    match name {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// Services with the endpoints of their slices.
fn services(cluster: &Cluster) -> Vec<Service> {
    let mut slices: BTreeMap<(&str, &str), Vec<&Slice>> = BTreeMap::new();
    for slice in cluster.slices.values() {
        slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    cluster
        .services
        .values()
        .filter_map(|service| {
            let (namespace, name) = (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
            let own = slices.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
            known(service, namespace, name, own)
        })
        .collect()
}

fn known(service: &v1::Service, namespace: &str, name: &str, slices: &[&Slice]) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().map(|port| {
        let named = port.name.as_deref().unwrap_or_default();
        let wire = port.protocol.as_deref().unwrap_or("TCP");
        ServicePort {
            name: named.to_owned(),
            protocol: protocol(wire),
            port: u16::try_from(port.port).unwrap_or_default(),
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
            endpoints: slices.iter().flat_map(|slice| endpoints(slice, named, wire)).collect(),
        }
    });
    let address = spec.cluster_ip.as_deref().and_then(|address| address.parse().ok());
    let is_headless = address.is_none();
    Some(Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        address,
        ports: ports.collect(),
        hosts: slices.iter().filter(|_| is_headless).flat_map(|slice| hosts(slice)).collect(),
        external_name: spec.external_name.clone().filter(|_| spec.type_.as_deref() == Some("ExternalName")),
        outside_stays: spec.external_traffic_policy.as_deref() == Some("Local"),
        inside_stays: spec.internal_traffic_policy.as_deref() == Some("Local"),
        affinity: affinity(spec),
    })
}

/// How long a client is led to where it was led before.
fn affinity(spec: &v1::ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| u64::try_from(config.timeout_seconds?).ok()).filter(|seconds| *seconds > 0);
    Some(Duration::from_secs(seconds.unwrap_or(AFFINITY_SECONDS)))
}

/// A slice names its ports as the service does.
fn endpoints(slice: &Slice, port_name: &str, wire: &str) -> Vec<Endpoint> {
    let port = slice.ports.iter().find(|port| port.name == port_name && port.protocol == wire);
    let Some(port) = port.and_then(|port| u16::try_from(port.port).ok()) else { return Vec::new() };
    let listed = slice.endpoints.iter().map(|(address, endpoint)| Endpoint {
        address: *address,
        port,
        is_local: endpoint.is_local,
        is_ready: endpoint.is_ready,
        is_leaving: endpoint.is_leaving,
    });
    listed.collect()
}

/// Everybody who takes requests, or whose service publishes those that do not (their slices call them ready).
fn hosts(slice: &Slice) -> Vec<Host> {
    let ready = slice.endpoints.iter().filter(|(_, endpoint)| endpoint.is_ready);
    ready
        .map(|(address, endpoint)| Host {
            address: *address,
            hostname: endpoint.hostname.as_deref().map(str::to_owned),
        })
        .collect()
}
