//! The nodes: agents of this process.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use copepod_node_agent::{AgentConfig, RuntimeChoice, hollow, run_with, surface::Cluster};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::server::Server;

/// The slices whose changes are measured.
pub const SLICE: &str = "big";

/// How many join at once. More would time out, as their handshakes alone keep both processors busy for seconds.
const JOINING_MAX: usize = 100;

/// Nodes have so many addresses, each an equal part of them: a server takes a few thousand connections from each, and those
/// of one can be cut off together.
const ADDRESSES: usize = 10;

/// The nftables table that cuts nodes off.
const TABLE: &str = "copepod_bench";

/// Nobody takes longer to join.
const JOIN_MAX: Duration = Duration::from_secs(120);

pub struct Agents {
    nodes: Vec<Node>,
    n_nodes: usize,
    /// Theirs, and gone with them.
    dir: tempfile::TempDir,
}

struct Node {
    stop: CancellationToken,
    heard: Arc<Heard>,
}

/// What one node has heard of the cluster.
struct Heard {
    begin: Instant,
    joined: AtomicBool,
    /// Of the first slice.
    revision: AtomicU64,
    /// Nanoseconds after `begin` when it heard of that revision.
    at: AtomicU64,
}

impl Heard {
    fn look(&self, cluster: &Cluster) {
        self.joined.fetch_or(!cluster.services.is_empty(), Ordering::Relaxed);
        let slice = cluster.slices.get(&format!("default/{SLICE}-0"));
        let revision = slice.map_or(0, |slice| slice.revision);
        if revision > self.revision.load(Ordering::Relaxed) {
            self.at.store(self.begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
            self.revision.store(revision, Ordering::Release);
        }
    }
}

impl Agents {
    /// Starts so many, and waits until all have joined and know the services.
    pub async fn start(n_nodes: usize, server: &Server, token: &str) -> Result<Agents, String> {
        // What a run that was killed has left.
        let _ = nft(&format!("delete table ip {TABLE}"));
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut agents = Agents { nodes: Vec::new(), n_nodes, dir };
        let joining = Arc::new(Semaphore::new(JOINING_MAX));
        for number in 0..n_nodes {
            let permit = joining.clone().acquire_owned().await.map_err(|error| error.to_string())?;
            let node = agents.start_one(number, server, token);
            let heard = node.heard.clone();
            agents.nodes.push(node);
            tokio::spawn(async move {
                let _permit = permit;
                let until = Instant::now() + JOIN_MAX;
                while !heard.joined.load(Ordering::Relaxed) && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        let all = joining.acquire_many(JOINING_MAX as u32).await.map_err(|error| error.to_string());
        drop(all?);
        match agents.nodes.iter().filter(|node| !node.heard.joined.load(Ordering::Relaxed)).count() {
            0 => Ok(agents),
            missing => Err(format!("{missing} nodes did not join within {} s", JOIN_MAX.as_secs())),
        }
    }

    fn start_one(&self, number: usize, server: &Server, token: &str) -> Node {
        let name = format!("hollow-{number}");
        let data_dir = self.dir.path().join(&name);
        let address = address(number * ADDRESSES / self.n_nodes);
        let config = AgentConfig {
            cgroup: name.clone(),
            run_dir: data_dir.join("run"),
            images_dir: data_dir.join("images"),
            name,
            data_dir,
            server: Some(server.address().to_string()),
            token: Some(token.to_owned()),
            address: Some(IpAddr::V4(address)),
            labels: BTreeMap::new(),
            runtime: RuntimeChoice::Embedded,
            mirrors: Vec::new(),
        };
        let begin = Instant::now();
        let heard = Arc::new(Heard { begin, joined: false.into(), revision: 0.into(), at: 0.into() });
        let told = heard.clone();
        // Addresses of pods, a hundred and some a node.
        let first = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + (number as u32) * 256);
        let rooms = hollow::rooms(first, Some(Arc::new(move |cluster: &Cluster| told.look(cluster))));
        let stop = CancellationToken::new();
        let ends = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = run_with(config, rooms, ends).await {
                eprintln!("error: a node: {error}");
            }
        });
        Node { stop, heard }
    }

    /// Waits until all have heard of a revision of the first slice, and says how long after `begin` each did.
    pub async fn until_told(&self, revision: u64, begin: Instant, max: Duration) -> Result<Vec<Duration>, String> {
        let is_behind = |node: &Node| node.heard.revision.load(Ordering::Acquire) < revision;
        while self.nodes.iter().any(is_behind) {
            if begin.elapsed() > max {
                let n_behind = self.nodes.iter().filter(|node| is_behind(node)).count();
                return Err(format!("{n_behind} nodes were not told of a change"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let at = |node: &Node| node.heard.begin + Duration::from_nanos(node.heard.at.load(Ordering::Relaxed));
        Ok(self.nodes.iter().map(|node| at(node).saturating_duration_since(begin)).collect())
    }

    /// A tenth of the machines is dead from here on: nothing comes from them, and nothing reaches them.
    pub fn lose_a_tenth(&self) -> Result<(), String> {
        let lost = address(ADDRESSES - 1);
        nft(&format!(
            "table ip {TABLE} {{ chain input {{ type filter hook input priority 0; ip saddr {lost} drop; ip daddr {lost} drop; }}; }}"
        ))
    }
}

fn address(part: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + part as u8)
}

fn nft(command: &str) -> Result<(), String> {
    let output = Command::new("nft").arg(command).output().map_err(|error| format!("nft: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.stop.cancel());
        // There is none unless nodes were lost.
        let _ = nft(&format!("delete table ip {TABLE}"));
    }
}
