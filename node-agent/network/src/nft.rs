//! The rules, made once, and the elements, changed in transactions.
//!
//! ```text
//! packet to 10.96.7.8 tcp 80
//!   services:  10.96.7.8 . tcp . 80       → goto pick-3        (three endpoints)
//!   pick-3:    10.96.7.8 . tcp . 80 . dice mod 3
//!   endpoints: 10.96.7.8 . tcp . 80 . 2   → 10.244.1.9 . 8080
//! ```
//! The chains depend on the number of endpoints only and are shared by all services, so a change of a service is a
//! handful of elements, whatever the number of services. A transaction of the kernel takes them all or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::{DNS_ADDRESS, POD_RANGE, SERVICE_RANGE, node::NetworkError};

/// The mark of packets that came in at a node port: they may leave to another node, and the answer must come back here.
const MARK: &str = "0x4000";

/// Everything that is not an element.
pub fn rules() -> String {
    let key = "typeof ip daddr . ip protocol . th dport . numgen random mod 4294967295 : ip daddr . tcp dport;";
    let port_key = "typeof ip protocol . th dport . numgen random mod 4294967295 : ip daddr . tcp dport;";
    format!(
        "table ip copepod {{}}
delete table ip copepod
table ip copepod {{
    map services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
    map endpoints {{ {key} }}
    map node_ports {{ type inet_proto . inet_service : verdict; }}
    map node_endpoints {{ {port_key} }}
    map host_ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    set hairpins {{ type ipv4_addr . ipv4_addr; }}

    chain untracked_in {{
        type filter hook prerouting priority raw;
        ip daddr {DNS_ADDRESS} udp dport 53 notrack
    }}
    chain untracked_out {{
        type filter hook output priority raw;
        ip saddr {DNS_ADDRESS} udp sport 53 notrack
        ip daddr {DNS_ADDRESS} udp dport 53 notrack
    }}
    chain balance {{
        ip daddr . ip protocol . th dport vmap @services
        fib daddr type local jump local_ports
    }}
    chain local_ports {{
        ip protocol . th dport vmap @node_ports
        dnat ip to ip protocol . th dport map @host_ports
    }}
    chain prerouting {{
        type nat hook prerouting priority -100;
        ip protocol {{ tcp, udp, sctp }} jump balance
    }}
    chain output {{
        type nat hook output priority -100;
        ip protocol {{ tcp, udp, sctp }} jump balance
    }}
    chain postrouting {{
        type nat hook postrouting priority 100;
        ip saddr . ip daddr @hairpins masquerade
        meta mark and {MARK} == {MARK} oifname != \"cpd*\" masquerade
        ip saddr {POD_RANGE} ip daddr != {POD_RANGE} oifname != \"cpd*\" oifname != \"lo\" masquerade
    }}
    chain unserved_forward {{
        type filter hook forward priority 0;
        ip daddr {SERVICE_RANGE} ct state new meta l4proto tcp reject with tcp reset
        ip daddr {SERVICE_RANGE} ct state new reject
    }}
    chain unserved_output {{
        type filter hook output priority 0;
        ip daddr != {DNS_ADDRESS} ip daddr {SERVICE_RANGE} meta l4proto tcp reject with tcp reset
        ip daddr != {DNS_ADDRESS} ip daddr {SERVICE_RANGE} reject
    }}
}}
"
    )
}

/// The elements of every map and set, as nft writes them; a set's elements have empty values.
pub type Elements = BTreeMap<&'static str, BTreeMap<String, String>>;

/// What the kernel holds.
#[derive(Default)]
pub struct Table {
    elements: Elements,
    chains: BTreeSet<String>,
}

impl Table {
    /// Makes the kernel hold `wanted`. When it returns, it does.
    pub async fn apply(&mut self, wanted: Elements) -> Result<(), NetworkError> {
        let chains = chains(&wanted);
        let mut script = String::new();
        for chain in chains.difference(&self.chains) {
            script.push_str(&chain_rules(chain));
        }
        script.push_str(&changes(&self.elements, &wanted));
        if script.is_empty() {
            return Ok(());
        }
        run(&script).await?;
        self.elements = wanted;
        self.chains.extend(chains);
        Ok(())
    }
}

/// Removals first: an element whose value changes is removed and added again, in the same transaction.
fn changes(held: &Elements, wanted: &Elements) -> String {
    let none = BTreeMap::new();
    let mut script = String::new();
    let names: BTreeSet<&&str> = held.keys().chain(wanted.keys()).collect();
    for (verb, from, to) in [("delete", held, wanted), ("add", wanted, held)] {
        for name in &names {
            let (from, to) = (from.get(**name).unwrap_or(&none), to.get(**name).unwrap_or(&none));
            let list: Vec<String> = from
                .iter()
                .filter(|(key, value)| to.get(*key) != Some(value))
                .map(|(key, value)| match (verb, value.is_empty()) {
                    ("delete", _) | (_, true) => key.clone(),
                    _ => format!("{key} : {value}"),
                })
                .collect();
            for some in list.chunks(500) {
                script.push_str(&format!("{verb} element ip copepod {name} {{ {} }}\n", some.join(", ")));
            }
        }
    }
    script
}

fn chains(elements: &Elements) -> BTreeSet<String> {
    let verdicts = ["services", "node_ports"].into_iter().filter_map(|map| elements.get(map)).flatten();
    verdicts.filter_map(|(_, verdict)| verdict.strip_prefix("goto ")).map(str::to_owned).collect()
}

fn chain_rules(chain: &str) -> String {
    let number = chain.rsplit('-').next().unwrap_or("1");
    let rule = if chain.starts_with("pick-") {
        format!("dnat ip to ip daddr . ip protocol . th dport . numgen random mod {number} map @endpoints")
    } else if chain.starts_with("port-") {
        format!(
            "meta mark set meta mark or {MARK} \
             dnat ip to ip protocol . th dport . numgen random mod {number} map @node_endpoints"
        )
    } else {
        format!("dnat ip to ip protocol . th dport . numgen random mod {number} map @node_endpoints")
    };
    format!("add chain ip copepod {chain}\nflush chain ip copepod {chain}\nadd rule ip copepod {chain} {rule}\n")
}

/// One transaction.
pub async fn run(script: &str) -> Result<(), NetworkError> {
    let failed =
        |error: std::io::Error| NetworkError::Nft(format!("cannot run nft ({error}); install the package nftables"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetworkError::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(list: &[(&str, &str)]) -> Elements {
        let map = list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Elements::from([("endpoints", map)])
    }

    #[test]
    fn only_what_changed_is_sent() {
        let held = endpoints(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let wanted = endpoints(&[("a", "1"), ("b", "9"), ("d", "4")]);
        assert_eq!(
            changes(&held, &wanted),
            "delete element ip copepod endpoints { b, c }\nadd element ip copepod endpoints { b : 9, d : 4 }\n"
        );
        assert_eq!(changes(&wanted, &wanted), "");
    }
}
