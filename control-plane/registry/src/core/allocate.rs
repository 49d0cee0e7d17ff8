//! Addresses, ports and ranges, given out in the transaction that uses them.
//!
//! What is taken is what objects say: there is no second book that could differ from the first. It is read once a
//! transaction, when the first allocation asks. A free number is searched from a random place, so that a number just
//! given back is not at once somebody else's (clients that still remember it would talk to a stranger).

use std::{collections::BTreeSet, net::Ipv4Addr};

use copepod_api::{
    field::{Errors, Path},
    k8s_openapi::api::core::v1 as core,
    resource,
};

use crate::pipeline::World;

/// Services' addresses: 10.96.0.0/16.
const SERVICE_RANGE: (u32, u32) = (0x0a60_0000, 0x0a60_ffff);
pub const SERVICE_RANGE_TEXT: &str = "10.96.0.0/16";

/// The address of the API itself, for pods.
const KUBERNETES_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The address that agents answer DNS at.
const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Below the range that kernels give to outgoing connections.
pub const NODE_PORTS: (u32, u32) = (30_000, 32_767);

/// Pods' addresses: every node has one /24 of 10.244.0.0/16, and the nodes beyond the first 256 one of 240.0.0.0/8:
/// hardly any network is there, and Linux carries it as it does any other.
const POD_RANGES: [(u32, u32); 2] = [(0x0af4_0000, 256), (0xf000_0000, 65_536)];
const NODE_RANGE_BITS: u32 = 8;

/// Addresses that nobody is given; whoever names one on purpose may have it.
fn reserved(address: u32) -> bool {
    address == SERVICE_RANGE.0
        || address == SERVICE_RANGE.1
        || address == u32::from(KUBERNETES_ADDRESS)
        || address == u32::from(DNS_ADDRESS)
}

fn service_addresses<'w>(world: &'w mut World<'_>) -> &'w mut BTreeSet<u32> {
    let view = world.view.clone();
    world.taken.entry("service addresses").or_insert_with(|| {
        view.list::<core::Service>(None)
            .filter_map(|service| service.spec.as_ref()?.cluster_ip.as_ref()?.parse::<Ipv4Addr>().ok().map(u32::from))
            .collect()
    })
}

fn node_ports<'w>(world: &'w mut World<'_>) -> &'w mut BTreeSet<u32> {
    let view = world.view.clone();
    world.taken.entry("node ports").or_insert_with(|| {
        view.list::<core::Service>(None)
            .flat_map(|service| {
                let spec = service.spec.as_ref();
                let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
                let numbers: Vec<u32> = ports.filter_map(|port| u32::try_from(port.node_port?).ok()).collect();
                numbers
            })
            .collect()
    })
}

/// The number of a range, counted through all that there are.
fn range_number(cidr: &str) -> Option<u32> {
    let address: Ipv4Addr = cidr.strip_suffix("/24")?.parse().ok()?;
    let mut before = 0;
    for (first, size) in POD_RANGES {
        let number = u32::from(address).checked_sub(first).map(|offset| offset >> NODE_RANGE_BITS);
        if let Some(number) = number.filter(|number| *number < size) {
            return Some(before + number);
        }
        before += size;
    }
    None
}

fn range_of(number: u32) -> String {
    let (first, size) = POD_RANGES[0];
    let address = match number.checked_sub(size) {
        None => first + (number << NODE_RANGE_BITS),
        Some(number) => POD_RANGES[1].0 + (number << NODE_RANGE_BITS),
    };
    format!("{}/24", Ipv4Addr::from(address))
}

/// A free number of `range`, searched from a random place and wrapping around.
fn free(taken: &BTreeSet<u32>, range: (u32, u32), dice: u64, allowed: impl Fn(u32) -> bool) -> Option<u32> {
    let size = u64::from(range.1 - range.0) + 1;
    let start = range.0 + (dice % size) as u32;
    (start..=range.1).chain(range.0..start).find(|number| allowed(*number) && !taken.contains(number))
}

