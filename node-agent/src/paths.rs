//! What the node was told of the ways to others: endpoint slices, and where the pods of each node are.
//!
//! These change with every pod of the cluster, so they come as differences, are kept in the few fields that the data path
//! is made of, and where many change they are written down together, after they were acted upon. An agent that starts again
//! asks from the revision that was written last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, ErrorKind, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use copepod_network::Range;
use copepod_proto::nodes::{self, Delta, Peer};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    assignments::{is_safe, remove, write},
    surface::{Endpoint, Peers, Slice, Slices},
};

const PEERS: &str = "peers";

/// Written last: how many there are of each, to tell when a power cut has lost some.
const COUNTS: &str = "paths";

/// Lines more than there are peers before they are written anew.
const SLACK: usize = 64;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    slices: usize,
    /// Lines about others, of which the last about each holds.
    peers: usize,
}

/// What changed since it was written down.
pub struct Paths {
    dir: PathBuf,
    /// The node's own name.
    node: String,
    /// Slices, by namespace and name.
    changed: BTreeSet<String>,
    peers: ChangedPeers,
    /// Lines about others in the file; `None` while there is no file that could be added to.
    n_lines: Option<usize>,
}

/// What is to be written of where pods are.
enum ChangedPeers {
    All,
    These(BTreeSet<Range>),
}

impl ChangedPeers {
    fn none() -> ChangedPeers {
        ChangedPeers::These(BTreeSet::new())
    }

    fn is_none(&self) -> bool {
        matches!(self, ChangedPeers::These(ranges) if ranges.is_empty())
    }

    fn add(&mut self, range: Range) {
        if let ChangedPeers::These(ranges) = self {
            ranges.insert(range);
        }
    }
}

/// A difference to something that this node does not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the difference of slice {0} is to another than is here")]
pub struct Missing(String);

impl Paths {
    /// `dir` is where the assignments are. False: some are missing.
    pub fn open(dir: &Path, node: &str) -> io::Result<(Paths, Slices, Peers, bool)> {
        let mut paths = Paths {
            dir: dir.to_owned(),
            node: node.into(),
            changed: BTreeSet::new(),
            peers: ChangedPeers::none(),
            n_lines: None,
        };
        fs::create_dir_all(paths.slices())?;
        let (mut slices, mut peers) = (Slices::default(), Peers::default());
        for entry in fs::read_dir(paths.slices())? {
            let path = entry?.path();
            match nodes::Slice::decode(fs::read(&path)?.as_slice()) {
                Ok(slice) if path.extension().is_none() => drop(paths.slice(slice, &mut slices)),
                _ => remove(&path)?,
            }
        }
        let read = |name| match fs::read(dir.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        };
        if let Some((written, n_lines)) = unpack(&read(PEERS)?) {
            (peers, paths.n_lines) = (written, Some(n_lines));
        }
        paths.changed.clear();
        let counts: Counts = serde_json::from_slice(&read(COUNTS)?).unwrap_or_default();
        let is_whole = counts == Counts { slices: slices.len(), peers: paths.n_lines.unwrap_or(0) };
        Ok((paths, slices, peers, is_whole))
    }

    fn slices(&self) -> PathBuf {
        self.dir.join("slices")
    }

    /// Takes over what a delta says; whether anything is otherwise than it was.
    pub fn apply(&mut self, delta: Delta, slices: &mut Slices, peers: &mut Peers) -> Result<bool, Missing> {
        let mut changed = false;
        if delta.reset {
            let named: BTreeSet<String> = delta.slices.iter().map(key).collect();
            let others: Vec<String> = slices.keys().filter(|key| !named.contains(*key)).cloned().collect();
            for other in others {
                Arc::make_mut(slices).remove(&other);
                self.changed.insert(other);
                changed = true;
            }
            let named: BTreeSet<Range> = delta.peers.iter().filter_map(|peer| Range::parse(&peer.range)).collect();
            if peers.others.keys().any(|range| !named.contains(range)) {
                Arc::make_mut(&mut peers.others).retain(|range, _| named.contains(range));
                (self.peers, changed) = (ChangedPeers::All, true);
            }
        }
        for peer in &delta.peers {
            changed |= self.peer(peer, peers);
        }
        for slice in delta.slices {
            changed |= self.slice(slice, slices)?;
        }
        Ok(changed)
    }

