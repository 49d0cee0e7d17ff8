//! NetworkPolicies, in addresses and numbers: what is allowed to and from each pod of this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use copepod_api::selector::LabelSelector;
use copepod_network::{Allowance, Peers, Policies, Ports, Protocol, Range};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1, util::intstr::IntOrString},
};

use super::network::protocol;
use crate::surface::Cluster;

const ALL_PORTS: (u16, u16) = (0, u16::MAX);

type ByPod = BTreeMap<Ipv4Addr, BTreeSet<Allowance>>;

/// Of every pod of this node that some policy selects: what those allow together. `attached` are pods that are here,
/// whether the cluster knows it yet or not; what it does know is newer.
pub fn policies<'a>(cluster: &'a Cluster, own_node: &str, attached: impl IntoIterator<Item = &'a Pod>) -> Policies {
    let mut policies = Policies::default();
    let listed: Vec<&Pod> = cluster.neighbours.get(own_node).into_iter().flat_map(|list| &list.items).collect();
    let known: BTreeSet<Ipv4Addr> = listed.iter().flat_map(|pod| addresses(pod)).collect();
    let only_here = attached.into_iter().filter(|pod| !addresses(pod).any(|address| known.contains(&address)));
    let local: Vec<&Pod> = only_here.chain(listed.iter().copied()).collect();
    for policy in cluster.policies.values() {
        let selected: Vec<&Pod> = local.iter().copied().filter(|pod| selects(policy, pod)).collect();
        let Some(spec) = policy.spec.as_ref().filter(|_| !selected.is_empty()) else { continue };
        let others = Others { cluster, namespace: namespace(&policy.metadata) };
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let has = |name: &str| types.iter().any(|own| own == name);
        if has("Ingress") || types.is_empty() {
            for rule in spec.ingress.iter().flatten() {
                let peers = others.of(rule.from.as_deref());
                for pod in &selected {
                    let ports = ports(rule.ports.as_deref(), pod);
                    let allowances = peers.iter().map(|peers| Allowance { peers: peers.clone(), ports: ports.clone() });
                    add(&mut policies.ingress, pod, allowances);
                }
            }
            selected.iter().for_each(|pod| add(&mut policies.ingress, pod, []));
        }
        if has("Egress") || (types.is_empty() && spec.egress.is_some()) {
            for rule in spec.egress.iter().flatten() {
                let allowances = others.reached(rule.to.as_deref(), rule.ports.as_deref());
                selected.iter().for_each(|pod| add(&mut policies.egress, pod, allowances.iter().cloned()));
            }
            selected.iter().for_each(|pod| add(&mut policies.egress, pod, []));
        }
    }
    policies
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let same = namespace(&policy.metadata) == namespace(&pod.metadata);
    same && policy.spec.as_ref().is_some_and(|spec| matches(spec.pod_selector.as_ref(), &pod.metadata))
}