/// A free address for a service.
pub fn service_address(world: &mut World<'_>) -> Option<Ipv4Addr> {
    let dice = world.random();
    let taken = service_addresses(world);
    let address = free(taken, SERVICE_RANGE, dice, |address| !reserved(address))?;
    taken.insert(address);
    Some(Ipv4Addr::from(address))
}

/// The address that a service asks for.
pub fn claim_service_address(world: &mut World<'_>, address: Ipv4Addr, path: &Path<'_>, errors: &mut Errors) {
    let number = u32::from(address);
    let text = address.to_string();
    if number <= SERVICE_RANGE.0 || number >= SERVICE_RANGE.1 {
        let why = format!(
            "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid \
             IPs is {SERVICE_RANGE_TEXT}"
        );
        errors.invalid(path, text, &why);
    } else if !service_addresses(world).insert(number) {
        let why = format!("failed to allocate IP {address}: provided IP is already allocated");
        errors.invalid(path, text, &why);
    }
}

/// A free node port.
pub fn node_port(world: &mut World<'_>) -> Option<u32> {
    let dice = world.random();
    let taken = node_ports(world);
    let port = free(taken, NODE_PORTS, dice, |_| true)?;
    taken.insert(port);
    Some(port)
}

/// The node port that a service asks for.
pub fn claim_node_port(world: &mut World<'_>, port: u32, path: &Path<'_>, errors: &mut Errors) {
    let (first, last) = NODE_PORTS;
    if port < first || port > last {
        errors.invalid(
            path,
            port,
            &format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"),
        );
    } else if !node_ports(world).insert(port) {
        errors.invalid(path, port, "provided port is already allocated");
    }
}

/// A free range of pod addresses for a node. Low ones read well, and are given first: as many as there are nodes have been
/// given, so the search begins behind them, and comes to those that were given back in the end.
pub fn node_range(world: &World<'_>) -> Option<String> {
    let n_ranges = POD_RANGES.iter().map(|(_, size)| size).sum::<u32>();
    let n_nodes = u32::try_from(world.view.count(&resource::NODES)).unwrap_or(u32::MAX).min(n_ranges);
    (n_nodes..n_ranges).chain(0..n_nodes).map(range_of).find(|range| !world.view.has_node_range(range))
}

/// Whether a node may have the range that it asks for: no other has it.
pub fn is_free_node_range(world: &World<'_>, cidr: &str) -> bool {
    range_number(cidr).is_none() || !world.view.has_node_range(cidr)
}

#[cfg(test)]
mod tests {
    use copepod_api::DeleteOptions;
    use serde_json::json;

    use super::*;
    use crate::tests::fixture::Fixture;

    #[test]
    fn ranges_are_given_in_order_and_given_again_when_the_rest_is_taken() {
        let mut world = Fixture::new();
        let join = |world: &mut Fixture, name: &str, spec: serde_json::Value| {
            let node = world.create("nodes", json!({"metadata": {"name": name}, "spec": spec}));
            node.map(|node| node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned())
        };
        let ranges = ["a", "b", "c"].map(|name| join(&mut world, name, json!({})).unwrap());
        assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
        world.delete("nodes/a", DeleteOptions::default()).unwrap();
        assert_eq!(join(&mut world, "d", json!({})).unwrap(), "10.244.3.0/24", "behind those that are there");
        assert!(join(&mut world, "e", json!({"podCIDR": "10.244.1.0/24"})).is_err(), "it is another's");
        assert_eq!(join(&mut world, "e", json!({"podCIDR": "10.244.0.0/24"})).unwrap(), "10.244.0.0/24");
    }

    #[test]
    fn every_node_has_a_range_of_its_own_and_the_first_have_the_best_known() {
        let ranges = [0, 255, 256, 256 + 65_535].map(range_of);
        assert_eq!(ranges, ["10.244.0.0/24", "10.244.255.0/24", "240.0.0.0/24", "240.255.255.0/24"]);
        assert_eq!(ranges.map(|range| range_number(&range)), [0, 255, 256, 256 + 65_535].map(Some));
        assert_eq!(["10.245.0.0/24", "10.244.0.0/16", "x"].map(range_number), [None; 3]);
    }
}
