//! Services and ports of the node as elements of maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    DNS_ADDRESS,
    bytecode::{Rule, Verdict},
    rules::{Family, Shared},
    services::{Endpoint, HostPort, Protocol, Service, ServicePort},
};

/// A part of a key: four bytes to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Address(Ipv4Addr),
    Protocol(Protocol),
    Port(u16),
    /// Of an endpoint among several.
    Place(u32),
}

impl Part {
    pub fn bytes(self) -> [u8; 4] {
        match self {
            Part::Address(address) => address.octets(),
            Part::Protocol(protocol) => [protocol.number(), 0, 0, 0],
            Part::Port(port) => {
                let [high, low] = port.to_be_bytes();
                [high, low, 0, 0]
            }
            Part::Place(place) => place.to_ne_bytes(),
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Address(address) => write!(f, "{address}"),
            Part::Protocol(protocol) => f.write_str(protocol.word()),
            Part::Port(port) => write!(f, "{port}"),
            Part::Place(place) => write!(f, "#{place}"),
        }
    }
}

pub type Key = Vec<Part>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a set.
    Member,
    Leads(SocketAddrV4),
    /// To a chain.
    Goes(String),
    /// Nobody here may answer, and somebody elsewhere would: the client shall try again, and find another node.
    Drop,
}

impl Value {
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Value::Goes(chain) => Some(Verdict::Goto(chain.clone())),
            Value::Drop => Some(Verdict::Drop),
            Value::Member | Value::Leads(_) => None,
        }
    }
}

/// What every map and set holds.
pub type Elements = BTreeMap<&'static str, BTreeMap<Key, Value>>;

/// Everything that changes with what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub elements: Elements,
    /// Chains that elements lead to. What is in one follows from its name.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Sets of addresses that those look into, named in the same way.
    pub sets: BTreeMap<String, BTreeSet<Ipv4Addr>>,
}

/// `host_ports`: those of each pod, with its address.
pub fn state<'a>(services: &[Service], host_ports: impl IntoIterator<Item = (Ipv4Addr, &'a [HostPort])>) -> State {
    let mut writer = Writer(State::default());
    for service in services {
        for port in &service.ports {
            writer.port(service, port);
        }
    }
    for (pod, ports) in host_ports {
        for port in ports {
            let key = vec![Part::Protocol(port.protocol), Part::Port(port.host_port)];
            let to = Value::Leads(SocketAddrV4::new(pod, port.container_port));
            writer.hairpin(pod);
            match port.host_ip.filter(|address| !address.is_unspecified()) {
                Some(address) => {
                    writer.put("host_address_ports", [vec![Part::Address(address)], key].concat(), to);
                }
                None => writer.put("host_ports", key, to),
            }
        }
    }
    writer.0
}

struct Writer(State);

impl Writer {
    fn put(&mut self, map: &'static str, key: Key, value: Value) {
        self.0.elements.entry(map).or_default().insert(key, value);
    }

    fn goes(&mut self, chain: Shared) -> Value {
        let name = chain.name();
        if !self.0.chains.contains_key(&name) {
            self.0.chains.insert(name.clone(), chain.rules());
        }
        Value::Goes(name)
    }

    /// A pod that may be led to itself, and would wonder about a packet of its own.
    fn hairpin(&mut self, pod: Ipv4Addr) {
        self.put("hairpins", vec![Part::Address(pod); 2], Value::Member);
    }

    fn port(&mut self, service: &Service, port: &ServicePort) {
        let all = reached(port, |_| true);
        let local = reached(port, |endpoint| endpoint.is_local);
        for endpoint in &local {
            self.hairpin(*endpoint.ip());
        }
        if all.is_empty() {
            return;
        }
        let protocol = Part::Protocol(port.protocol);
        let record = service.affinity.map(|time| self.goes(Shared::Record(time)));
        let sticky = record.is_some();
        // The name service answers where it is, whatever a service of that address says.
        if let Some(address) = service.address.filter(|address| *address != DNS_ADDRESS) {
            let key = vec![Part::Address(address), protocol, Part::Port(port.port)];
            let endpoints = if service.inside_stays { &local } else { &all };
            self.front(Family::Service, &key, sticky, endpoints);
            if let Some(record) = record.clone() {
                self.put("sticky_services", key, record);
            }
        }
        if let Some(node_port) = port.node_port {
            let key = vec![protocol, Part::Port(node_port)];
            self.front(Family::Port, &key, sticky, &all);
            if service.outside_stays {
                self.front(Family::Kept, &key, sticky, &local);
            }
            if let Some(record) = record {
                self.put("sticky_ports", key, record);
            }
        }
    }

