//! `copepod server`: runs a server, and says and changes who the servers are.
//!
//! Without a verb it runs one, here. The verbs speak to a cluster, but for `recover`, whose cluster can answer no more.

mod list;
mod members;
mod recover;
mod run;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use copepod_control_plane::Founder;

use crate::failure::{Failure, Outcome};

pub use run::{Run, run};

pub const DATA_DIR: &str = "/var/lib/copepod/server";
pub const ADMIN_KUBECONFIG: &str = "/var/lib/copepod/server/admin.kubeconfig";

/// The port of servers, where nothing else is said.
const PORT: u16 = 6443;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Server {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Lists the servers: who leads, who votes, how far behind each is, and how many may fail
    List,
    /// Takes a server out of the cluster
    Remove {
        /// As `copepod server list` names it
        name: String,
    },
    /// Makes a server the leader
    Transfer {
        /// As `copepod server list` names it
        name: String,
    },
    /// When most servers are lost for good: makes the one whose directory this is a cluster of its own
    Recover(Reborn),
}

pub async fn verb(verb: Verb, global: &crate::Global) -> Outcome {
    match verb {
        Verb::List => list::run(&crate::connect(global).await?).await,
        Verb::Remove { name } => members::remove(&crate::connect(global).await?, &name).await,
        Verb::Transfer { name } => members::transfer(&crate::connect(global).await?, &name).await,
        Verb::Recover(reborn) => recover::run(reborn),
    }
}

/// The server that a cluster begins with anew; it is to be started under the same name and address.
#[derive(Args)]
pub struct Reborn {
    /// Where the server keeps, or will keep, its log, snapshots and keys
    #[arg(long, env = "COPEPOD_DATA_DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// Name of the server [default: the host's name]
    #[arg(long, env = "COPEPOD_NAME")]
    name: Option<String>,
    /// host:port under which others will reach it [default: the address of the way out, and port 6443]
    #[arg(long, env = "COPEPOD_ADVERTISE")]
    advertise: Option<String>,
}

impl Reborn {
    pub fn founder(&self) -> Outcome<Founder> {
        Ok(Founder {
            name: self.name.clone().map_or_else(crate::agent::host_name, Ok)?,
            address: self.advertise.clone().map_or_else(|| own_address(PORT), Ok)?,
        })
    }

    /// How it is started from now on.
    pub fn command(&self, founder: &str) -> String {
        let data_dir = match self.data_dir.as_os_str() == DATA_DIR {
            true => String::new(),
            false => format!(" --data-dir {}", self.data_dir.display()),
        };
        let advertise = self.advertise.as_ref().map(|address| format!(" --advertise {address}")).unwrap_or_default();
        format!("copepod server --name {founder}{advertise}{data_dir}")
    }
}

/// The address under which this machine is reached, as far as it can be told.
fn own_address(port: u16) -> Outcome<String> {
    let address = crate::agent::way_out()
        .ok_or_else(|| Failure::new("this machine's address is not clear").hint("say it with --advertise HOST:PORT"))?;
    Ok(SocketAddr::new(address, port).to_string())
}
