//! What the kernel is told: the rules once, and then elements, in transactions.
//!
//! ```text
//! packet to 10.96.7.8 tcp 80
//!   services:  10.96.7.8 . tcp . 80       → goto pick-3        (three endpoints)
//!   pick-3:    10.96.7.8 . tcp . 80 . dice below 3
//!   endpoints: 10.96.7.8 . tcp . 80 . 2   → 10.244.1.9 . 8080
//! ```
//! Such chains depend on the number of endpoints only and are shared by all services, so a change of a service is a
//! handful of elements, whatever the number of services. A transaction of the kernel takes them all or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    bytecode::{Field, Rule, text, value},
    conntrack,
    elements::{Backends, Elements, Key, Part, State, Value},
    netfilter::{Batch, NFTABLES, Socket, attribute, attributes, find, nested},
    node::NetworkError,
    rules::{AFFINITY, Gives, Hook, MAPS, Map, TABLE, chains},
    services::Protocol,
};

/// Messages of linux/netfilter/nf_tables.h.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const DELETE_SET: u16 = 11;
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
    held: Option<State>,
}

impl Table {
    /// Makes the kernel hold `wanted`. When it returns, it does, and nothing that it remembers of connections leads to
    /// where nothing leads any more.
    pub fn apply(&mut self, wanted: State) -> Result<(), NetworkError> {
        let now = Backends::of(&wanted.elements);
        let before = self.held.as_ref().map(|held| Backends::of(&held.elements));
        let is_sticky = STICKY_FRONTS.iter().any(|map| wanted.elements.contains_key(map));
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

    fn hold(&mut self, wanted: State) -> io::Result<()> {
        if let Some(held) = self.held.take() {
            let mut batch = Batch::default();
            change(&mut batch, &held, &wanted);
            // With nothing to change nobody would notice that somebody else has taken the table away.
            let outcome = if batch.is_empty() { is_there(&wanted) } else { batch.commit() };
            match outcome {
                Ok(()) => {
                    self.held = Some(wanted);
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the rules are made as a whole"),
            }
        }
        if let Err(error) = taken_over(&wanted).and_then(Batch::commit) {
            tracing::debug!(%error, "the table of before cannot be used");
            let mut batch = Batch::default();
            none(&mut batch);
            lay(&mut batch);
            change(&mut batch, &State::default(), &wanted);
            batch.commit()?;
        }
        self.held = Some(wanted);
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

/// The foundation: maps without elements, and the chains that are always there.
fn lay(batch: &mut Batch) {
    batch.create(NEW_TABLE, &named(""));
    for map in &MAPS {
        declare(batch, map);
        if map.recorded.is_none() {
            batch.delete(DELETE_ELEMENT, &named(map.name));
        }
    }
    let chains = chains();
    // All chains before the first rule: rules lead to chains.
    for chain in &chains {
        make(batch, &chain.name, chain.hook.as_ref());
    }
    for chain in &chains {
        fill(batch, &chain.name, &chain.rules);
    }
}

/// All of the table, in the place of what an agent of before made of it.
fn taken_over(wanted: &State) -> io::Result<Batch> {
    let mut batch = Batch::default();
    lay(&mut batch);
    let mut before = State::default();
    let own: BTreeSet<String> = chains().into_iter().map(|chain| chain.name).collect();
    for name in names(GET_CHAIN, 3)?.into_iter().filter(|name| !own.contains(name)) {
        before.chains.insert(name, Vec::new());
    }
    for name in names(GET_SET, 2)?.into_iter().filter(|name| MAPS.iter().all(|map| map.name != name)) {
        before.sets.insert(name, BTreeSet::new());
    }
    // Those of the same name have the same content; another version of this program may see that otherwise.
    for (name, rules) in wanted.chains.iter().filter(|(name, _)| before.chains.contains_key(*name)) {
        make(&mut batch, name, None);
        fill(&mut batch, name, rules);
    }
    change(&mut batch, &before, wanted);
    Ok(batch)
}

fn is_there(wanted: &State) -> io::Result<()> {
    let held: BTreeSet<String> = names(GET_CHAIN, 3)?.into_iter().collect();
    let all = chains().into_iter().map(|chain| chain.name).chain(wanted.chains.keys().cloned());
    match all.into_iter().find(|name| !held.contains(name)) {
        Some(gone) => Err(io::Error::other(format!("the chain {gone} is gone"))),
        None => Ok(()),
    }
}

/// How all chains or sets of the table are called.
fn names(kind: u16, attribute_of_name: u16) -> io::Result<Vec<String>> {
    let word = |bytes: &[u8]| String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned();
    let mut names = Vec::new();
    let mut table = Vec::new();
    attribute(&mut table, 1, &text(TABLE));
    Socket::open()?.dump(NFTABLES | kind, &table, |message| {
        if let (Some(table), Some(name)) = (find(message, 1), find(message, attribute_of_name))
            && word(table) == TABLE
        {
            names.push(word(name));
        }
    })?;
    Ok(names)
}

fn declare(batch: &mut Batch, map: &Map) {
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
    put(10, batch.next());
    if let Some(size) = map.recorded {
        let mut description = Vec::new();
        attribute(&mut description, 1, &size.to_be_bytes());
        nested(&mut set, 9, &description);
    }
    batch.create(NEW_SET, &set);
}

fn make(batch: &mut Batch, name: &str, hook: Option<&Hook>) {
    let mut made = Vec::new();
    attribute(&mut made, 1, &text(TABLE));
    attribute(&mut made, 3, &text(name));
    if let Some(hook) = hook {
        let mut place = Vec::new();
        attribute(&mut place, 1, &(hook.place as u32).to_be_bytes());
        attribute(&mut place, 2, &hook.priority.to_be_bytes());
        nested(&mut made, 4, &place);
        attribute(&mut made, 7, &text(hook.kind));
    }
    batch.create(NEW_CHAIN, &made);
    batch.delete(DELETE_RULE, &named(name));
}

fn fill(batch: &mut Batch, chain: &str, rules: &[Rule]) {
    for Rule { expressions } in rules {
        let mut rule = named(chain);
        nested(&mut rule, 4, expressions);
        batch.append(NEW_RULE, &rule);
    }
}

/// What is led to is made before what leads to it, and goes after it.
fn change(batch: &mut Batch, held: &State, wanted: &State) {
    for (name, addresses) in wanted.sets.iter().filter(|(name, _)| !held.sets.contains_key(*name)) {
        declare(batch, &Map { name, key: &[Field::Source], gives: Gives::Membership, recorded: None });
        let elements: Vec<_> = addresses.iter().map(|address| (vec![Part::Address(*address)], Value::Member)).collect();
        let elements: Vec<_> = elements.iter().map(|(key, value)| (key, value)).collect();
        list(batch, name, &elements, true);
    }
    for (name, rules) in wanted.chains.iter().filter(|(name, _)| !held.chains.contains_key(*name)) {
        make(batch, name, None);
        fill(batch, name, rules);
    }
    // Removals first: an element whose value changes is removed and added again, in the same transaction.
    for (from, to, is_added) in [(held, wanted, false), (wanted, held, true)] {
        for (map, elements) in differing(&from.elements, &to.elements) {
            list(batch, map, &elements, is_added);
        }
    }
    for name in held.chains.keys().filter(|name| !wanted.chains.contains_key(*name)) {
        let mut chain = Vec::new();
        attribute(&mut chain, 1, &text(TABLE));
        attribute(&mut chain, 3, &text(name));
        batch.delete(DELETE_CHAIN, &chain);
    }
    for name in held.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
        batch.delete(DELETE_SET, &named(name));
    }
}

fn list(batch: &mut Batch, map: &str, elements: &[(&Key, &Value)], is_added: bool) {
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
