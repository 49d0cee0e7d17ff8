//! The nodes: agents of this process.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
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

/// The slices whose changes are measured, and the annotation that says which change it was.
pub const SLICE: &str = "big";
pub const TURN: &str = "bench/turn";

/// How many join at once. More would time out, as their handshakes alone keep both processors busy for seconds.
const JOINING_MAX: usize = 100;

/// How many nodes have one address in common: a server takes a few thousand connections from each.
const NODES_AN_ADDRESS: usize = 1_000;

/// Nobody takes longer to join.
const JOIN_MAX: Duration = Duration::from_secs(120);

pub struct Agents {
    nodes: Vec<Node>,
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
    turn: AtomicU64,
    /// Nanoseconds after `begin` when it heard of that turn.
    at: AtomicU64,
}

impl Heard {
    fn look(&self, cluster: &Cluster) {
        self.joined.fetch_or(!cluster.services.is_empty(), Ordering::Relaxed);
        let slice = cluster.slices.get(&format!("default/{SLICE}-0"));
        let annotations = slice.and_then(|slice| slice.metadata.annotations.as_ref());
        let turn = annotations.and_then(|annotations| annotations.get(TURN)?.parse().ok()).unwrap_or(0);
        if turn > self.turn.load(Ordering::Relaxed) {
            self.at.store(self.begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
            self.turn.store(turn, Ordering::Release);
        }
    }
}

impl Agents {
    /// Starts so many, and waits until all have joined and know the services.
    pub async fn start(n_nodes: usize, server: &Server, token: &str) -> Result<Agents, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut agents = Agents { nodes: Vec::new(), dir };
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
        let address = Ipv4Addr::new(127, 0, 1, 1 + (number / NODES_AN_ADDRESS) as u8);
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
        let heard = Arc::new(Heard { begin, joined: false.into(), turn: 0.into(), at: 0.into() });
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

    /// Waits until all have heard of a turn, and says how long after `begin` each did.
    pub async fn until_told(&self, turn: usize, begin: Instant, max: Duration) -> Result<Vec<Duration>, String> {
        let is_behind = |node: &Node| node.heard.turn.load(Ordering::Acquire) < turn as u64;
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

    /// The last so many are silent from here on.
    pub fn lose(&self, n_nodes: usize) {
        self.nodes.iter().rev().take(n_nodes).for_each(|node| node.stop.cancel());
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.stop.cancel());
    }
}
