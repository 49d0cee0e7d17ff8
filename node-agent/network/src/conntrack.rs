//! What the kernel remembers of datagrams.
//!
//! A connection is led to an endpoint at its beginning and ends with it. Datagrams have neither beginning nor end: as long
//! as a client goes on sending, all are led to where the first was, be it gone long since. So when endpoints change, what
//! is remembered of those that are gone is forgotten, and the next datagram is led anew.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    POD_RANGES, SERVICE_RANGE,
    addresses::Range,
    elements::Backends,
    netfilter::{CONNECTIONS, Socket, attribute, find, nested},
    node::NetworkError,
    services::Protocol,
};

/// Of linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ADDRESSES: u16 = 1;
const PORTS: u16 = 2;

const ENOENT: i32 = 2;

/// Where datagrams come from and go to, and where answers do.
#[derive(Debug, PartialEq)]
struct Flow {
    from: SocketAddrV4,
    to: SocketAddrV4,
    answers_from: SocketAddrV4,
    answers_to: SocketAddrV4,
}

/// Forgets the datagrams that would go on to where nothing leads any more.
pub fn forget_datagrams(backends: &Backends) -> Result<(), NetworkError> {
    forget(|flow| is_stale(flow, backends)).map_err(|error| NetworkError::io("forgetting datagrams", error))
}

fn forget(is_stale: impl Fn(&Flow) -> bool) -> io::Result<()> {
    let mut socket = Socket::open()?;
    let mut stale = Vec::new();
    socket.dump(CONNECTIONS | GET, &[], |attributes| {
        if flow(attributes).is_some_and(|flow| is_stale(&flow)) {
            let mut this = Vec::new();
            if let Some(tuple) = find(attributes, ORIGINAL) {
                nested(&mut this, ORIGINAL, tuple);
            }
            // Not another that has taken its place meanwhile.
            if let Some(id) = find(attributes, ID) {
                attribute(&mut this, ID, id);
            }
            stale.push(this);
        }
    })?;
    for this in stale {
        match socket.order(CONNECTIONS | DELETE, &this) {
            Err(error) if error.raw_os_error() != Some(ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `None` for what is not UDP.
fn flow(attributes: &[u8]) -> Option<Flow> {
    let (from, to) = tuple(find(attributes, ORIGINAL)?)?;
    let (answers_from, answers_to) = tuple(find(attributes, REPLY)?)?;
    Some(Flow { from, to, answers_from, answers_to })
}

fn tuple(attributes: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let (addresses, ports) = (find(attributes, ADDRESSES)?, find(attributes, PORTS)?);
    if find(ports, 1)? != [Protocol::Udp.number()] {
        return None;
    }
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(find(addresses, kind)?).ok()?));
    let port = |kind| Some(u16::from_be_bytes(find(ports, kind)?.try_into().ok()?));
    Some((SocketAddrV4::new(address(1)?, port(2)?), SocketAddrV4::new(address(2)?, port(3)?)))
}

fn is_stale(flow: &Flow, backends: &Backends) -> bool {
    let within = |range: &str, address: &Ipv4Addr| Range::parse(range).is_some_and(|range| range.contains(*address));
    let is_pod = |address: &Ipv4Addr| POD_RANGES.iter().any(|range| within(range, address));
    let (to, end) = (flow.to, flow.answers_from);
    let is_led = to != end;
    if let Some(backends) = backends.at(to, Protocol::Udp) {
        return !backends.contains(&end);
    }
    if within(SERVICE_RANGE, to.ip()) {
        return is_led;
    }
    // The others are addresses of this machine, or none of ours.
    match backends.at_node(to.port(), Protocol::Udp) {
        Some(backends) if is_led => is_pod(end.ip()) && !backends.contains(&end),
        // It came before anybody was there to be led to. What left under another address went elsewhere.
        Some(_) => flow.answers_to == flow.from && !is_pod(to.ip()),
        None => is_led && is_pod(end.ip()) && !is_pod(to.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elements::{Elements, Part, Value};

    fn backends() -> Backends {
        let to = Value::Leads("10.244.1.2:5353".parse().unwrap());
        let udp = |port| [Part::Protocol(Protocol::Udp), Part::Port(port), Part::Place(0)].to_vec();
        let service = [vec![Part::Address(Ipv4Addr::new(10, 96, 0, 5))], udp(53)].concat();
        Backends::of(&Elements::from([
            ("endpoints", [(service, to.clone())].into()),
            ("node_endpoints", [(udp(30053), to)].into()),
        ]))
    }

    fn stale(from: &str, to: &str, answers_from: &str, answers_to: &str) -> bool {
        let [from, to, answers_from, answers_to] =
            [from, to, answers_from, answers_to].map(|address| address.parse().unwrap());
        is_stale(&Flow { from, to, answers_from, answers_to }, &backends())
    }

    #[test]
    fn datagrams_to_endpoints_that_are_gone_are_stale() {
        let pod = "10.244.1.9:4000";
        assert!(!stale(pod, "10.96.0.5:53", "10.244.1.2:5353", pod));
        assert!(stale(pod, "10.96.0.5:53", "10.244.1.3:5353", pod), "another endpoint");
        assert!(stale(pod, "10.96.0.6:53", "10.244.1.2:5353", pod), "a service that is gone");
        assert!(!stale(pod, "192.0.2.8:53", "192.0.2.8:53", "192.0.2.1:999"), "nothing of ours");
        assert!(!stale(pod, "10.244.1.3:30053", "10.244.1.3:30053", pod), "a pod with a port of that number");
    }

    #[test]
    fn datagrams_to_ports_of_the_node_are_stale_as_well() {
        let client = "192.0.2.8:4000";
        assert!(!stale(client, "192.0.2.1:30053", "10.244.1.2:5353", client));
        assert!(stale(client, "192.0.2.1:30053", "10.244.1.7:5353", client));
        assert!(stale(client, "192.0.2.1:30099", "10.244.1.2:5353", client), "a port that is gone");
        assert!(stale(client, "192.0.2.1:30053", "192.0.2.1:30053", client), "sent before anybody was there");
        assert!(!stale("10.244.1.9:4000", "192.0.2.9:30053", "192.0.2.9:30053", "192.0.2.1:999"), "elsewhere");
    }
}
