//! The way to nodes that are on none of our links: packets of pods in packets of nodes (VXLAN, RFC 7348).
//!
//! There is one tunnel a node, to all such nodes. What its kernel has to know of another is made from that one's address
//! and range alone: the hardware address of its end, which nodes so need not tell each other, and a next hop that nobody
//! else has, the first address of the range.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::{
    Handle, LinkUnspec, LinkVxlan,
    packet_route::{
        neighbour::{NeighbourFlags, NeighbourState},
        route::RouteType,
    },
};

use crate::{
    addresses::Range,
    link::{self, sysctl},
    node::NetworkError,
};

/// Not like the links of pods: what leaves here leaves the node.
const NAME: &str = "cptunnel";

/// The number of our network among those that share the port, and Linux' port for it.
const NETWORK: u32 = 1964;
const PORT: u16 = 8472;

/// What the packet around a packet takes away from its size.
const AROUND: u32 = 50;

/// The end of a node, as a locally administered hardware address.
fn end(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x02, 0xc0, a, b, c, d]
}

/// Makes our end, with the first address of our range. Done again, it changes nothing.
pub async fn open(handle: &Handle, own: (Range, Ipv4Addr), mtu: Option<u32>) -> Result<u32, NetworkError> {
    let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
    let (range, node) = own;
    if link::index_of(handle, NAME).await?.is_none() {
        let tunnel = LinkVxlan::new(NAME, NETWORK).local(node).port(PORT).learning(false).address(end(node).to_vec());
        let tunnel = match mtu {
            Some(mtu) => tunnel.mtu(mtu.saturating_sub(AROUND)),
            None => tunnel,
        };
        handle.link().add(tunnel.build()).execute().await.map_err(failed("making the tunnel to other nodes"))?;
    }
    let index = link::expect(handle, NAME).await?;
    let added = handle.address().add(index, IpAddr::V4(range.base), 32).replace().execute().await;
    added.map_err(failed("the address of the tunnel"))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(failed("bringing the tunnel up"))?;
    sysctl(&format!("conf/{NAME}/rp_filter"), "2")?;
    sysctl(&format!("conf/{NAME}/forwarding"), "1")?;
    Ok(index)
}

/// Makes known where the end of another node is.
pub async fn know(handle: &Handle, tunnel: u32, range: Range, node: Ipv4Addr) -> Result<(), NetworkError> {
    let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
    let hop = handle.neighbours().add(tunnel, IpAddr::V4(range.base)).link_layer_address(&end(node));
    let hop = hop.state(NeighbourState::Permanent).flags(NeighbourFlags::empty()).kind(RouteType::Unspec).replace();
    hop.execute().await.map_err(failed("the next hop of a tunnel"))?;
    let place = handle
        .neighbours()
        .add_bridge(tunnel, &end(node))
        .destination(IpAddr::V4(node))
        .flags(NeighbourFlags::Own)
        .replace();
    place.execute().await.map_err(failed("the other end of a tunnel"))
}

pub async fn remove(handle: &Handle) -> Result<(), NetworkError> {
    if let Some(index) = link::index_of(handle, NAME).await? {
        let removed = handle.link().del(index).execute().await;
        removed.map_err(|error| NetworkError::netlink("removing the tunnel", error))?;
    }
    Ok(())
}
