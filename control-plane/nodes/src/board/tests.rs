//! What nodes hear of a board, held against what one hears that has just come.

use copepod_api::{
    Body, Expect, Op, Resource, Timestamp, Txn,
    resource::{ENDPOINT_SLICES, NODES, SERVICES},
};
use copepod_proto::nodes::{Change, Slice};
use copepod_store::difference::Place;
use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::slices::tests::of as slice;

/// A state, the board that reads its events, and what each node holds after what it was told.
struct World {
    view: View,
    board: Board,
    /// All events, to be missed.
    log: Vec<Event>,
    /// The place that the board has not read beyond.
    unread: usize,
    nodes: BTreeMap<Name, Held>,
    place: Place,
    /// The log reaches back to here for whoever asks; the rest of it is there to be compared.
    compacted: Revision,
}

#[derive(Default)]
struct Held {
    revision: u64,
    objects: BTreeMap<String, String>,
    slices: BTreeMap<String, (u64, BTreeMap<String, bool>)>,
    peers: BTreeMap<String, String>,
    messages: usize,
    bytes: usize,
}

impl Held {
    fn take(&mut self, parts: &[Bytes]) -> Vec<String> {
        self.messages += 1;
        parts.iter().flat_map(|part| self.take_part(part)).collect()
    }

    fn take_part(&mut self, bytes: &Bytes) -> Vec<String> {
        let delta = Delta::decode(bytes.clone()).unwrap();
        self.bytes += bytes.len();
        self.revision = delta.revision;
        if delta.reset {
            (self.objects, self.slices, self.peers) = Default::default();
        }
        let mut heard: Vec<String> = delta.changes.iter().map(text).collect();
        for change in &delta.changes {
            let key = format!("{}/{}", change.plural, change.name);
            match &change.object {
                Some(object) => self.objects.insert(key, String::from_utf8_lossy(object).into_owned()),
                None => self.objects.remove(&key),
            };
        }
        for slice in &delta.slices {
            heard.push(format!("{}slice/{}", if slice.gone { '-' } else { '+' }, slice.name));
            self.slice(slice);
        }
        for peer in &delta.peers {
            heard.push(format!("{}>{}", peer.range, peer.address));
            match peer.address.is_empty() {
                true => self.peers.remove(&peer.range),
                false => self.peers.insert(peer.range.clone(), peer.address.clone()),
            };
        }
        heard
    }

    fn slice(&mut self, slice: &Slice) {
        if slice.gone {
            self.slices.remove(&slice.name);
            return;
        }
        let mut endpoints = BTreeMap::new();
        if slice.base != 0 {
            let (revision, held) = self.slices.remove(&slice.name).expect("a difference to something that is held");
            assert_eq!(revision, slice.base);
            endpoints = held;
        }
        endpoints.retain(|address, _| !slice.left.contains(address));
        endpoints.extend(slice.endpoints.iter().map(|one| (one.addresses[0].clone(), one.ready)));
        self.slices.insert(slice.name.clone(), (slice.revision, endpoints));
    }

    /// Everything but what a reset after a deletion would name anew.
    fn all(&self) -> String {
        format!("{:?} {:?} {:?}", self.objects, self.slices, self.peers)
    }
}

fn text(change: &Change) -> String {
    let sign = if change.object.is_some() { '+' } else { '-' };
    format!("{sign}{}/{}", change.plural, change.name)
}

impl World {
    fn new() -> World {
        let view = View::default();
        let board = Board::new(&view);
        World {
            place: Place::new(view.clone()),
            view,
            board,
            compacted: Revision::ZERO,
            log: Vec::new(),
            unread: 0,
            nodes: BTreeMap::new(),
        }
    }

    fn with(nodes: &[&str]) -> World {
        let mut world = World::new();
        nodes.iter().for_each(|node| world.comes(node));
        world.tell();
        world
    }

    fn write(&mut self, op: Op) {
        let (view, events) = self.view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap();
        self.view = view;
        self.log.extend(events);
    }

    fn put(&mut self, resource: Resource, name: &str, mut object: Value) {
        object["metadata"]["name"] = json!(name);
        let key = Key::new(resource.clone(), namespace(&resource), name);
        let known = self.view.object(&key).map(|object| object.meta.uid.clone());
        object["metadata"]["uid"] = known.unwrap_or_else(|| format!("{name}-{}", self.view.revision())).into();
        self.write(Op::Put { key, body: Body::encode(&object), expect: Expect::Any });
    }

    fn delete(&mut self, resource: Resource, name: &str) {
        let key = Key::new(resource.clone(), namespace(&resource), name);
        self.write(Op::Delete { key, expect: Expect::Any });
    }

