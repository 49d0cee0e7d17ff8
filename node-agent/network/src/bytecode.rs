//! Rules as the kernel has them: small programs over registers (linux/netfilter/nf_tables.h).
//!
//! nft, the program, is not asked to translate them, for two reasons. It is a process and a reading of all that the kernel
//! holds for each change. And what it thinks of types makes some rules impossible to say: a port in a map is one of TCP or
//! one of UDP to it, and our maps hold both.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    addresses::Range,
    netfilter::{attribute, nested},
    services::Protocol,
};

/// The first register of four bytes; keys of several parts lie in those that follow.
const FIRST: u32 = 8;
/// Where verdicts go.
const VERDICT: u32 = 0;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Parts of packets and of what the kernel remembers of their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Source,
    Destination,
    Protocol,
    Port,
    /// As it was before any translation.
    OriginalSource,
    OriginalDestination,
    OriginalPort,
    /// A number below this one, by chance.
    Dice(u32),
}

impl Field {
    /// As what nft shows it.
    pub fn shown_as(self) -> u32 {
        match self {
            Field::Source | Field::Destination | Field::OriginalSource | Field::OriginalDestination => 7,
            Field::Protocol => 12,
            Field::Port | Field::OriginalPort => 13,
            Field::Dice(_) => 19,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Drop,
    /// As far as this hook of the kernel is concerned.
    Accept,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    /// As data of an immediate expression or an element.
    pub fn data(&self) -> Vec<u8> {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        let mut verdict = Vec::new();
        attribute(&mut verdict, 1, &code.to_be_bytes());
        if let Some(chain) = chain {
            attribute(&mut verdict, 2, &text(chain));
        }
        let mut data = Vec::new();
        nested(&mut data, 2, &verdict);
        data
    }
}

/// A value as data.
pub fn value(bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    attribute(&mut data, 1, bytes);
    data
}

/// Names end with a zero.
pub fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// Whether something must be so or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    Be,
    NotBe,
}

impl Must {
    fn code(self) -> u32 {
        u32::from(self == Must::NotBe)
    }
}

/// One rule: conditions, and what is done if all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub expressions: Vec<u8>,
}

impl Rule {
    pub fn new() -> Rule {
        Rule::default()
    }

    fn add(mut self, name: &str, numbers: &[(u16, u32)], nests: &[(u16, &[u8])]) -> Rule {
        let mut data = Vec::new();
        for (kind, number) in numbers {
            attribute(&mut data, *kind, &number.to_be_bytes());
        }
        for (kind, content) in nests {
            nested(&mut data, *kind, content);
        }
        self.expression(name, &data);
        self
    }

    fn expression(&mut self, name: &str, data: &[u8]) {
        let mut expression = Vec::new();
        attribute(&mut expression, 1, &text(name));
        nested(&mut expression, 2, data);
        nested(&mut self.expressions, 1, &expression);
    }

    fn load(mut self, field: Field, register: u32) -> Rule {
        let payload = |base, offset, length| ("payload", vec![(1, register), (2, base), (3, offset), (4, length)]);
        let (name, numbers) = match field {
            Field::Protocol => payload(NETWORK_HEADER, 9, 1),
            Field::Source => payload(NETWORK_HEADER, 12, 4),
            Field::Destination => payload(NETWORK_HEADER, 16, 4),
            Field::Port => payload(TRANSPORT_HEADER, 2, 2),
            Field::Dice(below) => ("numgen", vec![(1, register), (2, below), (3, 1)]),
            Field::OriginalSource | Field::OriginalDestination | Field::OriginalPort => {
                let key: u32 = match field {
                    Field::OriginalSource => 19,
                    Field::OriginalDestination => 20,
                    _ => 12,
                };
                let mut data = Vec::new();
                attribute(&mut data, 1, &register.to_be_bytes());
                attribute(&mut data, 2, &key.to_be_bytes());
                attribute(&mut data, 3, &[0]);
                self.expression("ct", &data);
                return self;
            }
        };
        self.add(name, &numbers, &[])
    }

