//! Services as elements of maps.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{DNS_ADDRESS, nft::Elements};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// `None` for headless services.
    pub address: Option<Ipv4Addr>,
    pub ports: Vec<ServicePort>,
    /// Whom the name of a service without an address stands for; with or without ports.
    pub hosts: Vec<Host>,
    /// A name elsewhere (type ExternalName).
    pub external_name: Option<String>,
    /// Node ports lead to pods of the same node only, and the client's address is kept (externalTrafficPolicy Local).
    pub local_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub port: u16,
    /// Its pod runs on this node.
    pub is_local: bool,
    /// Takes requests.
    pub is_ready: bool,
}

/// A pod, or a machine, that the name of a service stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub address: Ipv4Addr,
    pub hostname: Option<String>,
}

/// A port of the node that leads to one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// The one address of the node that has it; all of them if there is none.
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// `host_ports`: those of each pod, with its address.
pub fn elements<'a>(
    services: &[Service],
    host_ports: impl IntoIterator<Item = (Ipv4Addr, &'a [HostPort])>,
) -> Elements {
    let mut elements = Elements::new();
    let mut put = |map: &'static str, key: String, value: String| {
        elements.entry(map).or_default().insert(key, value);
    };
    for service in services {
        for port in &service.ports {
            let mut ready: Vec<&Endpoint> = port.endpoints.iter().filter(|endpoint| endpoint.is_ready).collect();
            ready.sort();
            ready.dedup();
            let protocol = port.protocol.word();
            // The name service answers where it is, whatever a service of that address says.
            let address = service.address.filter(|address| *address != DNS_ADDRESS && !ready.is_empty());
            if let Some(address) = address {
                let key = format!("{address} . {protocol} . {}", port.port);
                put("services", key.clone(), format!("goto pick-{}", ready.len()));
                for (place, endpoint) in ready.iter().enumerate() {
                    put("endpoints", format!("{key} . {place}"), format!("{} . {}", endpoint.address, endpoint.port));
                }
            }
            for endpoint in ready.iter().filter(|endpoint| endpoint.is_local) {
                put("hairpins", format!("{} . {}", endpoint.address, endpoint.address), String::new());
            }
            let Some(node_port) = port.node_port else { continue };
            let (chain, reached): (&str, Vec<&Endpoint>) = match service.local_only {
                true => ("keep", ready.into_iter().filter(|endpoint| endpoint.is_local).collect()),
                false => ("port", ready),
            };
            if !reached.is_empty() {
                let key = format!("{protocol} . {node_port}");
                put("node_ports", key.clone(), format!("goto {chain}-{}", reached.len()));
                for (place, endpoint) in reached.iter().enumerate() {
                    put(
                        "node_endpoints",
                        format!("{key} . {place}"),
                        format!("{} . {}", endpoint.address, endpoint.port),
                    );
                }
            }
        }
    }
    for (pod, ports) in host_ports {
        for port in ports {
            let key = format!("{} . {}", port.protocol.word(), port.host_port);
            let to = format!("{pod} . {}", port.container_port);
            put("hairpins", format!("{pod} . {pod}"), String::new());
            match port.host_ip.filter(|address| !address.is_unspecified()) {
                Some(address) => put("host_address_ports", format!("{address} . {key}"), to),
                None => put("host_ports", key, to),
            }
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8, is_local: bool, is_ready: bool) -> Endpoint {
        Endpoint { address: Ipv4Addr::new(10, 244, 0, last), port: 8080, is_local, is_ready }
    }

    fn service(endpoints: Vec<Endpoint>, local_only: bool) -> Service {
        let port = ServicePort { port: 80, node_port: Some(30080), endpoints, ..ServicePort::default() };
        Service { address: Some(Ipv4Addr::new(10, 96, 0, 5)), ports: vec![port], local_only, ..Service::default() }
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
    fn a_local_policy_leads_to_pods_of_this_node() {
        let text = text(service(vec![endpoint(2, true, true), endpoint(3, false, true)], true));
        assert!(
            text.contains("node_ports: tcp . 30080 → goto keep-1")
                && text.contains("services: 10.96.0.5 . tcp . 80 → goto pick-2")
        );
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
