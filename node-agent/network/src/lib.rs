//! The pod network of one node: links, routes, services, names.
//!
//! A pod has one link with an address of its node's range; the node routes between its pods and to the ranges of other
//! nodes. Services are elements of nftables maps: the rules are made once, and a change of a service's endpoints changes
//! elements, all in one transaction of the kernel. Names are answered from memory.

mod addresses;
mod bytecode;
mod conntrack;
mod dns;
mod elements;
mod files;
mod link;
mod netfilter;
mod node;
mod pods;
mod policies;
mod resolver;
mod routes;
mod rules;
mod services;
mod table;
mod tunnel;

pub use addresses::Range;
pub use dns::Search;
pub use node::{Config, Network, NetworkError, PodLink, upstream};
pub use pods::Wishes;
pub use policies::{Allowance, Peers, Policies, Ports};
pub use resolver::{DnsConfig, DnsPolicy, resolv_conf};
pub use services::{Endpoint, Host, HostPort, Protocol, Service, ServicePort};

/// Where services have their addresses, and where names are answered.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Where pods have theirs: those of the first 256 nodes in the first, all others in the second.
pub const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "240.0.0.0/8"];
pub const DNS_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 96, 0, 10);
pub const CLUSTER_DOMAIN: &str = "cluster.local";
