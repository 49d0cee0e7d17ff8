//! All names below the cluster's domain, as maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use hickory_proto::rr::{
    Name, RData, RecordType,
    rdata::{A, PTR, SRV, TXT},
};

use super::absolute;
use crate::{CLUSTER_DOMAIN, DNS_ADDRESS, Service};

/// The version of the specification, which a record says.
const SCHEMA: &str = "1.1.0";

/// Every host is as good as any other (RFC 2782).
const PRIORITY: u16 = 0;
const WEIGHT: u16 = 100;

#[derive(Default)]
pub struct Names {
    addresses: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    services: BTreeMap<String, BTreeSet<(u16, String)>>,
    aliases: BTreeMap<String, String>,
    pointers: BTreeMap<String, String>,
    /// Names that have others below them: they exist, without records of their own.
    parents: BTreeSet<String>,
}

/// What is known of a name.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// It is not ours to answer.
    Elsewhere,
    /// It would be ours, and does not exist.
    Missing,
    /// It is another name for that one.
    Alias(Name),
    /// It exists; maybe without records of the kind asked for.
    Records(Vec<RData>),
}

impl Names {
    pub fn of(services: &[Service]) -> Names {
        let mut names = Names::default();
        names.address(&format!("ns.dns.{CLUSTER_DOMAIN}"), DNS_ADDRESS);
        for service in services {
            let name = format!("{}.{}.svc.{CLUSTER_DOMAIN}", service.name, service.namespace).to_lowercase();
            if let Some(elsewhere) = &service.external_name {
                names.parents_of(&name);
                names.aliases.insert(name, elsewhere.trim_end_matches('.').to_lowercase());
            } else if let Some(address) = service.address {
                names.address(&name, address);
                names.pointers.insert(reversed(address), name.clone());
                for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
                    let record = format!("_{}._{}.{name}", port.name, port.protocol.word());
                    names.service(record, port.port, name.clone());
                }
            } else {
                names.headless(service, &name);
            }
        }
        names
    }

    /// A service without an address of its own: its name has those of its hosts, and each host has a name below it.
    fn headless(&mut self, service: &Service, name: &str) {
        // The service exists, whether anybody serves it or not.
        self.parents_of(name);
        self.parents.insert(name.to_owned());
        let mut hosts: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
        for host in &service.hosts {
            let named = host.hostname.clone().unwrap_or_else(|| host.address.to_string().replace('.', "-"));
            let named = format!("{named}.{name}").to_lowercase();
            self.address(name, host.address);
            self.address(&named, host.address);
            // A host that several services name keeps a name that somebody gave it.
            let pointer = self.pointers.entry(reversed(host.address)).or_insert_with(|| named.clone());
            if host.hostname.is_some() {
                pointer.clone_from(&named);
            }
            hosts.insert(host.address, named);
        }
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            let record = format!("_{}._{}.{name}", port.name, port.protocol.word()).to_lowercase();
            for endpoint in port.endpoints.iter().filter(|endpoint| endpoint.is_ready) {
                if let Some(host) = hosts.get(&endpoint.address) {
                    self.service(record.clone(), endpoint.port, host.clone());
                }
            }
        }
    }

    fn address(&mut self, name: &str, address: Ipv4Addr) {
        self.parents_of(name);
        self.addresses.entry(name.to_owned()).or_default().insert(address);
    }

    fn service(&mut self, record: String, port: u16, host: String) {
        self.parents_of(&record);
        self.services.entry(record).or_default().insert((port, host));
    }

    fn parents_of(&mut self, name: &str) {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if !parent.ends_with(CLUSTER_DOMAIN) || !self.parents.insert(parent.to_owned()) {
                return;
            }
            rest = parent;
        }
    }

    /// `name` in lower case, without a dot at its end.
    pub fn find(&self, name: &str, kind: RecordType) -> Found {
        if let Some(target) = self.pointers.get(name) {
            let pointer = absolute(target).filter(|_| kind == RecordType::PTR).map(|name| RData::PTR(PTR(name)));
            return Found::Records(pointer.into_iter().collect());
        }
        let Some(rest) = name.strip_suffix(CLUSTER_DOMAIN).filter(|rest| rest.is_empty() || rest.ends_with('.')) else {
            return Found::Elsewhere;
        };
        if rest == "dns-version." {
            let version = (kind == RecordType::TXT).then(|| RData::TXT(TXT::new(vec![SCHEMA.to_owned()])));
            return Found::Records(version.into_iter().collect());
        }
        if let Some(target) = self.aliases.get(name) {
            return absolute(target).map_or(Found::Records(Vec::new()), Found::Alias);
        }
        let addresses = self.addresses.get(name);
        let services = self.services.get(name);
        if addresses.is_none() && services.is_none() && !self.parents.contains(name) && !rest.is_empty() {
            return Found::Missing;
        }
        Found::Records(match kind {
            RecordType::A => addresses.into_iter().flatten().map(|address| RData::A(A(*address))).collect(),
            RecordType::SRV => services
                .into_iter()
                .flatten()
                .filter_map(|(port, host)| Some(RData::SRV(SRV::new(PRIORITY, WEIGHT, *port, absolute(host)?))))
                .collect(),
            RecordType::SOA if rest.is_empty() => super::zone().map(|zone| zone.data).into_iter().collect(),
            _ => Vec::new(),
        })
    }
}

