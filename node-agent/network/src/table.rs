//! What the kernel is told: the rules once, and then elements, in transactions.
//!
//! ```text
//! packet to 10.96.7.8 tcp 80
//!   services:  10.96.7.8 . tcp . 80       → goto pick-3        (three endpoints)
//!   pick-3:    10.96.7.8 . tcp . 80 . dice below 3
//!   endpoints: 10.96.7.8 . tcp . 80 . 2   → 10.244.1.9 . 8080
//! ```
//! The chains depend on the number of endpoints only and are shared by all services, so a change of a service is a
//! handful of elements, whatever the number of services. A transaction of the kernel takes them all or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    bytecode::{Rule, text, value},
    conntrack,
    elements::{Backends, Elements, Key, Part, Value},
    netfilter::{Batch, NFTABLES, Socket, attribute, attributes, find, nested},
    node::NetworkError,
    rules::{AFFINITY, Chain, Gives, MAPS, Map, Shared, TABLE, chains},
    services::Protocol,
};

/// Messages of linux/netfilter/nf_tables.h.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

/// Elements in one message, whose list may be 64 KiB long; one is about a hundred bytes.
const ELEMENTS_AT_ONCE: usize = 400;

/// Maps that say who wants to be led where he was led before.
const STICKY_FRONTS: [&str; 2] = ["sticky_services", "sticky_ports"];

const ENOENT: i32 = 2;

/// What the kernel holds.
#[derive(Default)]
pub struct Table {
    /// `None` while that is not known: at first, and after a change that failed.
    held: Option<Held>,
}

struct Held {
    elements: Elements,
    chains: BTreeSet<Shared>,
}

impl Table {
    /// Makes the kernel hold `wanted`. When it returns, it does, and nothing that it remembers of connections leads to
    /// where nothing leads any more.
    pub fn apply(&mut self, wanted: Elements) -> Result<(), NetworkError> {
        let now = Backends::of(&wanted);
        let before = self.held.as_ref().map(|held| Backends::of(&held.elements));
        let is_sticky = STICKY_FRONTS.iter().any(|map| wanted.contains_key(map));
        self.hold(wanted).map_err(|error| NetworkError::io("nftables", error))?;
        let changed = |protocol| before.as_ref().is_none_or(|before| before.differ(&now, protocol));
        let affinity = match is_sticky && Protocol::ALL.into_iter().any(changed) {
            true => forget_clients(&now),
            false => Ok(()),
        };
        let datagrams = if changed(Protocol::Udp) { conntrack::forget_datagrams(&now) } else { Ok(()) };
        if let Err(error) = affinity.and(datagrams) {
            tracing::warn!(%error, "some clients may be led to endpoints that are gone");
        }
        Ok(())
    }

    fn hold(&mut self, wanted: Elements) -> io::Result<()> {
        let shared = led_to(&wanted);
        if let Some(held) = &mut self.held {
            let mut batch = Batch::default();
            for chain in shared.difference(&held.chains) {
                make(&mut batch, &chain.chain());
                fill(&mut batch, &chain.chain());
            }
            change(&mut batch, &held.elements, &wanted);
            match batch.commit() {
                Ok(()) => {
                    held.elements = wanted;
                    held.chains.extend(shared);
                    return Ok(());
                }
                // Somebody else has changed the table, or it is gone.
                Err(error) => tracing::warn!(%error, "the rules are made as a whole"),
            }
        }
        // Until that has succeeded nobody knows what is there.
        self.held = None;
        if let Err(error) = whole(&shared, &wanted, false).commit() {
            tracing::debug!(%error, "the table of before cannot be used");
            whole(&shared, &wanted, true).commit()?;
        }
        self.held = Some(Held { elements: wanted, chains: shared });
        Ok(())
    }

    /// Takes everything away, whether there is something or not.
    pub fn remove() -> Result<(), NetworkError> {
        let mut batch = Batch::default();
        none(&mut batch);
        batch.commit().map_err(|error| NetworkError::io("nftables", error))
    }
}

fn named(name: &str) -> Vec<u8> {
    let mut table = Vec::new();
    attribute(&mut table, 1, &text(TABLE));
    if !name.is_empty() {
        attribute(&mut table, 2, &text(name));
    }
    table
}

fn none(batch: &mut Batch) {
    batch.create(NEW_TABLE, &named(""));
    batch.delete(DELETE_TABLE, &named(""));
}

