//! Services and ports of the node as elements of maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    DNS_ADDRESS,
    services::{Endpoint, HostPort, Service, ServicePort},
};

/// The elements of every map and set, as nft writes them; a set's elements have empty values.
pub type Elements = BTreeMap<&'static str, BTreeMap<String, String>>;

/// Nobody here may answer, and somebody elsewhere would: the client shall try again, and find another node.
const DROP: &str = "drop";

/// `host_ports`: those of each pod, with its address.
pub fn elements<'a>(
    services: &[Service],
    host_ports: impl IntoIterator<Item = (Ipv4Addr, &'a [HostPort])>,
) -> Elements {
    let mut writer = Writer(Elements::new());
    for service in services {
        for port in &service.ports {
            writer.port(service, port);
        }
    }
    for (pod, ports) in host_ports {
        for port in ports {
            let key = format!("{} . {}", port.protocol.word(), port.host_port);
            let to = format!("{pod} . {}", port.container_port);
            writer.put("hairpins", format!("{pod} . {pod}"), String::new());
            match port.host_ip.filter(|address| !address.is_unspecified()) {
                Some(address) => writer.put("host_address_ports", format!("{address} . {key}"), to),
                None => writer.put("host_ports", key, to),
            }
        }
    }
    writer.0
}

struct Writer(Elements);

impl Writer {
    fn put(&mut self, map: &'static str, key: String, value: String) {
        self.0.entry(map).or_default().insert(key, value);
    }

    fn port(&mut self, service: &Service, port: &ServicePort) {
        let all = reached(port, |_| true);
        let local = reached(port, |endpoint| endpoint.is_local);
        for endpoint in &local {
            self.put("hairpins", format!("{0} . {0}", endpoint.address), String::new());
        }
        if all.is_empty() {
            return;
        }
        let protocol = port.protocol.word();
        let sticky = if service.affinity.is_some() { "-sticky" } else { "" };
        let record = service.affinity.map(|time| format!("goto record-{}", time.as_secs()));
        // The name service answers where it is, whatever a service of that address says.
        if let Some(address) = service.address.filter(|address| *address != DNS_ADDRESS) {
            let key = format!("{address} . {protocol} . {}", port.port);
            let endpoints = if service.inside_stays { &local } else { &all };
            self.front("services", "endpoints", &key, "pick", sticky, endpoints);
            if let Some(record) = record.clone() {
                self.put("sticky_services", key, record);
            }
        }
        if let Some(node_port) = port.node_port {
            let key = format!("{protocol} . {node_port}");
            self.front("node_ports", "node_endpoints", &key, "port", sticky, &all);
            if service.outside_stays {
                self.front("kept_ports", "kept_endpoints", &key, "keep", sticky, &local);
            }
            if let Some(record) = record {
                self.put("sticky_ports", key, record);
            }
        }
    }

    fn front(
        &mut self,
        verdicts: &'static str,
        map: &'static str,
        key: &str,
        chain: &str,
        sticky: &str,
        endpoints: &[&Endpoint],
    ) {
        let verdict = match endpoints.len() {
            0 => DROP.to_owned(),
            number => format!("goto {chain}-{number}{sticky}"),
        };
        self.put(verdicts, key.to_owned(), verdict);
        for (place, endpoint) in endpoints.iter().enumerate() {
            self.put(map, format!("{key} . {place}"), format!("{} . {}", endpoint.address, endpoint.port));
        }
    }
}

/// Those that take requests; if there are none, those that leave and still do.
fn reached(port: &ServicePort, counts: impl Fn(&Endpoint) -> bool) -> Vec<&Endpoint> {
    let among = |wanted: fn(&Endpoint) -> bool| {
        let chosen = port.endpoints.iter().filter(|endpoint| wanted(endpoint) && counts(endpoint));
        // Slices may say the same twice.
        let chosen: BTreeMap<_, _> = chosen.map(|endpoint| ((endpoint.address, endpoint.port), endpoint)).collect();
        chosen.into_values().collect::<Vec<_>>()
    };
    let ready = among(|endpoint| endpoint.is_ready);
    if ready.is_empty() { among(|endpoint| endpoint.is_leaving) } else { ready }
}

/// Where each address and port may lead, read from elements.
#[derive(Debug, Default, PartialEq)]
pub struct Backends(BTreeMap<String, BTreeSet<String>>);

impl Backends {
    pub fn of(elements: &Elements) -> Backends {
        let mut backends: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (map, is_picked) in [
            ("endpoints", true),
            ("node_endpoints", true),
            ("kept_endpoints", true),
            ("host_ports", false),
            ("host_address_ports", false),
        ] {
            for (key, to) in elements.get(map).into_iter().flatten() {
                // The last part of a picked one is its place.
                let front =
                    if is_picked { key.rsplit_once(" . ").map_or(key.as_str(), |(front, _)| front) } else { key };
                backends.entry(front.to_owned()).or_default().insert(to.clone());
            }
        }
        Backends(backends)
    }

    /// For an address of a service.
    pub fn at(&self, address: Ipv4Addr, protocol: &str, port: u16) -> Option<&BTreeSet<String>> {
        self.0.get(&format!("{address} . {protocol} . {port}"))
    }