    fn front(&mut self, family: Family, key: &[Part], sticky: bool, endpoints: &[SocketAddrV4]) {
        let (fronts, map) = match family {
            Family::Service => ("services", "endpoints"),
            Family::Port => ("node_ports", "node_endpoints"),
            Family::Kept => ("kept_ports", "kept_endpoints"),
        };
        let value = match endpoints.len() as u32 {
            0 => Value::Drop,
            endpoints => self.goes(Shared::Pick { family, endpoints, sticky }),
        };
        self.put(fronts, key.to_vec(), value);
        for (place, endpoint) in (0..).zip(endpoints) {
            self.put(map, [key, &[Part::Place(place)]].concat(), Value::Leads(*endpoint));
        }
    }
}

/// Those that take requests; if there are none, those that leave and still do.
fn reached(port: &ServicePort, counts: impl Fn(&Endpoint) -> bool) -> Vec<SocketAddrV4> {
    let among = |wanted: fn(&Endpoint) -> bool| {
        let chosen = port.endpoints.iter().filter(|endpoint| wanted(endpoint) && counts(endpoint));
        // Slices may say the same twice.
        chosen.map(|endpoint| SocketAddrV4::new(endpoint.address, endpoint.port)).collect::<BTreeSet<_>>()
    };
    let ready = among(|endpoint| endpoint.is_ready);
    let reached = if ready.is_empty() { among(|endpoint| endpoint.is_leaving) } else { ready };
    reached.into_iter().collect()
}

/// Where each address and port may lead, read from elements.
#[derive(Debug, Default, PartialEq)]
pub struct Backends(BTreeMap<Key, BTreeSet<SocketAddrV4>>);

impl Backends {
    pub fn of(elements: &Elements) -> Backends {
        let mut backends: BTreeMap<Key, BTreeSet<SocketAddrV4>> = BTreeMap::new();
        for (key, value) in elements.values().flatten() {
            let Value::Leads(to) = value else { continue };
            let is_place = matches!(key.last(), Some(Part::Place(_)));
            let front = &key[..key.len() - usize::from(is_place)];
            backends.entry(front.to_vec()).or_default().insert(*to);
        }
        Backends(backends)
    }

    /// For an address of a service.
    pub fn at(&self, to: SocketAddrV4, protocol: Protocol) -> Option<&BTreeSet<SocketAddrV4>> {
        self.0.get([Part::Address(*to.ip()), Part::Protocol(protocol), Part::Port(to.port())].as_slice())
    }

    /// For any address of the node.
    pub fn at_node(&self, port: u16, protocol: Protocol) -> Option<&BTreeSet<SocketAddrV4>> {
        self.0.get([Part::Protocol(protocol), Part::Port(port)].as_slice())
    }