    /// A node with nothing.
    fn comes(&mut self, node: &str) {
        let told = self.board.welcome(&[node.into()], &self.view, None);
        self.nodes.entry(node.into()).or_default().take(&told[0]);
    }

    /// A node that was away, and knows what it knew.
    fn returns(&mut self, node: &str) {
        let from = Revision(self.nodes[node].revision);
        let missed: Vec<Event> = self.log.iter().filter(|event| event.revision > from).cloned().collect();
        let since = (from >= self.compacted).then_some(&*missed);
        let told = self.board.welcome(&[node.into()], &self.view, since);
        self.nodes.get_mut(node).unwrap().take(&told[0]);
    }

    /// The board reads so many events; what nodes hear of them at once.
    fn read(&mut self, n_events: usize) -> BTreeMap<Name, Vec<String>> {
        let events = self.log[self.unread..].iter().take(n_events).cloned().collect::<Vec<_>>();
        self.unread += events.len();
        let position = events.last().map_or(self.board.position(), |event| event.revision);
        self.place.read(&events, position, &self.view);
        let told = self.board.after(&events, &self.view, position);
        self.hear(told)
    }

    /// The log of events no longer says what the board has not read.
    fn misses(&mut self) {
        let missed = self.place.missed(&self.view, &crate::dispatch::TOLD);
        self.place = Place::new(self.view.clone());
        self.unread = self.log.len();
        self.compacted = self.view.revision();
        for node in self.board.newcomers().cloned().collect::<Vec<_>>() {
            self.comes(&node);
        }
        let told = self.board.after(&missed, &self.view, self.view.revision());
        self.hear(told);
    }

    fn hear(&mut self, told: Vec<Told>) -> BTreeMap<Name, Vec<String>> {
        told.into_iter()
            .map(|told| (told.node.clone(), self.nodes.get_mut(&told.node).unwrap().take(&told.delta)))
            .collect()
    }

    /// The board reads everything and tells what concerns all; what one node hears of that.
    fn tell(&mut self) -> Vec<String> {
        self.read(usize::MAX);
        let mut heard = Vec::new();
        if let Some(delta) = self.board.tell(&self.view) {
            for node in self.board.settled().cloned().collect::<Vec<_>>() {
                heard = self.nodes.get_mut(&node).unwrap().take(&delta);
            }
        }
        let missed = self.board.settle(&self.log, &self.view);
        self.hear(missed);
        heard
    }

    /// A node holds what it would if it had just come.
    fn check(&mut self, node: &str) {
        let mut fresh = World::new();
        (fresh.view, fresh.board) = (self.view.clone(), Board::new(&self.view));
        fresh.comes(node);
        assert_eq!(self.nodes[node].all(), fresh.nodes[node].all(), "{node}");
    }
}

fn namespace(resource: &Resource) -> &'static str {
    if *resource == NODES { "" } else { "d" }
}

fn pod(node: &str, config: &str) -> Value {
    json!({"metadata": {}, "spec": {"nodeName": node, "containers": [
        {"name": "c", "envFrom": [{"configMapRef": {"name": config}}]}]}})
}

fn heard(node: &str, what: &[&str]) -> BTreeMap<Name, Vec<String>> {
    BTreeMap::from([(node.into(), what.iter().map(|text| (*text).to_owned()).collect())])
}

#[test]
fn a_node_hears_of_its_own_pods_and_of_what_they_name() {
    let mut world = World::with(&["n1", "n3"]);
    let mut after = |change: &dyn Fn(&mut World)| {
        change(&mut world);
        world.read(1)
    };
    assert!(after(&|world| world.put(CONFIG_MAPS, "settings", json!({"metadata": {}}))).is_empty());
    assert!(after(&|world| world.put(PODS, "other", pod("n2", "settings"))).is_empty());
    let first = after(&|world| world.put(PODS, "mine", pod("n1", "settings")));
    assert_eq!(first, heard("n1", &["+configmaps/settings", "+pods/mine"]));
    let changed = after(&|world| world.put(CONFIG_MAPS, "settings", json!({"metadata": {}, "data": {"a": "b"}})));
    assert_eq!(changed, heard("n1", &["+configmaps/settings"]));
    assert_eq!(after(&|world| world.put(PODS, "second", pod("n1", "settings"))), heard("n1", &["+pods/second"]));
    assert_eq!(after(&|world| world.delete(PODS, "mine")), heard("n1", &["-pods/mine"]));
    let last = after(&|world| world.delete(PODS, "second"));
    assert_eq!(last, heard("n1", &["-configmaps/settings", "-pods/second"]));
    assert!(after(&|world| world.put(CONFIG_MAPS, "settings", json!({"metadata": {}}))).is_empty());
    world.check("n1");
}