fn namespace(meta: &v1::ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// One that is not there, or empty, selects all; one that cannot be read none, as a rule that is not understood must not
/// allow anything.
fn matches(selector: Option<&v1::LabelSelector>, meta: &v1::ObjectMeta) -> bool {
    let none = BTreeMap::new();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    selector.is_none_or(|selector| LabelSelector::from_typed(selector).is_ok_and(|selector| selector.matches(labels)))
}

fn addresses(pod: &Pod) -> impl Iterator<Item = Ipv4Addr> {
    let listed = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    listed.filter_map(|address| address.ip.parse().ok())
}

/// The pod is isolated, and this is allowed.
fn add(to: &mut ByPod, pod: &Pod, allowances: impl IntoIterator<Item = Allowance> + Clone) {
    for address in addresses(pod) {
        to.entry(address).or_default().extend(allowances.clone());
    }
}

/// Who may be at the other end of what a policy of a namespace says.
struct Others<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl Others<'_> {
    fn of(&self, peers: Option<&[NetworkPolicyPeer]>) -> Vec<Peers> {
        let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return vec![Peers::Everybody] };
        let block = |peer: &NetworkPolicyPeer| {
            let block = peer.ip_block.as_ref()?;
            let except = block.except.iter().flatten().filter_map(|range| Range::parse(range));
            Some(Peers::Block { range: Range::parse(&block.cidr)?, except: except.collect() })
        };
        let blocks = peers.iter().filter_map(block);
        let pods: BTreeSet<Ipv4Addr> = self.pods(peers).into_iter().flat_map(addresses).collect();
        let pods = Some(Peers::Pods(pods)).filter(|_| peers.iter().any(|peer| peer.ip_block.is_none()));
        blocks.chain(pods).collect()
    }

    fn pods(&self, peers: &[NetworkPolicyPeer]) -> Vec<&Pod> {
        let is_meant = |pod: &&Pod| {
            peers.iter().filter(|peer| peer.ip_block.is_none()).any(|peer| {
                let in_namespace = match &peer.namespace_selector {
                    None => namespace(&pod.metadata) == self.namespace,
                    selector => self
                        .cluster
                        .namespaces
                        .get(namespace(&pod.metadata))
                        .is_some_and(|namespace| matches(selector.as_ref(), &namespace.metadata)),
                };
                in_namespace && matches(peer.pod_selector.as_ref(), &pod.metadata)
            })
        };
        self.cluster.neighbours.values().flat_map(|list| &list.items).filter(is_meant).collect()
    }

    /// A port with a name is another number on each pod, so those are allowed by number.
    fn reached(&self, peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Vec<Allowance> {
        let is_named = |port: &&NetworkPolicyPort| matches!(port.port, Some(IntOrString::String(_)));
        let all = ports.unwrap_or_default();
        let numbered: BTreeSet<Ports> = all.iter().filter(|port| !is_named(port)).filter_map(number).collect();
        let numbered = (!all.is_empty()).then_some(numbered);
        let mut allowances: Vec<Allowance> =
            self.of(peers).into_iter().map(|peers| Allowance { peers, ports: numbered.clone() }).collect();
        let mut by_number: BTreeMap<Ports, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        let everybody =
            [NetworkPolicyPeer { namespace_selector: Some(v1::LabelSelector::default()), ..Default::default() }];
        let peers = peers.filter(|peers| !peers.is_empty()).unwrap_or(&everybody);
        for pod in self.pods(peers) {
            for ports in all.iter().filter(is_named).flat_map(|port| called(port, pod)) {
                by_number.entry(ports).or_default().extend(addresses(pod));
            }
        }
        let named = by_number.into_iter();
        allowances.extend(
            named.map(|(ports, pods)| Allowance { peers: Peers::Pods(pods), ports: Some(BTreeSet::from([ports])) }),
        );
        allowances
    }
}

/// Ports of this pod; `None` for all.
fn ports(ports: Option<&[NetworkPolicyPort]>, pod: &Pod) -> Option<BTreeSet<Ports>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    Some(ports.iter().flat_map(|port| number(port).into_iter().chain(called(port, pod))).collect())
}

/// `None` for a port with a name.
fn number(port: &NetworkPolicyPort) -> Option<Ports> {
    let (first, last) = match &port.port {
        None => ALL_PORTS,
        Some(IntOrString::String(_)) => return None,
        Some(IntOrString::Int(first)) => {
            (u16::try_from(*first).ok()?, u16::try_from(port.end_port.unwrap_or(*first)).ok()?)
        }
    };
    Some(Ports { protocol: wire(port.protocol.as_deref()), first, last })
}

/// What a name means on a pod; nothing for a number.
fn called(port: &NetworkPolicyPort, pod: &Pod) -> Vec<Ports> {
    let Some(IntOrString::String(name)) = &port.port else { return Vec::new() };
    let protocol = wire(port.protocol.as_deref());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let own = containers.flat_map(|container| container.ports.iter().flatten());
    own.filter(|own| own.name.as_ref() == Some(name) && wire(own.protocol.as_deref()) == protocol)
        .filter_map(|own| u16::try_from(own.container_port).ok())
        .map(|number| Ports { protocol, first: number, last: number })
        .collect()
}

