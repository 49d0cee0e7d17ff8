//! The node as the agent sees it: what it is, and what it can give.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use copepod_api::{Timestamp, quantity::Quantity, time::rfc3339};
use serde_json::{Value, json};

use crate::config::AgentConfig;

/// As in Kubernetes: more pods than this on one node are more than its network and its process table are made for.
const PODS_MAX: i64 = 110;

/// The version of Kubernetes whose API this node understands.
pub const KUBELET_VERSION: &str = concat!("v1.36.0+copepod.", env!("CARGO_PKG_VERSION"));

/// What the machine has.
pub fn capacity(data_dir: &Path) -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as i64);
    let memory = memory().0;
    BTreeMap::from([
        ("cpu".to_owned(), Quantity::from_value(cpus)),
        ("memory".to_owned(), Quantity::from_bytes(memory)),
        ("ephemeral-storage".to_owned(), Quantity::from_bytes(disk_bytes(data_dir))),
        ("pods".to_owned(), Quantity::from_value(PODS_MAX)),
        ("hugepages-1Gi".to_owned(), Quantity::ZERO),
        ("hugepages-2Mi".to_owned(), Quantity::ZERO),
    ])
}

fn disk_bytes(dir: &Path) -> i64 {
    nix::sys::statvfs::statvfs(dir)
        .map(|stat| i64::try_from(stat.blocks().saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX))
        .unwrap_or(0)
}

/// Total and available memory in bytes.
fn memory() -> (i64, i64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<i64>().ok()?.checked_mul(1024)
    };
    (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
}

/// What the whole machine uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineUsage {
    pub memory_bytes: u64,
    /// Since it started.
    pub cpu_nanoseconds: u64,
}

pub fn usage() -> MachineUsage {
    let (total, available) = memory();
    MachineUsage { memory_bytes: (total - available).max(0).unsigned_abs(), cpu_nanoseconds: cpu_nanoseconds() }
}

pub fn memory_text() -> String {
    let (total, available) = memory();
    format!("{} of {} left", Quantity::from_bytes(available), Quantity::from_bytes(total))
}

/// CPU time used by the whole machine since it started.
fn cpu_nanoseconds() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: all but the two that are waiting. A tick is 10 ms.
    let busy: u64 = ticks.iter().take(8).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, tick)| tick).sum();
    busy.saturating_mul(10_000_000)
}

/// The Node object of the first message.
pub fn object(
    config: &AgentConfig,
    address: IpAddr,
    capacity: &BTreeMap<String, Quantity>,
    runtime: &str,
    now: Timestamp,
) -> Value {
    let amounts: BTreeMap<&String, String> = capacity.iter().map(|(name, amount)| (name, amount.to_string())).collect();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch.to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch.to_owned()),
    ]);
    labels.extend(config.labels.clone());
    let calm = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "False", "reason": reason, "message": message,
               "lastHeartbeatTime": rfc3339(now), "lastTransitionTime": rfc3339(now)})
    };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.name, "labels": labels},
        "status": {
            "capacity": amounts, "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": address.to_string()},
                {"type": "Hostname", "address": config.name},
            ],
            "nodeInfo": {
                "architecture": arch, "operatingSystem": "linux",
                "kernelVersion": first_line("/proc/sys/kernel/osrelease"),
                "bootID": first_line("/proc/sys/kernel/random/boot_id"),
                "machineID": first_line("/etc/machine-id"),
                "systemUUID": first_line("/sys/class/dmi/id/product_uuid"),
                "osImage": os_image(),
                "containerRuntimeVersion": runtime,
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
            },
            "conditions": [
                calm("MemoryPressure", "KubeletHasSufficientMemory", "the node has memory to spare"),
                calm("DiskPressure", "KubeletHasNoDiskPressure", "the node has disk to spare"),
                calm("PIDPressure", "KubeletHasSufficientPID", "the node has process ids to spare"),
            ],
        },
    })
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The address from which this machine reaches the server; other nodes reach it there.
pub fn address_towards(server: &str) -> std::io::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect(server).map(|()| socket));
    // Connecting a datagram socket sends nothing; it only chooses the way.
    let socket = match socket {
        Ok(socket) => socket,
        Err(_) => {
            let socket = std::net::UdpSocket::bind("[::]:0")?;
            socket.connect(server)?;
            socket
        }
    };
    Ok(socket.local_addr()?.ip())
}
