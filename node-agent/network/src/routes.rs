//! Routes to the pods of other nodes.
//!
//! They carry a number that says whose they are, so that an agent that starts again finds those of its former life, and
//! takes away the ones to nodes that have left meanwhile.

use std::{collections::BTreeSet, net::Ipv4Addr};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
    },
};

use crate::{addresses::Range, node::NetworkError};

/// Who made a route; a number that no other program is known to use (iproute2's rt_protos).
const OURS: RouteProtocol = RouteProtocol::Other(122);

/// A range, and the node that it is behind, which must be on one of our links.
pub type Route = (Range, Ipv4Addr);

fn message((range, node): Route) -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(range.base, range.bits);
    route.gateway(node).protocol(OURS).build()
}

pub async fn add(handle: &Handle, route: Route) -> Result<(), NetworkError> {
    let added = handle.route().add(message(route)).replace().execute().await;
    added.map_err(|error| NetworkError::netlink("a route to another node (is it on the same network?)", error))
}

/// Gone already is as good.
pub async fn remove(handle: &Handle, route: Route) {
    if let Err(error) = handle.route().del(message(route)).execute().await {
        tracing::debug!(range = %route.0, %error, "a route to another node");
    }
}

/// Those that are there.
pub async fn held(handle: &Handle) -> Result<BTreeSet<Route>, NetworkError> {
    let all = all(handle).await?;
    let ours = all.iter().filter(|route| route.header.protocol == OURS);
    Ok(ours
        .filter_map(|route| {
            let mut base = None;
            let mut node = None;
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => base = Some(*address),
                    RouteAttribute::Gateway(RouteAddress::Inet(address)) => node = Some(*address),
                    _ => {}
                }
            }
            Some((Range { base: base?, bits: route.header.destination_prefix_length }, node?))
        })
        .collect())
}

/// The link of the route to everywhere.
pub async fn uplink(handle: &Handle) -> Option<u32> {
    let all = all(handle).await.ok()?;
    let default = all.iter().find(|route| route.header.destination_prefix_length == 0)?;
    default.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

async fn all(handle: &Handle) -> Result<Vec<RouteMessage>, NetworkError> {
    let asked = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut all: Vec<RouteMessage> =
        asked.try_collect().await.map_err(|error| NetworkError::netlink("listing routes", error))?;
    all.retain(|route| route.header.address_family == AddressFamily::Inet);
    Ok(all)
}
