//! What there is to be reached, in the words of this room.

use std::{net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

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
    /// What comes from outside stays on the node that it came to, and the client's address is kept
    /// (externalTrafficPolicy Local).
    pub outside_stays: bool,
    /// What comes from inside stays on its node (internalTrafficPolicy Local).
    pub inside_stays: bool,
    /// A client is led to where it was led before, if that is no longer ago (sessionAffinity ClientIP).
    pub affinity: Option<Duration>,
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
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// As it stands in packets.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

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
    /// Is about to end and still takes requests: where they go when nobody else is there.
    pub is_leaving: bool,
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
