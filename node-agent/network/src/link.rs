//! The links of pods, over netlink.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        address::{AddressMessage, AddressScope},
        link::{InfoData, InfoVeth, LinkAttribute},
        neighbour::{NeighbourFlags, NeighbourState},
        route::RouteScope,
    },
};

use crate::node::NetworkError;

/// What pods see as their next hop. It is no address of anybody: the neighbour entry for it is made with the link.
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The hardware address of every host end: pods need to know it before they can ask.
const HOST_MAC: [u8; 6] = [0xee, 0xee, 0xee, 0xee, 0xee, 0xee];

pub fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = new_connection().map_err(|error| NetworkError::io("netlink", error))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The host's end of a pod's link. At most 15 characters, the same for the same pod.
pub fn name_of(pod: &str) -> String {
    let hash =
        pod.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("cpd{:012x}", hash & 0xffff_ffff_ffff)
}

/// Connects a namespace: a veth with one end in it, called eth0, and a route to it. Done again, it changes nothing.
pub async fn attach(
    handle: &Handle,
    pod: &str,
    netns: &Path,
    address: Ipv4Addr,
    mtu: Option<u32>,
) -> Result<(), NetworkError> {
    let name = name_of(pod);
    let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
    let namespace = File::open(netns).map_err(|error| NetworkError::io(netns.display(), error))?;
    let mut is_whole = index_of(handle, &name).await?.is_some();
    if is_whole && !inside(&namespace, address).await? {
        // The other end is in a namespace of before, which may be about to go and take the link with it.
        detach(handle, pod).await?;
        is_whole = false;
    }
    if !is_whole {
        let made = handle.link().add(pair(&name, namespace.as_raw_fd(), mtu)).execute().await;
        made.map_err(failed("making a link"))?;
        if !inside(&namespace, address).await? {
            return Err(NetworkError::Other(format!("{name} has lost its other end")));
        }
    }
    let index = expect(handle, &name).await?;
    let up = LinkUnspec::new_with_index(index).address(HOST_MAC.to_vec()).up().build();
    handle.link().set(up).execute().await.map_err(failed("bringing a link up"))?;
    // Packets of a pod come from the one address that is routed to it, so a loose check is what a strict one would be.
    sysctl(&format!("conf/{name}/rp_filter"), "2")?;
    sysctl(&format!("conf/{name}/forwarding"), "1")?;
    // What this machine sends to a port of its loopback may lead here. The rules drop what comes from here to a loopback.
    sysctl(&format!("conf/{name}/route_localnet"), "1")?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    handle.route().add(route).replace().execute().await.map_err(failed("making the route to a pod"))
}

/// Both ends in one step, the pod's where it belongs: there is no moment at which half of it would be left.
fn pair(name: &str, namespace: RawFd, mtu: Option<u32>) -> rtnetlink::packet_route::link::LinkMessage {
    let inner = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(namespace);
    let outer = LinkVeth::new(name, "eth0");
    let (inner, outer) = match mtu {
        Some(mtu) => (inner.mtu(mtu), outer.mtu(mtu)),
        None => (inner, outer),
    };
    outer.set_info_data(InfoData::Veth(InfoVeth::Peer(inner.build()))).build()
}

