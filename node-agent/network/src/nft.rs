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
    node::NetworkError,
    rules::{NOTHING, picking, rules},
};

/// The elements of every map and set, as nft writes them; a set's elements have empty values.
pub type Elements = BTreeMap<&'static str, BTreeMap<String, String>>;

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
    /// Makes the kernel hold `wanted`. When it returns, it does.
    pub async fn apply(&mut self, wanted: Elements) -> Result<(), NetworkError> {
        let chains = chains(&wanted);
        if let Some(held) = &mut self.held {
            let mut script: String = chains.difference(&held.chains).map(|chain| picking(chain)).collect();
            script.push_str(&changes(&held.elements, &wanted));
            if script.is_empty() {
                return Ok(());
            }
            match run(&script).await {
                Ok(()) => {
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
        let picking: String = chains.iter().map(|chain| picking(chain)).collect();
        let whole = rules() + &picking + &changes(&Elements::new(), &wanted);
        if let Err(error) = run(&whole).await {
            tracing::debug!(%error, "the table of before cannot be used");
            run(&format!("{NOTHING}{whole}")).await?;
        }
        self.held = Some(Held { elements: wanted, chains });
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