fn wire(name: Option<&str>) -> Protocol {
    protocol(name.unwrap_or("TCP"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::List;
    use serde_json::{Value, json};

    use super::*;

    fn pod(namespace: &str, app: &str, last: u8, port: i32) -> Pod {
        let pod = json!({
            "metadata": {"namespace": namespace, "labels": {"app": app}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"podIPs": [{"ip": format!("10.244.0.{last}")}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    /// Two namespaces with a `web` and a `db` each; `web` of the first runs here.
    fn allowed(spec: Value) -> String {
        let mut cluster = Cluster::default();
        let here = vec![pod("a", "web", 1, 8080)];
        let there = vec![pod("a", "db", 2, 5432), pod("b", "web", 3, 8081), pod("b", "db", 4, 5432)];
        for (node, items) in [("here", here), ("there", there)] {
            Arc::make_mut(&mut cluster.neighbours).insert(node.into(), Arc::new(List { items, ..List::default() }));
        }
        for (name, team) in [("a", "red"), ("b", "blue")] {
            let namespace =
                serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": team}}})).unwrap();
            Arc::make_mut(&mut cluster.namespaces).insert(name.into(), Arc::new(namespace));
        }
        let policy = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec});
        Arc::make_mut(&mut cluster.policies).insert("a/p".into(), Arc::new(serde_json::from_value(policy).unwrap()));
        let policies = policies(&cluster, "here", []);
        let text = |by_pod: &ByPod| {
            let allowances = by_pod.iter().map(|(pod, allowances)| {
                let all: Vec<String> = allowances.iter().map(said).collect();
                format!("{}: {}", pod.octets()[3], all.join(", "))
            });
            allowances.collect::<Vec<_>>().join("; ")
        };
        format!("in[{}] out[{}]", text(&policies.ingress), text(&policies.egress))
    }

    fn said(allowance: &Allowance) -> String {
        let peers = match &allowance.peers {
            Peers::Everybody => "all".to_owned(),
            Peers::Pods(pods) => pods.iter().map(|pod| pod.octets()[3].to_string()).collect::<Vec<_>>().join("+"),
            Peers::Block { range, except } => {
                except.iter().fold(range.to_string(), |text, range| format!("{text}-{range}"))
            }
        };
        let ports = allowance.ports.as_ref().map(|ports| {
            let ports = ports.iter().map(|ports| format!("{}{}-{}", ports.protocol.word(), ports.first, ports.last));
            ports.collect::<Vec<_>>().join("+")
        });
        ports.map_or(peers.clone(), |ports| format!("{peers}@{ports}"))
    }

    #[test]
    fn who_is_selected_is_isolated() {
        assert_eq!(allowed(json!({"podSelector": {}})), "in[1: ] out[]");
        assert_eq!(allowed(json!({"podSelector": {"matchLabels": {"app": "db"}}})), "in[] out[]", "not of this node");
        assert_eq!(allowed(json!({"podSelector": {}, "policyTypes": ["Egress"]})), "in[] out[1: ]");
        assert_eq!(allowed(json!({"podSelector": {}, "ingress": [{}]})), "in[1: all] out[]");
        assert_eq!(allowed(json!({"podSelector": {}, "egress": []})), "in[1: ] out[1: ]");
    }

    #[test]
    fn a_pod_is_isolated_before_the_cluster_knows_its_address() {
        let mut cluster = Cluster::default();
        let policy = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}}}});
        Arc::make_mut(&mut cluster.policies).insert("a/p".into(), Arc::new(serde_json::from_value(policy).unwrap()));
        let (new, old) = (pod("a", "web", 1, 80), pod("a", "web", 2, 80));
        // Its labels have changed since.
        let list = List { items: vec![pod("a", "other", 2, 80)], ..List::default() };
        Arc::make_mut(&mut cluster.neighbours).insert("here".into(), Arc::new(list));
        let ingress = policies(&cluster, "here", [&new, &old]).ingress;
        assert_eq!(ingress.into_keys().collect::<Vec<_>>(), [Ipv4Addr::new(10, 244, 0, 1)]);
    }

    #[test]
    fn peers_are_pods_of_the_namespace_of_others_or_blocks() {
        let from = |peers: Value| allowed(json!({"podSelector": {}, "ingress": [{"from": peers}]}));
        assert_eq!(from(json!([{"podSelector": {"matchLabels": {"app": "db"}}}])), "in[1: 2] out[]");
        assert_eq!(from(json!([{"namespaceSelector": {"matchLabels": {"team": "blue"}}}])), "in[1: 3+4] out[]");
        assert_eq!(
            from(json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}])),
            "in[1: 2+4] out[]"
        );
        assert_eq!(
            from(json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}])),
            "in[1: 10.0.0.0/8-10.1.0.0/16] out[]"
        );
        assert_eq!(from(json!([{"podSelector": {"matchLabels": {"app": "none"}}}])), "in[1: ] out[]");
        let odd = json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Resembles"}]}}]);
        assert_eq!(from(odd), "in[1: ] out[]", "what is not understood allows nothing");
    }

    #[test]
    fn ports_are_numbers_ranges_or_names_of_the_pod_that_is_reached() {
        let ingress = |ports: Value| allowed(json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
        assert_eq!(
            ingress(json!([{"port": 80}, {"port": 90, "endPort": 95, "protocol": "UDP"}])),
            "in[1: all@tcp80-80+udp90-95] out[]"
        );
        assert_eq!(ingress(json!([{"protocol": "UDP"}])), "in[1: all@udp0-65535] out[]");
        assert_eq!(ingress(json!([{"port": "http"}])), "in[1: all@tcp8080-8080] out[]");
        assert_eq!(ingress(json!([{"port": "smtp"}])), "in[1: all@] out[]", "nobody has that");
        let to = json!([{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]);
        let egress =
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": [{"port": "http"}]}]});
        assert_eq!(allowed(egress), "in[] out[1: 3@tcp8081-8081, 3+4@, 4@tcp5432-5432]");
    }
}
