//! Who may speak to pods of this node, and to whom they may.
//!
//! A pod that no policy selects is open. One that some do has a chain that accepts what they allow and drops the rest; a map
//! leads from its address there. Chains and sets are named after what is in them: pods of whom the same is said share a
//! chain, and one that changes is made beside the old one and takes its place, in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    addresses::Range,
    bytecode::{
        Field::{self, Destination, Source},
        Must::{Be, NotBe},
        Rule, Verdict,
    },
    elements::{Part, State, Value},
    services::Protocol,
};

/// What is allowed to or from each pod that is isolated in that direction; by the pod's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    pub ingress: BTreeMap<Ipv4Addr, BTreeSet<Allowance>>,
    pub egress: BTreeMap<Ipv4Addr, BTreeSet<Allowance>>,
}

/// Traffic with somebody, at some ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowance {
    pub peers: Peers,
    /// `None` for all of them, and for what has none.
    pub ports: Option<BTreeSet<Ports>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    Everybody,
    Pods(BTreeSet<Ipv4Addr>),
    Block { range: Range, except: Vec<Range> },
}

/// Ports of a protocol, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

/// Adds what the policies need to what services do.
pub fn add(state: &mut State, policies: &Policies) {
    let directions =
        [("isolated_in", "in", Source, &policies.ingress), ("isolated_out", "out", Destination, &policies.egress)];
    for (map, prefix, other, pods) in directions {
        for (pod, allowances) in pods {
            let name = named(prefix, &format!("{allowances:?}"));
            if !state.chains.contains_key(&name) {
                let rules = rules(state, other, allowances);
                state.chains.insert(name.clone(), rules);
            }
            state.elements.entry(map).or_default().insert(vec![Part::Address(*pod)], Value::Goes(name));
        }
    }
}

/// A name for this content (FNV-1a).
fn named(prefix: &str, content: &str) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{prefix}-{:016x}", content.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// `other`: the field with the address of who is at the other end.
fn rules(state: &mut State, other: Field, allowances: &BTreeSet<Allowance>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for allowance in allowances {
        let of_peers = || match &allowance.peers {
            Peers::Everybody => Rule::new(),
            Peers::Pods(pods) => Rule::new().listed(&[other], &named("peers", &format!("{pods:?}"))),
            Peers::Block { range, except } => except
                .iter()
                .fold(Rule::new().within(other, Be, *range), |rule, range| rule.within(other, NotBe, *range)),
        };
        if let Peers::Pods(pods) = &allowance.peers {
            state.sets.insert(named("peers", &format!("{pods:?}")), pods.clone());
        }
        match &allowance.ports {
            None => rules.push(of_peers().decide(&Verdict::Accept)),
            Some(ports) => rules.extend(ports.iter().map(|ports| {
                let rule = of_peers().protocol(ports.protocol).ports(ports.first, ports.last);
                rule.decide(&Verdict::Accept)
            })),
        }
    }
    rules.push(Rule::new().drop());
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(pods: &[u8]) -> Allowance {
        let pods = pods.iter().map(|last| Ipv4Addr::new(10, 244, 0, *last)).collect();
        Allowance { peers: Peers::Pods(pods), ports: None }
    }

    #[test]
    fn pods_of_whom_the_same_is_said_share_a_chain() {
        let pod = |last| Ipv4Addr::new(10, 244, 1, last);
        let said = |pods: &[u8]| BTreeSet::from([allowance(pods)]);
        let ingress = BTreeMap::from([(pod(2), said(&[7, 8])), (pod(3), said(&[7, 8])), (pod(4), said(&[7]))]);
        let policies = Policies { ingress, egress: BTreeMap::from([(pod(2), BTreeSet::new())]) };
        let mut state = State::default();
        add(&mut state, &policies);
        assert_eq!(state.elements["isolated_in"].len(), 3);
        assert_eq!(state.elements["isolated_out"].len(), 1);
        assert_eq!((state.chains.len(), state.sets.len()), (3, 2));
    }
}
