//! The table: its maps and sets, and the rules, which are the same whatever services there are.
//!
//! They are told so that the kernel may hold them already: maps and chains that are there stay, and what is in them is
//! replaced in the same transaction. An agent that starts again so takes over a table that serves.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    DNS_ADDRESS, POD_RANGES, SERVICE_RANGE,
    addresses::Range,
    bytecode::{
        Field::{self, Destination, Dice, OriginalDestination, OriginalPort, OriginalSource, Port, Source},
        Must::{Be, NotBe},
        Rule, Verdict,
    },
    services::Protocol,
};

pub const TABLE: &str = "copepod";

/// The mark of packets that came in at a node port: they may leave to another node, and the answer must come back here.
const MARK: u32 = 0x4000;

/// How the links of pods are called.
const LINKS: &str = "cpd";

const LOOPBACK: Range = Range { base: Ipv4Addr::new(127, 0, 0, 0), bits: 8 };

/// Which client was led where, for services that lead a client always to the same: filled by the rules themselves, and kept
/// when they are made again. The kernel makes no place for more: then the dice decide.
pub const AFFINITY: &str = "affinity";
const CLIENTS_MAX: u32 = 262_144;

/// What a map gives for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Nothing: it is a set.
    Membership,
    Verdict,
    AddressAndPort,
}

pub struct Map<'a> {
    pub name: &'a str,
    /// The parts of a key, each of four bytes.
    pub key: &'a [Field],
    pub gives: Gives,
    /// Filled by rules, for a time, up to a number.
    pub recorded: Option<u32>,
}

/// Endpoints of a node port have no address before them; dice choose among several.
const NODE_KEY: &[Field] = &[Field::Protocol, Port];
const SERVICE_KEY: &[Field] = &[Destination, Field::Protocol, Port];

pub const MAPS: [Map<'static>; 14] = [
    map("services", SERVICE_KEY, Gives::Verdict),
    map("endpoints", &[Destination, Field::Protocol, Port, Dice(0)], Gives::AddressAndPort),
    map("node_ports", NODE_KEY, Gives::Verdict),
    map("node_endpoints", &[Field::Protocol, Port, Dice(0)], Gives::AddressAndPort),
    map("kept_ports", NODE_KEY, Gives::Verdict),
    map("kept_endpoints", &[Field::Protocol, Port, Dice(0)], Gives::AddressAndPort),
    map("sticky_services", SERVICE_KEY, Gives::Verdict),
    map("sticky_ports", NODE_KEY, Gives::Verdict),
    map("host_ports", NODE_KEY, Gives::AddressAndPort),
    map("host_address_ports", SERVICE_KEY, Gives::AddressAndPort),
    map("isolated_in", &[Destination], Gives::Verdict),
    map("isolated_out", &[Source], Gives::Verdict),
    map("hairpins", &[Source, Destination], Gives::Membership),
    Map {
        recorded: Some(CLIENTS_MAX),
        ..map(AFFINITY, &[Source, Destination, Field::Protocol, Port], Gives::AddressAndPort)
    },
];

const fn map(name: &'static str, key: &'static [Field], gives: Gives) -> Map<'static> {
    Map { name, key, gives, recorded: None }
}

/// Where the kernel enters a chain.
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    pub place: Place,
    pub priority: i32,
}