    fn slice(&mut self, told: nodes::Slice, slices: &mut Slices) -> Result<bool, Missing> {
        let key = key(&told);
        if !is_safe(&told.namespace) || !is_safe(&told.name) {
            tracing::warn!(key, "a slice with an impossible name was ignored");
            return Ok(false);
        }
        let held = slices.get(&key);
        if told.gone {
            let was_held = held.is_some() && Arc::make_mut(slices).remove(&key).is_some();
            self.changed.extend(was_held.then_some(key));
            return Ok(was_held);
        }
        let mut slice = match told.base {
            0 => Slice::default(),
            base => match held.filter(|held| held.revision == base) {
                Some(held) => Slice::clone(held),
                None => return Err(Missing(key)),
            },
        };
        slice.namespace = told.namespace;
        slice.service = told.service;
        slice.revision = told.revision;
        slice.ports = told.ports;
        for left in told.left.iter().filter_map(|address| address.parse().ok()) {
            slice.endpoints.remove(&left);
        }
        let endpoints = told.endpoints.iter().filter_map(|endpoint| self.endpoint(endpoint));
        slice.endpoints.extend(endpoints);
        let is_same = slices.get(&key).is_some_and(|held| **held == slice);
        if !is_same {
            Arc::make_mut(slices).insert(key.clone(), Arc::new(slice));
            self.changed.insert(key);
        }
        Ok(!is_same)
    }

    /// An endpoint is known by its first address; the others stand for the same.
    fn endpoint(&self, told: &nodes::Endpoint) -> Option<(Ipv4Addr, Endpoint)> {
        let endpoint = Endpoint {
            is_ready: told.ready,
            is_leaving: told.leaving,
            is_local: told.node == self.node,
            hostname: Some(told.hostname.as_str()).filter(|name| !name.is_empty()).map(Into::into),
        };
        Some((told.addresses.first()?.parse().ok()?, endpoint))
    }

    fn peer(&mut self, told: &Peer, peers: &mut Peers) -> bool {
        let Some(range) = Range::parse(&told.range) else {
            tracing::warn!(node = told.node, range = told.range, "a range of pods that this node cannot reach");
            return false;
        };
        let address: Option<Ipv4Addr> = told.address.parse().ok();
        if told.node == self.node {
            let own = address.map(|address| (range, address));
            let changed = std::mem::replace(&mut peers.own, own) != own;
            if changed {
                self.peers = ChangedPeers::All;
            }
            return changed;
        }
        if peers.others.get(&range).copied() == address {
            return false;
        }
        let others = Arc::make_mut(&mut peers.others);
        match address {
            Some(address) => others.insert(range, address),
            None => others.remove(&range),
        };
        self.peers.add(range);
        true
    }

    pub fn is_written(&self) -> bool {
        self.changed.is_empty() && self.peers.is_none()
    }