/// All of the table. What is there is taken over, or taken away before (`anew`).
fn whole(shared: &BTreeSet<Shared>, wanted: &Elements, anew: bool) -> Batch {
    let mut batch = Batch::default();
    if anew {
        none(&mut batch);
    }
    batch.create(NEW_TABLE, &named(""));
    for (number, map) in (1..).zip(&MAPS) {
        declare(&mut batch, map, number);
        if map.recorded.is_none() {
            batch.delete(DELETE_ELEMENT, &named(map.name));
        }
    }
    // All chains before the first rule: rules lead to chains.
    let chains: Vec<Chain> = chains().into_iter().chain(shared.iter().map(|shared| shared.chain())).collect();
    for chain in &chains {
        make(&mut batch, chain);
    }
    for chain in &chains {
        fill(&mut batch, chain);
    }
    change(&mut batch, &Elements::new(), wanted);
    batch
}

fn declare(batch: &mut Batch, map: &Map, number: u32) {
    const IS_MAP: u32 = 8;
    const HAS_TIMEOUTS: u32 = 0x10;
    const IS_WRITTEN_BY_RULES: u32 = 0x20;
    /// What nft shows elements as; the kernel only keeps it.
    const ADDRESS_AND_PORT: u32 = (7 << 6) | 13;
    const VERDICT: u32 = 0xffff_ff00;
    let mut set = named(map.name);
    let mut put = |kind, number: u32| attribute(&mut set, kind, &number.to_be_bytes());
    let flags = if map.gives == Gives::Membership { 0 } else { IS_MAP };
    put(3, flags | if map.recorded.is_some() { HAS_TIMEOUTS | IS_WRITTEN_BY_RULES } else { 0 });
    put(4, map.key.iter().fold(0, |kind, field| (kind << 6) | field.shown_as()));
    put(5, map.key.len() as u32 * 4);
    match map.gives {
        Gives::Membership => {}
        Gives::Verdict => put(6, VERDICT),
        Gives::AddressAndPort => {
            put(6, ADDRESS_AND_PORT);
            put(7, 8);
        }
    }
    put(10, number);
    if let Some(size) = map.recorded {
        let mut description = Vec::new();
        attribute(&mut description, 1, &size.to_be_bytes());
        nested(&mut set, 9, &description);
    }
    batch.create(NEW_SET, &set);
}

fn make(batch: &mut Batch, chain: &Chain) {
    let mut made = Vec::new();
    attribute(&mut made, 1, &text(TABLE));
    attribute(&mut made, 3, &text(&chain.name));
    if let Some(hook) = &chain.hook {
        let mut place = Vec::new();
        attribute(&mut place, 1, &(hook.place as u32).to_be_bytes());
        attribute(&mut place, 2, &hook.priority.to_be_bytes());
        nested(&mut made, 4, &place);
        attribute(&mut made, 7, &text(hook.kind));
    }
    batch.create(NEW_CHAIN, &made);
    batch.delete(DELETE_RULE, &named(&chain.name));
}

fn fill(batch: &mut Batch, chain: &Chain) {
    for Rule { expressions } in &chain.rules {
        let mut rule = named(&chain.name);
        nested(&mut rule, 4, expressions);
        batch.append(NEW_RULE, &rule);
    }
}

/// Removals first: an element whose value changes is removed and added again, in the same transaction.
fn change(batch: &mut Batch, held: &Elements, wanted: &Elements) {
    for (from, to, is_added) in [(held, wanted, false), (wanted, held, true)] {
        for (map, elements) in differing(from, to) {
            for some in elements.chunks(ELEMENTS_AT_ONCE) {
                let mut list = Vec::new();
                for (key, value) in some {
                    nested(&mut list, 1, &element(key, is_added.then_some(value)));
                }
                let mut message = named(map);
                nested(&mut message, 3, &list);
                match is_added {
                    true => batch.create(NEW_ELEMENT, &message),
                    false => batch.delete(DELETE_ELEMENT, &message),
                }
            }
        }
    }
}