    /// For any address of the node.
    pub fn at_node(&self, protocol: &str, port: u16) -> Option<&BTreeSet<String>> {
        self.0.get(&format!("{protocol} . {port}"))
    }

    /// Whether others of that protocol differ.
    pub fn differ(&self, other: &Backends, protocol: &str) -> bool {
        let of = |backends: &Backends| {
            let marked = format!("{protocol} . ");
            let own = |(front, to): (&String, &BTreeSet<String>)| {
                front.contains(&marked).then(|| (front.clone(), to.clone()))
            };
            backends.0.iter().filter_map(own).collect::<Vec<_>>()
        };
        of(self) != of(other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Protocol;

    fn endpoint(last: u8, is_local: bool, is_ready: bool) -> Endpoint {
        Endpoint { address: Ipv4Addr::new(10, 244, 0, last), port: 8080, is_local, is_ready, is_leaving: false }
    }

    fn service(endpoints: Vec<Endpoint>, outside_stays: bool) -> Service {
        let port = ServicePort { port: 80, node_port: Some(30080), endpoints, ..ServicePort::default() };
        Service { address: Some(Ipv4Addr::new(10, 96, 0, 5)), ports: vec![port], outside_stays, ..Service::default() }
    }

    fn text(service: Service) -> String {
        let mut text = String::new();
        for (map, elements) in elements(&[service], []) {
            for (key, value) in elements {
                text.push_str(&format!("{map}: {key} → {value}\n"));
            }
        }
        text
    }

    #[test]
    fn only_ready_endpoints_are_picked() {
        let service = service(vec![endpoint(2, true, true), endpoint(3, false, true), endpoint(4, true, false)], false);
        assert_eq!(
            text(service),
            "endpoints: 10.96.0.5 . tcp . 80 . 0 → 10.244.0.2 . 8080\n\
             endpoints: 10.96.0.5 . tcp . 80 . 1 → 10.244.0.3 . 8080\n\
             hairpins: 10.244.0.2 . 10.244.0.2 → \n\
             node_endpoints: tcp . 30080 . 0 → 10.244.0.2 . 8080\n\
             node_endpoints: tcp . 30080 . 1 → 10.244.0.3 . 8080\n\
             node_ports: tcp . 30080 → goto port-2\n\
             services: 10.96.0.5 . tcp . 80 → goto pick-2\n"
        );
    }

    #[test]
    fn one_that_leaves_is_reached_while_nobody_else_is_there() {
        let leaving = Endpoint { is_leaving: true, ..endpoint(4, true, false) };
        assert!(text(service(vec![endpoint(2, true, true), leaving.clone()], false)).contains("pick-1"));
        assert!(text(service(vec![leaving], false)).contains("10.244.0.4 . 8080"));
    }

    #[test]
    fn a_local_policy_leads_to_pods_of_this_node() {
        let text = text(service(vec![endpoint(2, true, true), endpoint(3, false, true)], true));
        for expected in ["kept_ports: tcp . 30080 → goto keep-1", "services: 10.96.0.5 . tcp . 80 → goto pick-2"] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_local_policy_without_pods_here_leaves_clients_to_other_nodes() {
        let far = || vec![endpoint(3, false, true)];
        assert!(text(service(far(), true)).contains("kept_ports: tcp . 30080 → drop"));
        let inside = text(Service { inside_stays: true, ..service(far(), false) });
        assert!(inside.contains("services: 10.96.0.5 . tcp . 80 → drop") && inside.contains("→ goto port-1"));
    }

    #[test]
    fn affinity_is_a_matter_of_chains() {
        let text =
            text(Service { affinity: Some(Duration::from_secs(9)), ..service(vec![endpoint(3, true, true)], false) });
        for expected in [
            "services: 10.96.0.5 . tcp . 80 → goto pick-1-sticky",
            "sticky_services: 10.96.0.5 . tcp . 80 → goto record-9",
            "sticky_ports: tcp . 30080 → goto record-9",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn where_things_lead_is_read_back() {
        let before = elements(&[service(vec![endpoint(2, true, true), endpoint(3, true, true)], false)], []);
        let backends = Backends::of(&before);
        let both = BTreeSet::from(["10.244.0.2 . 8080".to_owned(), "10.244.0.3 . 8080".to_owned()]);
        assert_eq!(backends.at(Ipv4Addr::new(10, 96, 0, 5), "tcp", 80), Some(&both));
        assert_eq!(backends.at_node("tcp", 30080), Some(&both));
        assert_eq!(backends.at_node("udp", 30080), None);
        let after = Backends::of(&elements(&[service(vec![endpoint(2, true, true)], false)], []));
        assert!(backends.differ(&after, "tcp") && !backends.differ(&after, "udp"));
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
        let elements = elements(&[], [(Ipv4Addr::new(10, 244, 0, 2), ports.as_slice())]);
        assert_eq!(elements["host_ports"]["udp . 53"], "10.244.0.2 . 5353");
        assert_eq!(elements["host_address_ports"]["192.0.2.1 . udp . 53"], "10.244.0.2 . 5353");
    }

    #[test]
    fn without_endpoints_nothing_leads_anywhere() {
        assert_eq!(text(service(vec![endpoint(2, true, false)], false)), "");
    }
}