#[test]
fn nodes_know_each_others_pods_while_there_are_policies() {
    let mut world = World::with(&["n1"]);
    let known = |address: &str, label: &str| {
        json!({"metadata": {"labels": {"app": label}}, "spec": {"nodeName": "n2", "containers": []},
            "status": {"podIPs": [{"ip": address}]}})
    };
    world.put(PODS, "far", known("10.244.2.2", "web"));
    assert!(world.tell().is_empty());
    world.put(NETWORK_POLICIES, "deny", json!({"metadata": {}, "spec": {"podSelector": {}}}));
    assert_eq!(world.tell(), ["+networkpolicies/deny", "+neighbours/n2"]);
    let mut same = known("10.244.2.2", "web");
    same["status"]["message"] = json!("what nobody else needs to know");
    world.put(PODS, "far", same);
    assert!(world.tell().is_empty());
    world.put(PODS, "far", known("10.244.2.2", "db"));
    assert_eq!(world.tell(), ["+neighbours/n2"]);
    world.check("n1");
    world.delete(PODS, "far");
    assert_eq!(world.tell(), ["-neighbours/n2"]);
}

#[test]
fn of_nodes_only_where_their_pods_are_is_told() {
    let mut world = World::with(&["n1"]);
    let node = |range: &str, address: &str, ready: &str| {
        json!({"metadata": {}, "spec": {"podCIDR": range}, "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": "n2"}],
            "conditions": [{"type": "Ready", "status": ready}]}})
    };
    let told = |world: &mut World, range: &str, address: &str, ready: &str| {
        world.put(NODES, "n2", node(range, address, ready));
        world.tell().join(" ")
    };
    world.put(NODES, "n2", json!({"metadata": {}, "spec": {"podCIDR": "10.244.2.0/24"}}));
    assert!(world.tell().is_empty());
    assert_eq!(told(&mut world, "10.244.2.0/24", "10.0.0.2", "True"), "10.244.2.0/24>10.0.0.2");
    assert_eq!(told(&mut world, "10.244.2.0/24", "10.0.0.2", "Unknown"), "");
    assert_eq!(told(&mut world, "10.244.2.0/24", "10.0.0.3", "True"), "10.244.2.0/24>10.0.0.3");
    assert_eq!(told(&mut world, "10.244.3.0/24", "10.0.0.3", "True"), "10.244.2.0/24> 10.244.3.0/24>10.0.0.3");
    world.check("n1");
    world.delete(NODES, "n2");
    assert_eq!(world.tell(), ["10.244.3.0/24>"]);
    world.check("n1");
}

/// A service of a thousand pods, of which one becomes ready: what a thousand nodes are told of that.
#[test]
fn a_change_of_an_endpoint_is_made_once_and_is_small() {
    let mut world = World::with(&["n1"]);
    let mut endpoints: Vec<String> = (0..100).map(|number| format!("10.244.7.{number}")).collect();
    world.put(ENDPOINT_SLICES, "web-1", slice(&endpoints));
    world.tell();
    let whole = world.nodes["n1"].bytes;
    endpoints[50].insert(0, '-');
    world.put(ENDPOINT_SLICES, "web-1", slice(&endpoints));
    assert_eq!(world.tell(), ["+slice/web-1"]);
    assert!(world.nodes["n1"].bytes - whole < 200, "{} after {whole}", world.nodes["n1"].bytes);
    world.check("n1");

    // Encoded once, however many are told: everybody holds the same bytes.
    let names: Vec<Name> = (0..1_000).map(|number| format!("m{number}").into()).collect();
    world.board.welcome(&names, &world.view, None);
    world.read(0);
    world.board.tell(&world.view);
    world.board.settle(&[], &world.view);
    endpoints[51].insert(0, '-');
    world.put(ENDPOINT_SLICES, "web-1", slice(&endpoints));
    assert!(world.read(1).is_empty(), "nobody is told anything alone");
    let told = world.board.tell(&world.view).unwrap();
    assert_eq!((world.board.settled().count(), told[0].len() < 200), (1_001, true));
}

#[test]
fn a_node_is_not_told_what_it_has_said_itself() {
    let mut world = World::with(&["n1"]);
    let pod = |phase: &str| {
        let mut pod = pod("n1", "settings");
        pod["status"] = json!({"phase": phase});
        pod
    };
    world.put(PODS, "mine", pod("Pending"));
    assert_eq!(world.read(1), heard("n1", &["+pods/mine"]));
    world.put(PODS, "mine", pod("Running"));
    assert!(world.read(1).is_empty());
    world.put(CONFIG_MAPS, "settings", json!({"metadata": {}}));
    assert_eq!(world.read(1), heard("n1", &["+configmaps/settings"]), "it still holds what the pod names");
    world.put(PODS, "mine", pod("Failed"));
    assert_eq!(world.read(1), heard("n1", &["+pods/mine"]));
    world.check("n1");
}