/// A namespace belongs to a thread, so the inside is set up by one of its own. False if no link leads into it.
async fn inside(namespace: &File, address: Ipv4Addr) -> Result<bool, NetworkError> {
    let namespace = namespace.try_clone().map_err(|error| NetworkError::io("a pod's namespace", error))?;
    let (done, outcome) = tokio::sync::oneshot::channel();
    let work = move || -> Result<bool, NetworkError> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetworkError::io("entering a pod's namespace", error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| NetworkError::io("a runtime for a pod's namespace", error))?;
        runtime.block_on(async {
            let handle = connect()?;
            let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
            let Some(index) = index_of(&handle, "eth0").await? else { return Ok(false) };
            let loopback = expect(&handle, "lo").await?;
            for index in [loopback, index] {
                let up = LinkUnspec::new_with_index(index).up().build();
                handle.link().set(up).execute().await.map_err(failed("bringing eth0 up"))?;
            }
            let added = handle.address().add(index, IpAddr::V4(address), 32).replace().execute().await;
            added.map_err(failed("giving eth0 its address"))?;
            let neighbour = handle
                .neighbours()
                .add(index, IpAddr::V4(NEXT_HOP))
                .link_layer_address(&HOST_MAC)
                .state(NeighbourState::Permanent)
                .flags(NeighbourFlags::empty())
                .replace();
            neighbour.execute().await.map_err(failed("the neighbour of eth0"))?;
            let hop = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(NEXT_HOP, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build();
            handle.route().add(hop).replace().execute().await.map_err(failed("the route to the next hop"))?;
            let out = RouteMessageBuilder::<Ipv4Addr>::new().gateway(NEXT_HOP).output_interface(index).build();
            handle.route().add(out).replace().execute().await.map_err(failed("the way out of a pod"))?;
            Ok(true)
        })
    };
    std::thread::spawn(move || {
        let _ = done.send(work());
    });
    outcome.await.unwrap_or_else(|_| Err(NetworkError::Other("the thread of a pod's namespace ended early".into())))
}

pub async fn detach(handle: &Handle, pod: &str) -> Result<(), NetworkError> {
    match index_of(handle, &name_of(pod)).await? {
        Some(index) => {
            let removed = handle.link().del(index).execute().await;
            removed.map_err(|error| NetworkError::netlink("removing a pod's link", error))
        }
        None => Ok(()),
    }
}

/// Gives the loopback an address of the node's own, such as that of the name service. It is good on this machine only
/// (scope host): else the kernel would take it for what the machine sends to its pods.
pub async fn own(handle: &Handle, address: Ipv4Addr) -> Result<(), NetworkError> {
    let index = expect(handle, "lo").await?;
    let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(failed("bringing the loopback up"))?;
    let held = having(handle, address).await?;
    if held.iter().any(|held| held.header.scope == AddressScope::Host) {
        return Ok(());
    }
    for other in held {
        handle.address().del(other).execute().await.map_err(failed("an address of the loopback"))?;
    }
    let mut adding = handle.address().add(index, IpAddr::V4(address), 32);
    adding.message_mut().header.scope = AddressScope::Host;
    adding.execute().await.map_err(failed("an address of the loopback"))
}

pub async fn disown(handle: &Handle, address: Ipv4Addr) -> Result<(), NetworkError> {
    for held in having(handle, address).await? {
        let _ = handle.address().del(held).execute().await;
    }
    Ok(())
}

async fn having(handle: &Handle, address: Ipv4Addr) -> Result<Vec<AddressMessage>, NetworkError> {
    let all = handle.address().get().set_address_filter(IpAddr::V4(address)).execute().try_collect::<Vec<_>>().await;
    let mut all = all.map_err(|error| NetworkError::netlink("listing addresses", error))?;
    all.retain(|found| found.header.family == AddressFamily::Inet);
    Ok(all)
}

/// Every link of ours.
pub async fn remove_all(handle: &Handle) -> Result<(), NetworkError> {
    let all = handle.link().get().execute().try_collect::<Vec<_>>().await;
    for link in all.map_err(|error| NetworkError::netlink("listing links", error))? {
        let is_own = |name: &str| {
            name.len() == 15 && name.starts_with("cpd") && name[3..].bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if is_own(name))) {
            let _ = handle.link().del(link.header.index).execute().await;
        }
    }
    Ok(())
}

/// How large packets may be on the link through which this machine reaches others; `None` without one.
pub async fn mtu(handle: &Handle, uplink: u32) -> Option<u32> {
    let link = handle.link().get().match_index(uplink).execute().try_next().await.ok()??;
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

pub async fn expect(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    index_of(handle, name).await?.ok_or_else(|| NetworkError::Other(format!("there is no link {name}")))
}

pub async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    const ENODEV: i32 = 19;
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -ENODEV => Ok(None),
        Err(error) => Err(NetworkError::netlink("looking for a link", error)),
    }
}

pub fn sysctl(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    if fs::read_to_string(&path).is_ok_and(|held| held.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|error| NetworkError::io(path, error))
}