    pub fn has_unwritten_slices(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Writes down what has changed; how many bytes.
    pub fn write(&mut self, slices: &Slices, peers: &Peers) -> io::Result<usize> {
        if self.is_written() {
            return Ok(0);
        }
        let mut n_bytes = 0;
        while let Some(key) = self.changed.first() {
            let file = key.replace('/', "_");
            match slices.get(key) {
                Some(slice) => {
                    let told = self.told_of(key, slice).encode_to_vec();
                    write(&self.slices(), &file, &told)?;
                    n_bytes += told.len();
                }
                None => remove(&self.slices().join(file))?,
            }
            self.changed.pop_first();
        }
        n_bytes += self.write_peers(peers)?;
        let counts = Counts { slices: slices.len(), peers: self.n_lines.unwrap_or(0) };
        write(&self.dir, COUNTS, &serde_json::to_vec(&counts).map_err(io::Error::other)?)?;
        Ok(n_bytes)
    }

    /// Adds lines about those that have changed, or writes all anew.
    fn write_peers(&mut self, peers: &Peers) -> io::Result<usize> {
        if self.peers.is_none() {
            return Ok(0);
        }
        // Whatever comes of it, it is not known what stands there until all is written anew.
        let changed = std::mem::replace(&mut self.peers, ChangedPeers::All);
        let n_bytes = match (changed, self.n_lines.take()) {
            (ChangedPeers::These(ranges), Some(n_lines))
                if n_lines + ranges.len() <= 2 * peers.others.len() + SLACK =>
            {
                let line = |range: &Range| line(*range, peers.others.get(range).copied());
                let lines: Vec<u8> = ranges.iter().flat_map(line).collect();
                fs::OpenOptions::new().append(true).open(self.dir.join(PEERS))?.write_all(&lines)?;
                self.n_lines = Some(n_lines + ranges.len());
                lines.len()
            }
            _ => {
                let packed = pack(peers);
                write(&self.dir, PEERS, &packed)?;
                self.n_lines = Some(peers.others.len());
                packed.len()
            }
        };
        self.peers = ChangedPeers::none();
        Ok(n_bytes)
    }

    fn told_of(&self, key: &str, slice: &Slice) -> nodes::Slice {
        let endpoints = slice.endpoints.iter().map(|(address, endpoint)| nodes::Endpoint {
            addresses: vec![address.to_string()],
            ready: endpoint.is_ready,
            leaving: endpoint.is_leaving,
            node: if endpoint.is_local { self.node.clone() } else { String::new() },
            hostname: endpoint.hostname.as_deref().unwrap_or_default().to_owned(),
        });
        nodes::Slice {
            namespace: slice.namespace.clone(),
            name: key.split_once('/').map_or(key, |(_, name)| name).to_owned(),
            revision: slice.revision,
            service: slice.service.clone(),
            ports: slice.ports.clone(),
            endpoints: endpoints.collect(),
            ..nodes::Slice::default()
        }
    }
}

/// A range, and the address of its node; zero when it is nobody's.
const LINE_BYTES: usize = 9;

fn line(range: Range, address: Option<Ipv4Addr>) -> [u8; LINE_BYTES] {
    let [a, b, c, d] = range.base.octets();
    let [e, f, g, h] = address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    [a, b, c, d, range.bits, e, f, g, h]
}

/// Where pods are, as it is written down: as short as can be, for each of ten thousand nodes is told of all others, and
/// adds a line whenever one comes. Whether the own range is known, which is then the first line, and the lines.
fn pack(peers: &Peers) -> Vec<u8> {
    let others = peers.others.iter().map(|(range, address)| (*range, *address));
    let lines = peers.own.into_iter().chain(others).flat_map(|(range, address)| line(range, Some(address)));
    std::iter::once(u8::from(peers.own.is_some())).chain(lines).collect()
}

/// Also how many lines there are about others. `None` if it is something else.
fn unpack(packed: &[u8]) -> Option<(Peers, usize)> {
    let (has_own, packed) = packed.split_first()?;
    let (lines, []) = packed.as_chunks::<LINE_BYTES>() else { return None };
    if lines.iter().any(|line| line[4] > 32) {
        return None;
    }
    let mut lines = lines.iter().map(|[a, b, c, d, bits, address @ ..]| {
        let range = Range { base: Ipv4Addr::new(*a, *b, *c, *d), bits: *bits };
        (range, Ipv4Addr::from(*address))
    });
    let own = match has_own {
        0 => None,
        1 => Some(lines.next()?),
        _ => return None,
    };
    let n_lines = lines.len();
    let mut others: BTreeMap<Range, Ipv4Addr> = lines.collect();
    others.retain(|_, address| !address.is_unspecified());
    Some((Peers { own, others: Arc::new(others) }, n_lines))
}

fn key(slice: &nodes::Slice) -> String {
    format!("{}/{}", slice.namespace, slice.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, ready: bool) -> nodes::Endpoint {
        nodes::Endpoint { addresses: vec![address.into()], ready, node: "n1".into(), ..nodes::Endpoint::default() }
    }

    fn slice(revision: u64, base: u64, endpoints: &[(&str, bool)], left: &[&str]) -> nodes::Slice {
        nodes::Slice {
            namespace: "d".into(),
            name: "web-1".into(),
            revision,
            base,
            service: "web".into(),
            endpoints: endpoints.iter().map(|(address, ready)| endpoint(address, *ready)).collect(),
            left: left.iter().map(|address| (*address).to_owned()).collect(),
            ..nodes::Slice::default()
        }
    }

    fn peer(node: &str, range: &str, address: &str) -> Peer {
        Peer { node: node.into(), range: range.into(), address: address.into() }
    }

    fn told(slices: &Slices, peers: &Peers) -> String {
        let slices = slices.iter().flat_map(|(key, slice)| {
            let one = |(address, endpoint): (&Ipv4Addr, &Endpoint)| format!("{address}={}", endpoint.is_ready);
            std::iter::once(format!("{key}@{}", slice.revision)).chain(slice.endpoints.iter().map(one))
        });
        let own = peers.own.iter().map(|(range, _)| format!("own {range}"));
        let others = peers.others.iter().map(|(range, address)| format!("{range}>{address}"));
        slices.chain(own).chain(others).collect::<Vec<_>>().join(" ")
    }

    struct World {
        dir: tempfile::TempDir,
        paths: Paths,
        slices: Slices,
        peers: Peers,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            let (paths, slices, peers, _) = Paths::open(dir.path(), "n1").unwrap();
            World { dir, paths, slices, peers }
        }

        fn apply(&mut self, slices: Vec<nodes::Slice>, peers: Vec<Peer>, reset: bool) -> Result<bool, Missing> {
            let delta = Delta { reset, slices, peers, ..Delta::default() };
            self.paths.apply(delta, &mut self.slices, &mut self.peers)
        }

        fn told(&self) -> String {
            told(&self.slices, &self.peers)
        }

        fn written(&self) -> String {
            let (_, slices, peers, _) = Paths::open(self.dir.path(), "n1").unwrap();
            told(&slices, &peers)
        }
    }

