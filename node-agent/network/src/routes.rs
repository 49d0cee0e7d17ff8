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

/// A range, and the next hop towards it: the node that it is behind, or the end of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub range: Range,
    pub hop: Ipv4Addr,
}

impl Route {
    /// The first address of a range is nobody's, but the tunnel's.
    pub fn is_tunnel(self) -> bool {
        self.hop == self.range.base
    }
}

fn message(route: Route) -> RouteMessageBuilder<Ipv4Addr> {
    let Route { range, hop } = route;
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(range.base, range.bits).gateway(hop).protocol(OURS)
}

/// `tunnel`: the link of a route through it.
pub async fn add(handle: &Handle, route: Route, tunnel: Option<u32>) -> Result<(), NetworkError> {
    let message = match tunnel {
        Some(index) => message(route).output_interface(index).onlink(),
        None => message(route),
    };
    let added = handle.route().add(message.build()).replace().execute().await;
    added.map_err(|error| NetworkError::netlink("a route to another node", error))
}

/// Whether a node is on one of our links, and is reached without anybody in between.
pub async fn is_near(handle: &Handle, node: Ipv4Addr) -> Result<bool, NetworkError> {
    let asked = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(node, 32).build();
    let found = handle.route().get(asked).execute().try_next().await;
    let found = found.map_err(|error| NetworkError::netlink("looking for the way to another node", error))?;
    Ok(found.is_some_and(|route| {
        !route
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)))
    }))
}

/// Gone already is as good.
pub async fn remove(handle: &Handle, route: Route) {
    if let Err(error) = handle.route().del(message(route).build()).execute().await {
        tracing::debug!(range = %route.range, %error, "a route to another node");
    }
}

/// Those that are there.
pub async fn held(handle: &Handle) -> Result<BTreeSet<Route>, NetworkError> {
    let all = all(handle).await?;
    let ours = all.iter().filter(|route| route.header.protocol == OURS);
    Ok(ours
        .filter_map(|route| {
            let mut base = None;
            let mut hop = None;
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => base = Some(*address),
                    RouteAttribute::Gateway(RouteAddress::Inet(address)) => hop = Some(*address),
                    _ => {}
                }
            }
            Some(Route { range: Range { base: base?, bits: route.header.destination_prefix_length }, hop: hop? })
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