/// A thousand nodes that join are news of each to each; one at a time, that would be a million messages.
#[test]
fn where_new_nodes_are_waits_until_something_else_is_told() {
    let mut world = World::with(&["n1"]);
    let before = world.nodes["n1"].messages;
    for number in 0..1_000 {
        let (high, low) = (number / 256, number % 256);
        let address = json!([{"type": "InternalIP", "address": format!("10.0.{high}.{low}")}]);
        let node = json!({"metadata": {}, "spec": {"podCIDR": format!("10.{high}.{low}.0/24")},
            "status": {"addresses": address}});
        world.put(NODES, &format!("m{number}"), node);
        world.read(1);
        assert_eq!(world.board.haste(), Haste::Late);
    }
    world.put(ENDPOINT_SLICES, "web-1", slice(&["10.244.7.1".to_owned()]));
    world.read(1);
    assert_eq!(world.board.haste(), Haste::Soon);
    world.put(SERVICES, "web", json!({"metadata": {}, "spec": {}}));
    world.read(1);
    assert_eq!(world.board.haste(), Haste::Now);
    assert_eq!(world.tell().len(), 1_002);
    assert_eq!(world.nodes["n1"].messages, before + 1);
    world.check("n1");
}

#[test]
fn changes_that_come_together_are_told_together() {
    let mut world = World::with(&["n1"]);
    let before = world.nodes["n1"].messages;
    for number in 0..50 {
        let endpoints: Vec<String> = (0..=number).map(|number| format!("10.244.7.{number}")).collect();
        world.put(ENDPOINT_SLICES, "web-1", slice(&endpoints));
    }
    world.put(SERVICES, "web", json!({"metadata": {}, "spec": {}}));
    assert_eq!(world.tell(), ["+services/web", "+slice/web-1"]);
    assert_eq!(world.nodes["n1"].messages, before + 1);
    world.check("n1");
}

/// Nodes come and go at any time while the board is behind, and each holds in the end what it would if it had just come.
#[test]
fn whenever_a_node_comes_it_misses_nothing_and_unlearns_nothing() {
    for seed in 0..300_u64 {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |n: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % n
        };
        let mut world = World::with(&["n1"]);
        let mut away: BTreeSet<&str> = BTreeSet::new();
        for _ in 0..60 {
            let name = format!("o{}", roll(3));
            match roll(13) {
                // Neither its node nor what it names ever changes.
                0 if world.view.object(&Key::new(PODS, "d", name.as_str())).is_some() => (),
                0 => world.put(PODS, &name, pod(["n1", "n2", "n3"][roll(3) as usize], &format!("o{}", roll(3)))),
                1 => world.put(CONFIG_MAPS, &name, json!({"metadata": {}, "data": {"a": roll(100).to_string()}})),
                2 => world.put(SERVICES, &name, json!({"metadata": {}, "spec": {"port": roll(9)}})),
                3 | 4 => {
                    let endpoints: Vec<String> = (0..roll(5)).map(|n| format!("10.0.{}.{n}", roll(3))).collect();
                    world.put(ENDPOINT_SLICES, "web-1", slice(&endpoints));
                }
                5 => {
                    let kinds = [PODS, CONFIG_MAPS, SERVICES, ENDPOINT_SLICES, NODES];
                    let kind = kinds[roll(5) as usize].clone();
                    let name = if kind == ENDPOINT_SLICES { "web-1" } else { &name };
                    if world.view.object(&Key::new(kind.clone(), namespace(&kind), name)).is_some() {
                        world.delete(kind, name);
                    }
                }
                6 => world.put(
                    NODES,
                    &name,
                    json!({
                        "metadata": {}, "spec": {"podCIDR": format!("10.1.{name}.0/24")},
                        "status": {"addresses": [{"type": "InternalIP", "address": format!("10.0.0.{}", roll(4))}]},
                    }),
                ),
                7 => world.comes(["n2", "n3"][roll(2) as usize]),
                8 => {
                    let node = ["n1", "n2"][roll(2) as usize];
                    if world.nodes.contains_key(node) {
                        world.board.leave(&node.into());
                        away.insert(node);
                    }
                }
                9 => away.pop_first().into_iter().for_each(|node| world.returns(node)),
                10 => drop(world.read(roll(3) as usize)),
                11 => world.misses(),
                _ => drop(world.tell()),
            }
        }
        away.into_iter().for_each(|node| world.returns(node));
        // Newcomers are settled at the first, and hear with all others at the second.
        world.tell();
        world.tell();
        for node in world.nodes.keys().cloned().collect::<Vec<_>>() {
            world.check(&node);
        }
    }
}