    #[test]
    fn differences_add_up_and_outlive_the_agent_once_written() {
        let mut world = World::new();
        let nodes = vec![peer("n1", "10.1.1.0/24", "10.0.0.1"), peer("n2", "10.1.2.0/24", "10.0.0.2")];
        assert_eq!(world.apply(vec![slice(5, 0, &[("10.1.2.2", true)], &[])], nodes, true), Ok(true));
        let changed = slice(7, 5, &[("10.1.2.2", false), ("10.1.2.3", true), ("fd00::1", true)], &[]);
        assert_eq!(world.apply(vec![changed], vec![], false), Ok(true));
        assert_eq!(
            world.told(),
            "d/web-1@7 10.1.2.2=false 10.1.2.3=true own 10.1.1.0/24 10.1.2.0/24>10.0.0.2",
            "what is no address of this network is left out"
        );
        assert_eq!((world.written().as_str(), world.paths.is_written()), ("", false));
        assert!(world.paths.write(&world.slices, &world.peers).unwrap() > 50);
        assert_eq!((world.written(), world.paths.is_written()), (world.told(), true));

        assert_eq!(world.apply(vec![slice(9, 7, &[], &["10.1.2.2"])], vec![], false), Ok(true));
        assert_eq!(world.apply(vec![], vec![peer("n2", "10.1.2.0/24", "")], false), Ok(true));
        world.paths.write(&world.slices, &world.peers).unwrap();
        assert_eq!(world.written(), "d/web-1@9 10.1.2.3=true own 10.1.1.0/24");
        assert_eq!(world.apply(vec![], vec![], true), Ok(true), "what a reset does not name is gone");
        world.paths.write(&world.slices, &world.peers).unwrap();
        assert_eq!(world.written(), "own 10.1.1.0/24");
    }

