//! Links and routes, over netlink.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    path::Path,
};

use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        neighbour::{NeighbourFlags, NeighbourState},
        route::RouteScope,
    },
};

use crate::{addresses::Range, node::NetworkError};

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
pub async fn attach(handle: &Handle, pod: &str, netns: &Path, address: Ipv4Addr) -> Result<(), NetworkError> {
    let name = name_of(pod);
    let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
    let namespace = File::open(netns).map_err(|error| NetworkError::io(netns.display(), error))?;
    let index = match index_of(handle, &name).await? {
        Some(index) => index,
        None => {
            let peer = format!("{}p", &name[..14]);
            handle.link().add(LinkVeth::new(&name, &peer).build()).execute().await.map_err(failed("making a link"))?;
            let inside = expect(handle, &peer).await?;
            let moved = LinkUnspec::new_with_index(inside).setns_by_fd(namespace.as_raw_fd()).name("eth0").build();
            handle.link().set(moved).execute().await.map_err(failed("moving a link into its namespace"))?;
            expect(handle, &name).await?
        }
    };
    let up = LinkUnspec::new_with_index(index).address(HOST_MAC.to_vec()).up().build();
    handle.link().set(up).execute().await.map_err(failed("bringing a link up"))?;
    // Packets of a pod come from the one address that is routed to it, so a loose check is what a strict one would be.
    sysctl(&format!("conf/{name}/rp_filter"), "2")?;
    sysctl(&format!("conf/{name}/forwarding"), "1")?;
    inside(namespace, address).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    handle.route().add(route).replace().execute().await.map_err(failed("making the route to a pod"))
}

/// A namespace belongs to a thread, so the inside is set up by one of its own.
async fn inside(namespace: File, address: Ipv4Addr) -> Result<(), NetworkError> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let work = move || -> Result<(), NetworkError> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetworkError::io("entering a pod's namespace", error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| NetworkError::io("a runtime for a pod's namespace", error))?;
        runtime.block_on(async {
            let handle = connect()?;
            let failed = |what: &'static str| move |error: rtnetlink::Error| NetworkError::netlink(what, error);
            let index = expect(&handle, "eth0").await?;
            let up = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(up).execute().await.map_err(failed("bringing eth0 up"))?;
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
            handle.route().add(out).replace().execute().await.map_err(failed("the way out of a pod"))
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

/// Sends the range of another node to that node, which must be on one of our links.
pub async fn route_to(handle: &Handle, range: Range, node: Ipv4Addr) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(range.base, range.bits).gateway(node).build();
    handle
        .route()
        .add(route)
        .replace()
        .execute()
        .await
        .map_err(|error| NetworkError::netlink("a route to another node (is it on the same network?)", error))
}

pub async fn forget_route(handle: &Handle, range: Range, node: Ipv4Addr) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(range.base, range.bits).gateway(node).build();
    // Gone already is as good.
    let _ = handle.route().del(route).execute().await;
    Ok(())
}

/// Gives the loopback an address of the node's own, such as that of the name service.
pub async fn own(handle: &Handle, address: Ipv4Addr) -> Result<(), NetworkError> {
    let index = expect(handle, "lo").await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(|error| NetworkError::netlink("bringing the loopback up", error))?;
    let added = handle.address().add(index, IpAddr::V4(address), 32).replace().execute().await;
    added.map_err(|error| NetworkError::netlink("an address of the loopback", error))
}

pub async fn disown(handle: &Handle, address: Ipv4Addr) -> Result<(), NetworkError> {
    let mut addresses = handle.address().get().set_address_filter(IpAddr::V4(address)).execute();
    while let Ok(Some(found)) = addresses.try_next().await {
        if found.header.family == AddressFamily::Inet {
            let _ = handle.address().del(found).execute().await;
        }
    }
    Ok(())
}

/// Every link of ours.
pub async fn remove_all(handle: &Handle) -> Result<(), NetworkError> {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let own: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.len() == 15 && name.starts_with("cpd") && name[3..].bytes().all(|byte| byte.is_ascii_hexdigit())
        })
        .collect();
    for name in own {
        if let Some(index) = index_of(handle, &name).await? {
            let _ = handle.link().del(index).execute().await;
        }
    }
    Ok(())
}

async fn expect(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    index_of(handle, name).await?.ok_or_else(|| NetworkError::Other(format!("there is no link {name}")))
}

async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
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
