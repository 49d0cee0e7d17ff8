//! The rules of the table, which are the same whatever services there are.
//!
//! They are written so that the kernel may hold them already: maps and chains that are there stay, and what is in them is
//! replaced in the same transaction. An agent that starts again so takes over a table that serves.

use crate::{DNS_ADDRESS, POD_RANGE, SERVICE_RANGE};

/// The mark of packets that came in at a node port: they may leave to another node, and the answer must come back here.
const MARK: &str = "0x4000";

/// Keys of the endpoints: where the packet goes, and the dice that choose among several.
const MAPS: [(&str, &str); 6] = [
    ("services", "type ipv4_addr . inet_proto . inet_service : verdict"),
    ("endpoints", "typeof ip daddr . ip protocol . th dport . numgen random mod 4294967295 : ip daddr . tcp dport"),
    ("node_ports", "type inet_proto . inet_service : verdict"),
    ("node_endpoints", "typeof ip protocol . th dport . numgen random mod 4294967295 : ip daddr . tcp dport"),
    ("host_ports", "type inet_proto . inet_service : ipv4_addr . inet_service"),
    ("host_address_ports", "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
];

const SETS: [(&str, &str); 1] = [("hairpins", "type ipv4_addr . ipv4_addr")];

struct Chain {
    name: &'static str,
    /// Where the kernel enters it; empty for one that others lead to.
    hook: &'static str,
    rules: String,
}

fn chains() -> [Chain; 9] {
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
            "dnat ip to ip daddr . ip protocol . th dport map @host_address_ports
             ip daddr != 127.0.0.0/8 ip protocol . th dport vmap @node_ports
             ip daddr 127.0.0.0/8 ip daddr != 127.0.0.1 return
             dnat ip to ip protocol . th dport map @host_ports",
        ),
        chain("prerouting", "type nat hook prerouting priority -100", "ip protocol { tcp, udp, sctp } jump balance"),
        chain("output", "type nat hook output priority -100", "ip protocol { tcp, udp, sctp } jump balance"),
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

/// Everything that is not an element, in maps without elements.
pub fn rules() -> String {
    let mut text = String::from("table ip copepod {\n");
    for (name, kind) in MAPS {
        text.push_str(&format!("map {name} {{ {kind}; }}\n"));
    }
    for (name, kind) in SETS {
        text.push_str(&format!("set {name} {{ {kind}; }}\n"));
    }
    let chains = chains();
    for chain in &chains {
        let hook = if chain.hook.is_empty() { String::new() } else { format!("{};", chain.hook) };
        text.push_str(&format!("chain {} {{ {hook} }}\n", chain.name));
    }
    text.push_str("}\n");
    for (name, _) in MAPS {
        text.push_str(&format!("flush map ip copepod {name}\n"));
    }
    for (name, _) in SETS {
        text.push_str(&format!("flush set ip copepod {name}\n"));
    }
    for chain in &chains {
        text.push_str(&format!("flush chain ip copepod {}\n", chain.name));
        for rule in chain.rules.lines() {
            text.push_str(&format!("add rule ip copepod {} {}\n", chain.name, rule.trim()));
        }
    }
    text
}

/// Takes everything away, whether there is something or not.
pub const NOTHING: &str = "table ip copepod {}\ndelete table ip copepod\n";

/// A chain that picks one of some number of endpoints; it depends on the number only, so that services share it.
pub fn picking(chain: &str) -> String {
    let number = chain.rsplit('-').next().unwrap_or("1");
    let (mark, key, map) = match chain.split('-').next() {
        Some("pick") => (String::new(), "ip daddr . ", "endpoints"),
        Some("port") => (format!("meta mark set meta mark or {MARK} "), "", "node_endpoints"),
        _ => (String::new(), "", "node_endpoints"),
    };
    format!(
        "add chain ip copepod {chain}\nflush chain ip copepod {chain}\n\
         add rule ip copepod {chain} {mark}dnat ip to {key}ip protocol . th dport . numgen random mod {number} map @{map}\n"
    )
}