/// What of `from` is not in `to`, or otherwise.
fn differing<'a>(from: &'a Elements, to: &Elements) -> Vec<(&'static str, Vec<(&'a Key, &'a Value)>)> {
    let none = BTreeMap::new();
    let of = |(map, elements): (&&'static str, &'a BTreeMap<Key, Value>)| {
        let others = to.get(map).unwrap_or(&none);
        (*map, elements.iter().filter(|(key, value)| others.get(*key) != Some(value)).collect())
    };
    from.iter().map(of).collect()
}

fn element(key: &[Part], given: Option<&Value>) -> Vec<u8> {
    let mut element = Vec::new();
    let key: Vec<u8> = key.iter().flat_map(|part| part.bytes()).collect();
    nested(&mut element, 1, &value(&key));
    let data = given.and_then(|given| match given {
        Value::Leads(to) => {
            let parts = [Part::Address(*to.ip()), Part::Port(to.port())];
            Some(value(&parts.map(Part::bytes).concat()))
        }
        other => other.verdict().map(|verdict| verdict.data()),
    });
    if let Some(data) = data {
        nested(&mut element, 2, &data);
    }
    element
}

fn led_to(elements: &Elements) -> BTreeSet<Shared> {
    let chain = |value: &Value| match value {
        Value::Goes(chain) => Some(*chain),
        _ => None,
    };
    elements.values().flat_map(BTreeMap::values).filter_map(chain).collect()
}

/// Takes out of the affinity map who would be led to an endpoint that is gone.
fn forget_clients(backends: &Backends) -> Result<(), NetworkError> {
    let mut gone = Vec::new();
    let listed = Socket::open().and_then(|mut socket| {
        socket.dump(NFTABLES | GET_ELEMENT, &named(AFFINITY), |message| {
            let elements = find(message, 3).into_iter().flat_map(attributes);
            for client in elements.filter_map(|(_, element)| Client::read(element)) {
                let known = backends.at(client.asked, client.protocol);
                let known = known.or_else(|| backends.at_node(client.asked.port(), client.protocol));
                if !known.is_some_and(|known| known.contains(&client.led)) {
                    gone.push(client.key);
                }
            }
        })
    });
    let removed = listed.and_then(|()| gone.iter().try_for_each(|key| forget_client(key)));
    removed.map_err(|error| NetworkError::io("forgetting where clients were led", error))
}

fn forget_client(key: &[u8]) -> io::Result<()> {
    let (mut element, mut list, mut message) = (Vec::new(), Vec::new(), named(AFFINITY));
    nested(&mut element, 1, &value(key));
    nested(&mut list, 1, &element);
    nested(&mut message, 3, &list);
    let mut batch = Batch::default();
    batch.delete(DELETE_ELEMENT, &message);
    match batch.commit() {
        // Its time had come by itself.
        Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
        other => other,
    }
}

/// An element of the affinity map.
struct Client {
    key: Vec<u8>,
    asked: SocketAddrV4,
    protocol: Protocol,
    led: SocketAddrV4,
}

impl Client {
    fn read(element: &[u8]) -> Option<Client> {
        let bytes = |kind| find(find(element, kind)?, 1);
        let address = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
        let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
        let (key, data) = (bytes(1)?, bytes(2)?);
        let number = *key.get(8)?;
        Some(Client {
            key: key.to_vec(),
            asked: SocketAddrV4::new(address(key.get(4..8)?)?, port(key.get(12..14)?)?),
            protocol: Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?,
            led: SocketAddrV4::new(address(data.get(..4)?)?, port(data.get(4..6)?)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(list: &[(u16, u16)]) -> Elements {
        let leads = |to: u16| Value::Leads(SocketAddrV4::new(Ipv4Addr::LOCALHOST, to));
        let map = list.iter().map(|(key, to)| (vec![Part::Port(*key)], leads(*to))).collect();
        Elements::from([("endpoints", map)])
    }

    #[test]
    fn only_what_changed_is_sent() {
        let held = endpoints(&[(1, 1), (2, 2), (3, 3)]);
        let wanted = endpoints(&[(1, 1), (2, 9), (4, 4)]);
        let keys = |from: &Elements, to: &Elements| {
            let all = differing(from, to).into_iter().flat_map(|(_, elements)| elements);
            all.map(|(key, _)| format!("{key:?}")).collect::<String>()
        };
        assert_eq!(keys(&held, &wanted), "[2][3]", "taken away");
        assert_eq!(keys(&wanted, &held), "[2][4]", "added");
        assert_eq!(keys(&wanted, &wanted), "");
    }
}