    /// Whether others of that protocol differ.
    pub fn differ(&self, other: &Backends, protocol: Protocol) -> bool {
        fn of(backends: &Backends, protocol: Protocol) -> impl Iterator<Item = (&Key, &BTreeSet<SocketAddrV4>)> {
            backends.0.iter().filter(move |(front, _)| front.contains(&Part::Protocol(protocol)))
        }
        !of(self, protocol).eq(of(other, protocol))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoint(last: u8, is_local: bool, is_ready: bool) -> Endpoint {
        Endpoint { address: Ipv4Addr::new(10, 244, 0, last), port: 8080, is_local, is_ready, is_leaving: false }
    }

    fn service(endpoints: Vec<Endpoint>, outside_stays: bool) -> Service {
        let port = ServicePort { port: 80, node_port: Some(30080), endpoints, ..ServicePort::default() };
        Service { address: Some(Ipv4Addr::new(10, 96, 0, 5)), ports: vec![port], outside_stays, ..Service::default() }
    }

    fn text(service: Service) -> String {
        written(state(&[service], []).elements)
    }

    fn written(elements: Elements) -> String {
        let mut text = String::new();
        for (map, elements) in elements {
            for (key, value) in elements {
                let key: Vec<String> = key.iter().map(|part| format!("{part:?}")).collect();
                let value = match value {
                    Value::Member => String::new(),
                    Value::Leads(to) => to.to_string(),
                    Value::Goes(chain) => chain,
                    Value::Drop => "drop".to_owned(),
                };
                text.push_str(&format!("{map}: {} → {value}\n", key.join(" ")));
            }
        }
        text
    }

    #[test]
    fn only_ready_endpoints_are_picked() {
        let service = service(vec![endpoint(2, true, true), endpoint(3, false, true), endpoint(4, true, false)], false);
        assert_eq!(
            text(service),
            "endpoints: 10.96.0.5 tcp 80 #0 → 10.244.0.2:8080\n\
             endpoints: 10.96.0.5 tcp 80 #1 → 10.244.0.3:8080\n\
             hairpins: 10.244.0.2 10.244.0.2 → \n\
             node_endpoints: tcp 30080 #0 → 10.244.0.2:8080\n\
             node_endpoints: tcp 30080 #1 → 10.244.0.3:8080\n\
             node_ports: tcp 30080 → port-2\n\
             services: 10.96.0.5 tcp 80 → pick-2\n"
        );
    }

    #[test]
    fn one_that_leaves_is_reached_while_nobody_else_is_there() {
        let leaving = Endpoint { is_leaving: true, ..endpoint(4, true, false) };
        assert!(text(service(vec![endpoint(2, true, true), leaving.clone()], false)).contains("pick-1"));
        assert!(text(service(vec![leaving], false)).contains("10.244.0.4:8080"));
    }

    #[test]
    fn a_local_policy_leads_to_pods_of_this_node() {
        let text = text(service(vec![endpoint(2, true, true), endpoint(3, false, true)], true));
        for expected in ["kept_ports: tcp 30080 → keep-1", "services: 10.96.0.5 tcp 80 → pick-2"] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_local_policy_without_pods_here_leaves_clients_to_other_nodes() {
        let far = || vec![endpoint(3, false, true)];
        assert!(text(service(far(), true)).contains("kept_ports: tcp 30080 → drop"));
        let inside = text(Service { inside_stays: true, ..service(far(), false) });
        assert!(inside.contains("services: 10.96.0.5 tcp 80 → drop") && inside.contains("→ port-1"));
    }

    #[test]
    fn affinity_is_a_matter_of_chains() {
        let text =
            text(Service { affinity: Some(Duration::from_secs(9)), ..service(vec![endpoint(3, true, true)], false) });
        for expected in [
            "services: 10.96.0.5 tcp 80 → pick-1-sticky",
            "sticky_services: 10.96.0.5 tcp 80 → record-9",
            "sticky_ports: tcp 30080 → record-9",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn where_things_lead_is_read_back() {
        let before = state(&[service(vec![endpoint(2, true, true), endpoint(3, true, true)], false)], []).elements;
        let backends = Backends::of(&before);
        let both = BTreeSet::from(["10.244.0.2:8080".parse().unwrap(), "10.244.0.3:8080".parse().unwrap()]);
        assert_eq!(backends.at("10.96.0.5:80".parse().unwrap(), Protocol::Tcp), Some(&both));
        assert_eq!(backends.at_node(30080, Protocol::Tcp), Some(&both));
        assert_eq!(backends.at_node(30080, Protocol::Udp), None);
        let after = Backends::of(&state(&[service(vec![endpoint(2, true, true)], false)], []).elements);
        assert!(backends.differ(&after, Protocol::Tcp) && !backends.differ(&after, Protocol::Udp));
    }

    #[test]
    fn ports_of_the_node_belong_to_all_of_its_addresses_or_to_one() {
        let port = |host_ip: Option<[u8; 4]>| HostPort {
            protocol: Protocol::Udp,
            host_ip: host_ip.map(Ipv4Addr::from),
            host_port: 53,
            container_port: 5353,
        };
        let ports = [port(None), port(Some([192, 0, 2, 1]))];
        let text = written(state(&[], [(Ipv4Addr::new(10, 244, 0, 2), ports.as_slice())]).elements);
        for expected in
            ["host_ports: udp 53 → 10.244.0.2:5353", "host_address_ports: 192.0.2.1 udp 53 → 10.244.0.2:5353"]
        {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn without_endpoints_nothing_leads_anywhere() {
        assert_eq!(text(service(vec![endpoint(2, true, false)], false)), "");
    }
}