fn reversed(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{Endpoint, Host, ServicePort};

    fn named(name: &str) -> Service {
        Service { namespace: "d".into(), name: name.into(), ..Service::default() }
    }

    fn port(endpoints: Vec<Endpoint>) -> ServicePort {
        ServicePort { name: "http".into(), port: 80, endpoints, ..ServicePort::default() }
    }

    fn pod(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 0, last)
    }

    pub fn names() -> Names {
        let ready = Endpoint { address: pod(3), port: 8080, is_local: true, is_ready: true, is_leaving: false };
        let unready = Endpoint { is_ready: false, ..ready.clone() };
        let web = Service { address: Some(Ipv4Addr::new(10, 96, 0, 7)), ports: vec![port(vec![])], ..named("web") };
        let db = Service {
            ports: vec![port(vec![ready, unready])],
            hosts: vec![Host { address: pod(3), hostname: Some("db-0".into()) }],
            ..named("db")
        };
        let bare = Service { hosts: vec![Host { address: pod(4), hostname: None }], ..named("bare") };
        let out = Service { external_name: Some("Example.org".into()), ..named("out") };
        let inside = Service { external_name: Some("web.d.svc.cluster.local".into()), ..named("inside") };
        Names::of(&[web, db, bare, named("idle"), out, inside])
    }

    fn ask(name: &str, kind: RecordType) -> String {
        match names().find(name, kind) {
            Found::Records(records) => records.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Found::Alias(name) => format!("→ {name}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn services_have_names() {
        assert_eq!(ask("web.d.svc.cluster.local", RecordType::A), "10.96.0.7");
        assert_eq!(ask("web.d.svc.cluster.local", RecordType::AAAA), "");
        assert_eq!(ask("_http._tcp.web.d.svc.cluster.local", RecordType::SRV), "0 100 80 web.d.svc.cluster.local.");
        assert_eq!(ask("7.0.96.10.in-addr.arpa", RecordType::PTR), "web.d.svc.cluster.local.");
        assert_eq!(ask("out.d.svc.cluster.local", RecordType::A), "→ example.org.");
    }

    #[test]
    fn headless_services_stand_for_their_hosts_with_or_without_ports() {
        assert_eq!(ask("db.d.svc.cluster.local", RecordType::A), "10.244.0.3");
        assert_eq!(ask("db-0.db.d.svc.cluster.local", RecordType::A), "10.244.0.3");
        assert_eq!(
            ask("_http._tcp.db.d.svc.cluster.local", RecordType::SRV),
            "0 100 8080 db-0.db.d.svc.cluster.local."
        );
        assert_eq!(ask("3.0.244.10.in-addr.arpa", RecordType::PTR), "db-0.db.d.svc.cluster.local.");
        assert_eq!(ask("bare.d.svc.cluster.local", RecordType::A), "10.244.0.4");
        assert_eq!(ask("10-244-0-4.bare.d.svc.cluster.local", RecordType::A), "10.244.0.4");
        assert_eq!(ask("idle.d.svc.cluster.local", RecordType::A), "", "it exists, and nobody serves it");
    }

    #[test]
    fn what_is_not_there_is_said_and_what_is_not_ours_is_passed_on() {
        assert_eq!(ask("none.d.svc.cluster.local", RecordType::A), "Missing");
        assert_eq!(ask("d.svc.cluster.local", RecordType::A), "");
        for name in ["example.org", "xcluster.local", "8.8.8.8.in-addr.arpa"] {
            assert_eq!(ask(name, RecordType::A), "Elsewhere");
        }
    }

    #[test]
    fn the_zone_speaks_of_itself() {
        assert_eq!(ask("dns-version.cluster.local", RecordType::TXT), "1.1.0");
        assert_eq!(ask("ns.dns.cluster.local", RecordType::A), "10.96.0.10");
        assert!(ask("cluster.local", RecordType::SOA).starts_with("ns.dns.cluster.local."));
    }
}