    fn key(self, fields: &[Field]) -> Rule {
        (FIRST..).zip(fields).fold(self, |rule, (register, field)| rule.load(*field, register))
    }

    fn compare(self, must: Must, bytes: &[u8]) -> Rule {
        self.add("cmp", &[(1, FIRST), (2, must.code())], &[(3, &value(bytes))])
    }

    fn mask(self, mask: &[u8]) -> Rule {
        let nothing = vec![0; mask.len()];
        let length = mask.len() as u32;
        self.add("bitwise", &[(1, FIRST), (2, FIRST), (3, length)], &[(4, &value(mask)), (5, &value(&nothing))])
    }

    pub fn address(self, field: Field, must: Must, address: Ipv4Addr) -> Rule {
        self.load(field, FIRST).compare(must, &address.octets())
    }

    pub fn within(self, field: Field, must: Must, range: Range) -> Rule {
        let mask = u32::MAX.checked_shl(32 - u32::from(range.bits)).unwrap_or(0);
        self.load(field, FIRST).mask(&mask.to_be_bytes()).compare(must, &range.base.octets())
    }

    pub fn protocol(self, protocol: Protocol) -> Rule {
        self.load(Field::Protocol, FIRST).compare(Must::Be, &[protocol.number()])
    }

    pub fn port(self, port: u16) -> Rule {
        self.load(Field::Port, FIRST).compare(Must::Be, &port.to_be_bytes())
    }

    /// To one of these ports.
    pub fn ports(self, first: u16, last: u16) -> Rule {
        const AT_MOST: u32 = 3;
        const AT_LEAST: u32 = 5;
        let bounds = [(AT_LEAST, first), (AT_MOST, last)];
        bounds.into_iter().fold(self.load(Field::Port, FIRST), |rule, (how, port)| {
            rule.add("cmp", &[(1, FIRST), (2, how)], &[(3, &value(&port.to_be_bytes()))])
        })
    }

    /// From port: the first two bytes of every transport header.
    pub fn source_port(self, port: u16) -> Rule {
        let loaded = self.add("payload", &[(1, FIRST), (2, TRANSPORT_HEADER), (3, 0), (4, 2)], &[]);
        loaded.compare(Must::Be, &port.to_be_bytes())
    }

    /// A link whose name begins so, on which the packet came.
    pub fn came_by(self, prefix: &str) -> Rule {
        self.add("meta", &[(1, FIRST), (2, 6)], &[]).compare(Must::Be, prefix.as_bytes())
    }

    /// A link whose name begins so, on which it leaves.
    pub fn leaves_by(self, must: Must, prefix: &str) -> Rule {
        self.add("meta", &[(1, FIRST), (2, 7)], &[]).compare(must, prefix.as_bytes())
    }

    /// Source or destination is an address of this machine.
    pub fn machine_has(self, field: Field, must: Must) -> Rule {
        const ADDRESS_TYPE: u32 = 3;
        const LOCAL: u32 = 2;
        let which = if field == Field::Source { 1 } else { 2 };
        self.add("fib", &[(1, FIRST), (2, ADDRESS_TYPE), (3, which)], &[]).compare(must, &LOCAL.to_ne_bytes())
    }

    /// The first packet of a connection.
    pub fn begins(self) -> Rule {
        self.connection(0, 8)
    }

    /// Of a connection that was let through before, or about one.
    pub fn belongs(self) -> Rule {
        self.connection(0, 2 | 4)
    }

    /// Its destination was translated.
    pub fn led(self) -> Rule {
        self.connection(2, 0x20)
    }

    fn connection(self, key: u32, bit: u32) -> Rule {
        let loaded = self.add("ct", &[(1, FIRST), (2, key)], &[]);
        loaded.mask(&bit.to_ne_bytes()).compare(Must::NotBe, &0u32.to_ne_bytes())
    }