    #[test]
    fn where_pods_are_is_read_as_it_was_packed_and_nothing_else_is() {
        let range = |text| Range::parse(text).unwrap();
        let (one, two) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 1));
        let others = Arc::new(BTreeMap::from([(range("10.1.2.0/24"), one), (range("240.0.0.0/20"), two)]));
        for own in [None, Some((range("10.1.1.0/24"), two))] {
            let packed = pack(&Peers { own, others: others.clone() });
            let (read, n_lines) = unpack(&packed).unwrap();
            assert_eq!((read.own, read.others, n_lines), (own, others.clone(), 2));
            let torn = &packed[..packed.len() - 1];
            assert!(unpack(torn).is_none() && unpack(&[&[2], &packed[1..]].concat()).is_none());
            let wide = [&packed[..5], &[33], &packed[6..]].concat();
            assert!(unpack(&wide).is_none());
        }
        assert!(unpack(&[]).is_none() && unpack(&[1]).is_none());
    }

    #[test]
    fn a_node_more_is_a_line_more_until_most_lines_say_what_is_over() {
        let mut world = World::new();
        let node = |number: u8| peer(&format!("n{number}"), &format!("10.1.{number}.0/24"), "10.0.0.9");
        world.apply(vec![], (1..=200).map(node).collect(), true).unwrap();
        world.paths.write(&world.slices, &world.peers).unwrap();
        let (mut n_bytes, mut longest) = (Vec::new(), 0);
        for turn in 0..600 {
            let told = Peer { address: ["", "10.0.0.7"][turn % 2].into(), ..node(201) };
            world.apply(vec![], vec![told], false).unwrap();
            n_bytes.push(world.paths.write(&world.slices, &world.peers).unwrap());
            longest = longest.max(fs::metadata(world.dir.path().join(PEERS)).unwrap().len());
            assert_eq!(world.written(), world.told());
        }
        let n_whole = n_bytes.iter().filter(|n_bytes| **n_bytes > LINE_BYTES).count();
        assert!((1..=3).contains(&n_whole), "{n_whole}");
        assert!(longest < 5_000, "{longest}");
    }

    #[test]
    fn a_line_that_a_power_cut_has_lost_is_missed() {
        let mut world = World::new();
        world.apply(vec![], vec![peer("n2", "10.1.2.0/24", "10.0.0.2")], true).unwrap();
        world.paths.write(&world.slices, &world.peers).unwrap();
        let before = fs::read(world.dir.path().join(PEERS)).unwrap();
        // As many nodes as before, so that their number would not tell.
        let news = vec![peer("n2", "10.1.2.0/24", ""), peer("n3", "10.1.3.0/24", "10.0.0.3")];
        world.apply(vec![], news, false).unwrap();
        world.paths.write(&world.slices, &world.peers).unwrap();
        assert!(Paths::open(world.dir.path(), "n1").unwrap().3);
        fs::write(world.dir.path().join(PEERS), before).unwrap();
        assert!(!Paths::open(world.dir.path(), "n1").unwrap().3);
    }

    #[test]
    fn a_difference_to_something_else_is_refused_and_the_same_changes_nothing() {
        let mut world = World::new();
        world.apply(vec![slice(5, 0, &[("10.1.2.2", true)], &[])], vec![], true).unwrap();
        assert_eq!(world.apply(vec![slice(5, 0, &[("10.1.2.2", true)], &[])], vec![], false), Ok(false));
        assert_eq!(world.apply(vec![slice(9, 6, &[], &[])], vec![], false), Err(Missing("d/web-1".into())));
        let mut bad = slice(9, 0, &[], &[]);
        bad.name = "../../x".into();
        assert_eq!(world.apply(vec![bad], vec![], false), Ok(false));
    }
}
