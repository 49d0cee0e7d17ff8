//! What the kernel is told: the rules once, and then elements, in transactions.
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

use crate::{
    conntrack,
    elements::{Backends, Elements},
    node::NetworkError,
    rules::{AFFINITY, NOTHING, rules, shared},
};

/// Maps that say who wants to be led where he was led before.
const STICKY_FRONTS: [&str; 2] = ["sticky_services", "sticky_ports"];

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Elements in one command: a line of some tens of kilobytes.
const ELEMENTS_AT_ONCE: usize = 500;

/// What the kernel holds.
#[derive(Default)]
pub struct Table {
    /// `None` while that is not known: at first, and after a change that failed.
    held: Option<Held>,
}

struct Held {
    elements: Elements,
    chains: BTreeSet<String>,
}

impl Table {
    /// Makes the kernel hold `wanted`. When it returns, it does, and nothing that it remembers of connections leads to
    /// where nothing leads any more.
    pub async fn apply(&mut self, wanted: Elements) -> Result<(), NetworkError> {
        let now = Backends::of(&wanted);
        let before = self.held.as_ref().map(|held| Backends::of(&held.elements));
        let is_sticky = STICKY_FRONTS.iter().any(|map| wanted.contains_key(map));
        self.hold(wanted).await?;
        let changed = |protocol| before.as_ref().is_none_or(|before| before.differ(&now, protocol));
        let affinity = match is_sticky && PROTOCOLS.into_iter().any(changed) {
            true => forget_clients(&now).await,
            false => Ok(()),
        };
        let datagrams = if changed("udp") { conntrack::forget_datagrams(&now) } else { Ok(()) };
        if let Err(error) = affinity.and(datagrams) {
            tracing::warn!(%error, "some clients may be led to endpoints that are gone");
        }
        Ok(())
    }

    async fn hold(&mut self, wanted: Elements) -> Result<(), NetworkError> {
        let chains = chains(&wanted);
        if let Some(held) = &mut self.held {
            let mut script: String = chains.difference(&held.chains).map(|chain| shared(chain)).collect();
            script.push_str(&changes(&held.elements, &wanted));
            if script.is_empty() {
                return Ok(());
            }
            match run(&script).await {
                Ok(_) => {
                    held.elements = wanted;
                    held.chains.extend(chains);
                    return Ok(());
                }
                // Somebody else has changed the table, or it is gone.
                Err(error) => tracing::warn!(%error, "the rules are made as a whole"),
            }
        }
        // Until that has succeeded nobody knows what is there.
        self.held = None;
        let shared: String = chains.iter().map(|chain| shared(chain)).collect();
        let whole = rules() + &shared + &changes(&Elements::new(), &wanted);
        run(&format!("{NOTHING}{whole}")).await?;
        self.held = Some(Held { elements: wanted, chains });
        Ok(())
    }
}

/// Takes out of the affinity map who would be led to an endpoint that is gone.
async fn forget_clients(backends: &Backends) -> Result<(), NetworkError> {
    let listed = run(&format!("list map ip copepod {AFFINITY}\n")).await?;
    let gone: Vec<String> = clients(&listed)
        .filter(|(_, [address, protocol, port], to)| {
            let (Ok(address), Ok(port)) = (address.parse(), port.parse()) else { return false };
            let known = backends.at(address, protocol, port).or_else(|| backends.at_node(protocol, port));
            !known.is_some_and(|known| known.contains(*to))
        })
        // One that has run out meanwhile would fail the others; so each is added before it is taken away.
        .map(|(key, _, to)| {
            format!(
                "add element ip copepod {AFFINITY} {{ {key} : {to} }}\n\
                 delete element ip copepod {AFFINITY} {{ {key} }}\n"
            )
        })
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    run(&gone.concat()).await.map(drop)
}

/// `192.0.2.7 . 10.96.0.5 . tcp . 80 timeout 3h expires 2h : 10.244.1.9 . 8080`: the key, what the client asked for, and
/// where it was led.
fn clients(listed: &str) -> impl Iterator<Item = (String, [&str; 3], &str)> {
    let elements = listed.split_once("elements = {").map_or("", |(_, elements)| elements);
    elements.split(',').filter_map(|element| {
        let (key, to) = element.trim_end_matches(|end: char| "}\n\t ".contains(end)).split_once(" : ")?;
        let mut words = key.split_whitespace().filter(|word| *word != ".");
        let (client, address, protocol, port) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some((format!("{client} . {address} . {protocol} . {port}"), [address, protocol, port], to.trim()))
    })
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
            for some in list.chunks(ELEMENTS_AT_ONCE) {
                script.push_str(&format!("{verb} element ip copepod {name} {{ {} }}\n", some.join(", ")));
            }
        }
    }
    script
}

fn chains(elements: &Elements) -> BTreeSet<String> {
    let verdicts = ["services", "node_ports", "kept_ports", "sticky_services", "sticky_ports"]
        .into_iter()
        .filter_map(|map| elements.get(map))
        .flatten();
    verdicts.filter_map(|(_, verdict)| verdict.strip_prefix("goto ")).map(str::to_owned).collect()
}

/// One transaction; what it says.
pub async fn run(script: &str) -> Result<String, NetworkError> {
    let failed =
        |error: std::io::Error| NetworkError::Nft(format!("cannot run nft ({error}); install the package nftables"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
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
    fn clients_are_read_from_what_nft_lists() {
        let listed = "table ip copepod {\n\tmap affinity {\n\t\tflags dynamic,timeout\n\t\telements = { \
             10.244.1.3 . 10.96.0.5 . tcp . 80 timeout 3h expires 2h59m58s : 10.244.1.2 . 8080,\n\t\t\t     \
             192.0.2.7 . 192.0.2.1 . udp . 30080 timeout 10s expires 9s : 10.244.1.4 . 53 }\n\t}\n}\n";
        let found: Vec<_> = clients(listed).map(|(key, _, to)| format!("{key} → {to}")).collect();
        assert_eq!(
            found,
            [
                "10.244.1.3 . 10.96.0.5 . tcp . 80 → 10.244.1.2 . 8080",
                "192.0.2.7 . 192.0.2.1 . udp . 30080 → 10.244.1.4 . 53"
            ]
        );
        assert_eq!(clients("table ip copepod {\n\tmap affinity {\n\t}\n}\n").count(), 0);
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
