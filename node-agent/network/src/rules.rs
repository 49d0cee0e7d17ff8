//! The rules of the table, which are the same whatever services there are.
//!
//! They are made as a whole, with all elements, in the transaction that takes away a table of before: an agent that starts
//! again so takes over from one that serves.

use crate::{DNS_ADDRESS, POD_RANGE, SERVICE_RANGE};

/// The mark of packets that came in at a node port: they may leave to another node, and the answer must come back here.
const MARK: &str = "0x4000";

/// What has ports.
const ALL: &str = "ip protocol { tcp, udp, sctp }";

/// Keys of the endpoints are where the packet goes, and the dice that choose among several. Their values are of `th`, no
/// protocol's port in particular: of `tcp`, nft would let no rule that looks into them match other packets.
const MAPS: [(&str, &str); 10] = [
    ("services", "type ipv4_addr . inet_proto . inet_service : verdict"),
    ("endpoints", "typeof ip daddr . ip protocol . th dport . numgen random mod 4294967295 : ip daddr . th dport"),
    ("node_ports", "type inet_proto . inet_service : verdict"),
    ("node_endpoints", "typeof ip protocol . th dport . numgen random mod 4294967295 : ip daddr . th dport"),
    ("kept_ports", "type inet_proto . inet_service : verdict"),
    ("kept_endpoints", "typeof ip protocol . th dport . numgen random mod 4294967295 : ip daddr . th dport"),
    ("sticky_services", "type ipv4_addr . inet_proto . inet_service : verdict"),
    ("sticky_ports", "type inet_proto . inet_service : verdict"),
    ("host_ports", "type inet_proto . inet_service : ipv4_addr . inet_service"),
    ("host_address_ports", "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
];

pub const AFFINITY: &str = "affinity";

/// Which client was led where, for services that lead a client always to the same: filled by the rules themselves. The kernel makes no place for more: then the dice decide.
const STICKY: &str = "typeof ip saddr . ip daddr . ip protocol . th dport : ip daddr . th dport; \
     flags dynamic, timeout; size 262144";

const SETS: [(&str, &str); 1] = [("hairpins", "type ipv4_addr . ipv4_addr")];

struct Chain {
    name: &'static str,
    /// Where the kernel enters it; empty for one that others lead to.
    hook: &'static str,
    rules: String,
}

fn chains() -> [Chain; 10] {
    let chain = |name, hook, rules: &str| Chain { name, hook, rules: rules.to_owned() };
    [
        // Questions to the name service are many and short, and need no translation. Packets to the loopback come from
        // this machine only: links of pods are told to let them through for the sake of ports of the node.
        chain(
            "untracked_in",
            "type filter hook prerouting priority raw",
            &format!("iifname \"cpd*\" ip daddr 127.0.0.0/8 drop\nip daddr {DNS_ADDRESS} udp dport 53 notrack"),
        ),
        chain(
            "untracked_out",
            "type filter hook output priority raw",
            &format!("ip saddr {DNS_ADDRESS} udp sport 53 notrack\nip daddr {DNS_ADDRESS} udp dport 53 notrack"),
        ),
        // The address of the name service is one of this machine's, and none of those that ports of the node are at.
        chain(
            "balance",
            "",
            &format!(
                "ip daddr . ip protocol . th dport vmap @services
                 ip daddr != {DNS_ADDRESS} fib daddr type local jump local_ports"
            ),
        ),
        // As upstream with nftables, node ports are not at the loopback. Host ports are at 127.0.0.1, but not at other
        // addresses of the loopback, where machines have name servers of their own.
        chain(
            "local_ports",
            "",
            &format!(
                "dnat ip to ip daddr . ip protocol . th dport map @host_address_ports
                 ip daddr != 127.0.0.0/8 ip saddr != {POD_RANGE} fib saddr type != local \
                     ip protocol . th dport vmap @kept_ports
                 ip daddr != 127.0.0.0/8 ip protocol . th dport vmap @node_ports
                 ip daddr 127.0.0.0/8 ip daddr != 127.0.0.1 return
                 dnat ip to ip protocol . th dport map @host_ports"
            ),
        ),
        // After the translation it is known who was chosen for whom.
        chain("recorded", "type filter hook postrouting priority 0", &recorded()),
        chain("prerouting", "type nat hook prerouting priority -100", &format!("{ALL} jump balance")),
        chain("output", "type nat hook output priority -100", &format!("{ALL} jump balance")),
        chain(
            "postrouting",
            "type nat hook postrouting priority 100",
            &format!(
                "ip saddr . ip daddr @hairpins masquerade
                 ip saddr 127.0.0.0/8 oifname \"cpd*\" masquerade
                 meta mark and {MARK} == {MARK} oifname != \"cpd*\" masquerade
                 ip saddr {POD_RANGE} ip daddr != {POD_RANGE} oifname != \"cpd*\" oifname != \"lo\" masquerade"
            ),
        ),
        chain(
            "unserved_forward",
            "type filter hook forward priority 0",
            &format!(
                "ip daddr {SERVICE_RANGE} ct state new meta l4proto tcp reject with tcp reset
                 ip daddr {SERVICE_RANGE} ct state new reject"
            ),
        ),
        chain(
            "unserved_output",
            "type filter hook output priority 0",
            &format!(
                "ip daddr != {DNS_ADDRESS} ip daddr {SERVICE_RANGE} meta l4proto tcp reject with tcp reset
                 ip daddr != {DNS_ADDRESS} ip daddr {SERVICE_RANGE} reject"
            ),
        ),
    ]
}

/// The kernel knows what a port of the original direction is once it knows the protocol.
fn recorded() -> String {
    let rules = ["tcp", "udp", "sctp"].map(|protocol| {
        let new = format!("meta l4proto {protocol} ct state new ct status dnat");
        format!(
            "{new} ct original ip daddr . ip protocol . ct original proto-dst vmap @sticky_services
             {new} ip protocol . ct original proto-dst vmap @sticky_ports"
        )
    });
    rules.join("\n")
}

/// Everything that is not an element, in maps without elements.
pub fn rules() -> String {
    let mut text = String::from("table ip copepod {\n");
    for (name, kind) in MAPS {
        text.push_str(&format!("map {name} {{ {kind}; }}\n"));
    }
    text.push_str(&format!("map {AFFINITY} {{ {STICKY}; }}\n"));
    for (name, kind) in SETS {
        text.push_str(&format!("set {name} {{ {kind}; }}\n"));
    }
    let chains = chains();
    for chain in &chains {
        let hook = if chain.hook.is_empty() { String::new() } else { format!("{};", chain.hook) };
        text.push_str(&format!("chain {} {{ {hook} }}\n", chain.name));
    }
    text.push_str("}\n");
    for chain in &chains {
        for rule in chain.rules.lines() {
            text.push_str(&format!("add rule ip copepod {} {}\n", chain.name, rule.trim()));
        }
    }
    text
}

/// Takes everything away, whether there is something or not.
pub const NOTHING: &str = "table ip copepod {}\ndelete table ip copepod\n";

/// A chain that verdicts lead to. It depends on its name only, so that services share it:
///
/// - `pick-3` picks one of three endpoints, `port-3` and `keep-3` of a node port, of all nodes or of this one;
/// - `pick-3-sticky` leads a client to where it was led before, if it is known;
/// - `record-60` keeps for sixty seconds where a client was led.
pub fn shared(chain: &str) -> String {
    let mut parts = chain.split('-');
    let (family, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("1"));
    let is_sticky = parts.next().is_some();
    let mut rules = Vec::new();
    if family == "record" {
        for protocol in ["tcp", "udp", "sctp"] {
            rules.push(format!(
                "meta l4proto {protocol} update @{AFFINITY} {{ ct original ip saddr . ct original ip daddr . ip protocol . \
                 ct original proto-dst timeout {number}s : ip daddr . {protocol} dport }}"
            ));
        }
    } else {
        if family == "port" {
            rules.push(format!("meta mark set meta mark or {MARK}"));
        }
        if is_sticky {
            rules.push(format!("dnat ip to ip saddr . ip daddr . ip protocol . th dport map @{AFFINITY}"));
        }
        let (key, map) = match family {
            "pick" => ("ip daddr . ", "endpoints"),
            "keep" => ("", "kept_endpoints"),
            _ => ("", "node_endpoints"),
        };
        rules.push(format!("dnat ip to {key}ip protocol . th dport . numgen random mod {number} map @{map}"));
    }
    let rules: String = rules.iter().map(|rule| format!("add rule ip copepod {chain} {rule}\n")).collect();
    format!("add chain ip copepod {chain}\nflush chain ip copepod {chain}\n{rules}")
}
