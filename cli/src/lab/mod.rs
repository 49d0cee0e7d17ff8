//! A real multi-node cluster on one machine.
//!
//! Every server and node is a process of its own in a network namespace of its own, on a private bridge, with its own
//! data directory: what runs here is what runs on machines, and links can be cut. Whatever is made is written into a
//! ledger first, so that `down` finds all of it, and nothing that is not in the ledger is touched.

mod down;
mod faults;
mod ledger;
mod network;
mod process;
mod sweep;
mod up;

use std::{net::Ipv4Addr, path::PathBuf};

use clap::{Args, Subcommand};

use crate::{
    client::Client,
    failure::{Doing, Failure, Outcome},
    kubeconfig,
};

pub use down::down;
use ledger::Ledger;
pub use up::up;

/// Servers of a local cluster. More than seven make writes slower and nothing safer.
const SERVERS_MAX: u8 = 7;
/// Nodes of a local cluster; bounded by the addresses of its network.
const NODES_MAX: u8 = 100;

pub const PORT: u16 = 6443;

#[derive(Args)]
pub struct Up {
    /// Servers of the control plane; an odd number
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=SERVERS_MAX as i64))]
    servers: u8,
    /// Nodes that run containers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=NODES_MAX as i64))]
    nodes: u8,
    /// Mirror of a registry for all nodes: docker.io=http://198.18.0.1:5000; may be given several times
    #[arg(long = "mirror", value_name = "REGISTRY=URL")]
    mirrors: Vec<String>,
}

#[derive(Subcommand)]
pub enum Fault {
    /// Powers servers or nodes off: their processes are killed, their links cut
    Stop { names: Vec<String> },
    /// Cuts servers or nodes off from all others; everything on them keeps running
    Partition { names: Vec<String> },
    /// Brings servers or nodes back; without names, all of them
    Heal { names: Vec<String> },
    /// Shows what runs where
    Status,
}

pub async fn fault(fault: Fault) -> Outcome {
    match fault {
        Fault::Stop { names } => faults::stop(&names),
        Fault::Partition { names } => faults::partition(&names),
        Fault::Heal { names } => faults::heal(&names),
        Fault::Status => faults::status(),
    }
}

/// Which local cluster: several can stand side by side under different names, each with a network of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lab {
    pub name: String,
}

impl Lab {
    /// The one that `COPEPOD_LAB` names, or the usual one.
    pub fn current() -> Lab {
        let name = std::env::var("COPEPOD_LAB").ok().filter(|name| !name.is_empty());
        Lab { name: name.unwrap_or_else(|| "lab".to_owned()) }
    }

    pub fn checked() -> Outcome<Lab> {
        let lab = Lab::current();
        let fits =
            lab.name.len() <= 6 && lab.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if fits {
            return Ok(lab);
        }
        Err(Failure::new(format!("COPEPOD_LAB={:?}: a name has at most 6 lower-case letters and digits", lab.name)))
    }

    pub fn directory(&self) -> PathBuf {
        PathBuf::from("/var/lib/copepod").join(&self.name)
    }

    pub fn run_directory(&self) -> PathBuf {
        PathBuf::from("/run/copepod").join(&self.name)
    }

    pub fn images(&self) -> PathBuf {
        self.directory().join("images")
    }

    pub fn bridge(&self) -> String {
        format!("cpd-{}", self.name)
    }

    /// The third byte of the lab's network in 198.18.0.0/15, the range kept for tests of networks (RFC 2544).
    fn network_byte(&self) -> u8 {
        if self.name == "lab" {
            return 0;
        }
        let sum = self.name.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        (sum % 254 + 1) as u8
    }

    /// The host's own address on the bridge.
    pub fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.network_byte(), 1)
    }

    pub fn network(&self) -> String {
        format!("198.18.{}.0/24", self.network_byte())
    }

    pub fn member(&self, role: Role, number: u8) -> Member {
        let (letter, base) = match role {
            Role::Server => ('s', 10),
            Role::Node => ('n', 100),
        };
        let name = format!("{letter}{number}");
        Member {
            role,
            address: Ipv4Addr::new(198, 18, self.network_byte(), base + number),
            namespace: format!("copepod-{}-{name}", self.name),
            link: format!("cpd{}-{name}", self.name),
            cgroup: format!("{}-{name}", self.name),
            directory: self.directory().join(&name),
            run_directory: self.run_directory().join(&name),
            log: self.directory().join("log").join(format!("{name}.log")),
            name,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Node,
}

/// A server or node of the lab, and everything on this machine that is its own.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
    /// Its network namespace, in `/run/netns`.
    pub namespace: String,
    /// The bridge's end of its link.
    pub link: String,
    /// Its cgroup below `copepod/`: other local clusters have nodes of the same names.
    pub cgroup: String,
    pub directory: PathBuf,
    pub run_directory: PathBuf,
    pub log: PathBuf,
}

impl Member {
    pub fn endpoint(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }
}

pub fn kubeconfig_path() -> PathBuf {
    Lab::current().directory().join("kubeconfig")
}

/// `copepod kubeconfig`: prints the path of a kubeconfig of a server that answers.
pub async fn kubeconfig() -> Outcome {
    choose_server().await?;
    println!("{}", kubeconfig_path().display());
    Ok(())
}

/// Makes the local cluster's kubeconfig that of a server that answers.
pub async fn choose_server() -> Outcome {
    let lab = Lab::checked()?;
    let ledger = Ledger::read(&lab)?
        .ok_or_else(|| Failure::new("there is no local cluster").hint("start one with `copepod up`"))?;
    let servers = ledger.servers(&lab);
    for server in &servers {
        if answers(server).await {
            let path = kubeconfig_path();
            let text = std::fs::read(server.kubeconfig()).doing(server.kubeconfig().display())?;
            process::write_private(&path, &text)?;
            return Ok(());
        }
    }
    Err(Failure::new(format!("none of the {} servers answers", servers.len()))
        .hint("`copepod lab status` shows what runs; `copepod up` starts what does not"))
}

/// Whether a server is ready: it knows a leader and serves reads.
pub(crate) async fn answers(server: &Member) -> bool {
    let Ok(client) = kubeconfig::read(&server.kubeconfig(), None).and_then(Client::new) else { return false };
    let read = client.get("/api/v1/namespaces/default");
    matches!(tokio::time::timeout(std::time::Duration::from_secs(1), read).await, Ok(Ok(Ok(_))))
}