#[derive(Clone, Copy)]
pub enum Place {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

pub struct Chain {
    pub name: String,
    /// `None` for one that others lead to.
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// Before connections are known.
const RAW: i32 = -300;
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;

/// The chains that are always there; those that are led to come first.
pub fn chains() -> Vec<Chain> {
    let hooked = |name: &str, kind, place, priority, rules| Chain {
        name: name.to_owned(),
        hook: Some(Hook { kind, place, priority }),
        rules,
    };
    let inner = |name: &str, rules| Chain { name: name.to_owned(), hook: None, rules };
    let rule = Rule::new;
    let to_balance = || {
        let jump = |chain: &str| {
            let jump = Verdict::Jump(chain.to_owned());
            Protocol::ALL.map(|protocol| rule().protocol(protocol).decide(&jump))
        };
        [jump("balance"), jump("missed")].concat()
    };
    vec![
        inner("local_ports", local_ports()),
        // The address of the name service is one of this machine's, and none of those that ports of the node are at.
        inner(
            "balance",
            vec![
                rule().follow(SERVICE_KEY, "services"),
                rule()
                    .address(Destination, NotBe, DNS_ADDRESS)
                    .machine_has(Destination, Be)
                    .decide(&Verdict::Jump("local_ports".to_owned())),
            ],
        ),
        inner("missed", missed()),
        // Questions to the name service are many and short, and need no translation. Packets to the loopback come from
        // this machine only: links of pods are told to let them through for the sake of ports of the node.
        hooked(
            "untracked_in",
            "filter",
            Place::Prerouting,
            RAW,
            vec![
                rule().came_by(LINKS).within(Destination, Be, LOOPBACK).drop(),
                rule().address(Destination, Be, DNS_ADDRESS).protocol(Protocol::Udp).port(53).untracked(),
            ],
        ),
        hooked(
            "untracked_out",
            "filter",
            Place::Output,
            RAW,
            vec![
                rule().address(Source, Be, DNS_ADDRESS).protocol(Protocol::Udp).source_port(53).untracked(),
                rule().address(Destination, Be, DNS_ADDRESS).protocol(Protocol::Udp).port(53).untracked(),
            ],
        ),
        hooked("prerouting", "nat", Place::Prerouting, DESTINATION_NAT, to_balance()),
        hooked("output", "nat", Place::Output, DESTINATION_NAT, to_balance()),
        // After the translation it is known who was chosen for whom.
        hooked(
            "recorded",
            "filter",
            Place::Postrouting,
            FILTER,
            vec![
                rule().begins().led().follow(&[OriginalDestination, Field::Protocol, OriginalPort], "sticky_services"),
                rule().begins().led().follow(&[Field::Protocol, OriginalPort], "sticky_ports"),
            ],
        ),
        // What a machine says to its own pods goes another way, and is not asked: probes must pass. That which one pod may
        // send, another must also be allowed to get.
        hooked("egress", "filter", Place::Forward, FILTER - 2, isolated(Source, "isolated_out")),
        hooked("ingress", "filter", Place::Forward, FILTER - 1, isolated(Destination, "isolated_in")),
        hooked("postrouting", "nat", Place::Postrouting, SOURCE_NAT, postrouting()),
        hooked(
            "unserved_forward",
            "filter",
            Place::Forward,
            FILTER,
            vec![
                unserved().begins().protocol(Protocol::Tcp).refuse(Some(Protocol::Tcp)),
                unserved().begins().refuse(None),
            ],
        ),
        hooked(
            "unserved_output",
            "filter",
            Place::Output,
            FILTER,
            vec![unserved().protocol(Protocol::Tcp).refuse(Some(Protocol::Tcp)), unserved().refuse(None)],
        ),
    ]
}

fn range(text: &str) -> Range {
    Range::parse(text).unwrap_or(Range { base: Ipv4Addr::UNSPECIFIED, bits: 32 })
}

/// As upstream with nftables, node ports are not at the loopback. Host ports are at 127.0.0.1, but not at other addresses of
/// the loopback, where machines have name servers of their own.
fn local_ports() -> Vec<Rule> {
    let rule = Rule::new;
    vec![
        rule().lead(SERVICE_KEY, "host_address_ports"),
        rule()
            .within(Destination, NotBe, LOOPBACK)
            .within(Source, NotBe, range(POD_RANGES[0]))
            .within(Source, NotBe, range(POD_RANGES[1]))
            .machine_has(Source, NotBe)
            .follow(NODE_KEY, "kept_ports"),
        rule().within(Destination, NotBe, LOOPBACK).follow(NODE_KEY, "node_ports"),
        rule()
            .within(Destination, Be, LOOPBACK)
            .address(Destination, NotBe, Ipv4Addr::LOCALHOST)
            .decide(&Verdict::Return),
        rule().lead(NODE_KEY, "host_ports"),
    ]
}

/// Who was led nowhere although there are endpoints began amid a change: the kernel replaces rules and elements together,
/// and a packet that is on its way through them meanwhile may see some before and some after. It is dropped, for its
/// connection begins with it and tries again; passed on, it would be refused.
fn missed() -> Vec<Rule> {
    let rule = Rule::new;
    let first = |front: &[Field]| [front, &[Dice(1)]].concat();
    vec![
        rule().mapped(&first(SERVICE_KEY), "endpoints").drop(),
        rule()
            .within(Destination, NotBe, LOOPBACK)
            .address(Destination, NotBe, DNS_ADDRESS)
            .machine_has(Destination, Be)
            .mapped(&first(NODE_KEY), "node_endpoints")
            .drop(),
    ]
}

fn postrouting() -> Vec<Rule> {
    let rule = Rule::new;
    let leaving = POD_RANGES.map(|pods| {
        rule()
            .within(Source, Be, range(pods))
            .within(Destination, NotBe, range(POD_RANGES[0]))
            .within(Destination, NotBe, range(POD_RANGES[1]))
            .leaves_by(NotBe, LINKS)
            .leaves_by(NotBe, "lo\0")
            .masquerade()
    });
    let first = [
        rule().listed(&[Source, Destination], "hairpins").masquerade(),
        rule().within(Source, Be, LOOPBACK).leaves_by(Be, LINKS).masquerade(),
        rule().has_mark(MARK).leaves_by(NotBe, LINKS).masquerade(),
    ];
    first.into_iter().chain(leaving).collect()
}

/// Nobody is kept from himself, nor from answering.
fn isolated(pod: Field, map: &str) -> Vec<Rule> {
    vec![
        Rule::new().belongs().decide(&Verdict::Accept),
        Rule::new().listed(&[Source, Destination], "hairpins").decide(&Verdict::Accept),
        Rule::new().follow(&[pod], map),
    ]
}

fn unserved() -> Rule {
    Rule::new().within(Destination, Be, range(SERVICE_RANGE)).address(Destination, NotBe, DNS_ADDRESS)
}

/// A chain that elements lead to, which depends on its name only, so that services share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// Picks one of so many endpoints; of one that a client was led to before, that one.
    Pick { family: Family, endpoints: u32, sticky: bool },
    /// Keeps for this time where a client was led.
    Record(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Service,
    /// Of a node port, on all nodes.
    Port,
    /// Of a node port, on this node.
    Kept,
}

impl Shared {
    pub fn name(self) -> String {
        match self {
            Shared::Pick { family, endpoints, sticky } => {
                let family = match family {
                    Family::Service => "pick",
                    Family::Port => "port",
                    Family::Kept => "keep",
                };
                format!("{family}-{endpoints}{}", if sticky { "-sticky" } else { "" })
            }
            Shared::Record(time) => format!("record-{}", time.as_secs()),
        }
    }

    pub fn rules(self) -> Vec<Rule> {
        match self {
            Shared::Record(time) => {
                let fields = [OriginalSource, OriginalDestination, Field::Protocol, OriginalPort];
                vec![Rule::new().record(&fields, AFFINITY, time)]
            }
            Shared::Pick { family, endpoints, sticky } => {
                let (address, map): (&[Field], _) = match family {
                    Family::Service => (&[Destination], "endpoints"),
                    Family::Port => (&[], "node_endpoints"),
                    Family::Kept => (&[], "kept_endpoints"),
                };
                let marked = (family == Family::Port).then(|| Rule::new().mark(MARK));
                let before = [Source, Destination, Field::Protocol, Port];
                let again = sticky.then(|| Rule::new().lead(&before, AFFINITY));
                let key = [address, NODE_KEY, &[Dice(endpoints)]].concat();
                marked.into_iter().chain(again).chain([Rule::new().lead(&key, map)]).collect()
            }
        }
    }
}