    pub fn has_mark(self, mark: u32) -> Rule {
        let loaded = self.add("meta", &[(1, FIRST), (2, 3)], &[]);
        loaded.mask(&mark.to_ne_bytes()).compare(Must::NotBe, &0u32.to_ne_bytes())
    }

    pub fn mark(self, mark: u32) -> Rule {
        let loaded = self.add("meta", &[(1, FIRST), (2, 3)], &[]);
        let kept = value(&(!mark).to_ne_bytes());
        let set = value(&mark.to_ne_bytes());
        loaded.add("bitwise", &[(1, FIRST), (2, FIRST), (3, 4)], &[(4, &kept), (5, &set)]).add(
            "meta",
            &[(2, 3), (3, FIRST)],
            &[],
        )
    }

    /// Those fields together are in a set.
    pub fn listed(self, fields: &[Field], set: &str) -> Rule {
        self.key(fields).look_up(set, None)
    }

    /// Those fields together are in a map.
    pub fn mapped(self, fields: &[Field], map: &str) -> Rule {
        // The kernel asks that what is found goes somewhere.
        self.key(fields).look_up(map, Some(FIRST))
    }

    /// Goes where a map says; on to the next rule if it says nothing.
    pub fn follow(self, fields: &[Field], map: &str) -> Rule {
        self.key(fields).look_up(map, Some(VERDICT))
    }

    /// Sends the connection to the address and port that a map says.
    pub fn lead(self, fields: &[Field], map: &str) -> Rule {
        const DESTINATION: u32 = 1;
        const IPV4: u32 = 2;
        let found = self.key(fields).look_up(map, Some(FIRST));
        found.add("nat", &[(1, DESTINATION), (2, IPV4), (3, FIRST), (5, FIRST + 1)], &[])
    }

    fn look_up(mut self, set: &str, into: Option<u32>) -> Rule {
        let mut data = Vec::new();
        attribute(&mut data, 1, &text(set));
        attribute(&mut data, 2, &FIRST.to_be_bytes());
        if let Some(register) = into {
            attribute(&mut data, 3, &register.to_be_bytes());
        }
        self.expression("lookup", &data);
        self
    }

    /// Writes into a map, for a time: under those fields the address and port that the packet goes to now.
    pub fn record(self, fields: &[Field], map: &str, time: Duration) -> Rule {
        const UPDATE: u32 = 1;
        let data_at = FIRST + fields.len() as u32;
        let mut rule = self.key(fields).load(Field::Destination, data_at).load(Field::Port, data_at + 1);
        let mut data = Vec::new();
        attribute(&mut data, 1, &text(map));
        attribute(&mut data, 3, &UPDATE.to_be_bytes());
        attribute(&mut data, 4, &FIRST.to_be_bytes());
        attribute(&mut data, 5, &data_at.to_be_bytes());
        attribute(&mut data, 6, &u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
        rule.expression("dynset", &data);
        rule
    }

    pub fn decide(self, verdict: &Verdict) -> Rule {
        self.add("immediate", &[(1, VERDICT)], &[(2, &verdict.data())])
    }

    pub fn drop(self) -> Rule {
        self.decide(&Verdict::Drop)
    }

    pub fn untracked(self) -> Rule {
        self.add("notrack", &[], &[])
    }

    /// Lets answers come back to this machine.
    pub fn masquerade(self) -> Rule {
        self.add("masq", &[], &[])
    }

    /// Says at once that nobody is there.
    pub fn refuse(mut self, protocol: Option<Protocol>) -> Rule {
        const PORT_UNREACHABLE: u8 = 3;
        let is_reset = protocol == Some(Protocol::Tcp);
        let mut data = Vec::new();
        attribute(&mut data, 1, &u32::from(is_reset).to_be_bytes());
        if !is_reset {
            attribute(&mut data, 2, &[PORT_UNREACHABLE]);
        }
        self.expression("reject", &data);
        self
    }
}
