//! What `up` has made, written down before it is made.

use std::{collections::BTreeMap, fs};

use serde::{Deserialize, Serialize};

use super::{Lab, Member, Role, process};
use crate::failure::{Doing, Failure, Outcome};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Of this file.
    pub version: u32,
    pub servers: u8,
    pub nodes: u8,
    /// By the name of the member.
    pub processes: BTreeMap<String, Process>,
    /// What `net.ipv4.ip_forward` of the machine was before it was switched on.
    pub ip_forward_before: Option<String>,
    pub mirrors: Vec<String>,
}

/// A process is known by its id and the time it started: ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub start_ticks: u64,
}

const VERSION: u32 = 1;

impl Ledger {
    pub fn new() -> Ledger {
        Ledger { version: VERSION, ..Ledger::default() }
    }

    pub fn read(lab: &Lab) -> Outcome<Option<Ledger>> {
        let path = lab.directory().join("ledger.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing(path.display()),
        };
        let ledger: Ledger = serde_json::from_slice(&bytes).doing(path.display())?;
        if ledger.version != VERSION {
            return Err(Failure::new(format!("{} was written by another version of copepod", path.display()))
                .hint("run `copepod down` with that version first"));
        }
        Ok(Some(ledger))
    }

    pub fn expected(lab: &Lab) -> Outcome<Ledger> {
        Ledger::read(lab)?.ok_or_else(|| Failure::new("there is no local cluster").hint("start one with `copepod up`"))
    }

    pub fn write(&self, lab: &Lab) -> Outcome {
        fs::create_dir_all(lab.directory()).doing(lab.directory().display())?;
        let text = serde_json::to_vec_pretty(self).doing("the ledger")?;
        process::write_private(&lab.directory().join("ledger.json"), &text)
    }

    pub fn servers(&self, lab: &Lab) -> Vec<Member> {
        (1..=self.servers).map(|number| lab.member(Role::Server, number)).collect()
    }

    pub fn nodes(&self, lab: &Lab) -> Vec<Member> {
        (1..=self.nodes).map(|number| lab.member(Role::Node, number)).collect()
    }

    pub fn members(&self, lab: &Lab) -> Vec<Member> {
        let mut members = self.servers(lab);
        members.extend(self.nodes(lab));
        members
    }

    pub fn is_running(&self, member: &Member) -> bool {
        self.processes.get(&member.name).is_some_and(|process| process.lives())
    }

    /// The members of these names, or all when there are none.
    pub fn named(&self, lab: &Lab, names: &[String]) -> Outcome<Vec<Member>> {
        let members = self.members(lab);
        if names.is_empty() {
            return Ok(members);
        }
        let known: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        names
            .iter()
            .map(|name| {
                members.iter().find(|member| member.name == *name).cloned().ok_or_else(|| {
                    Failure::new(format!("there is no server or node {name:?}"))
                        .hint(format!("there are {}", known.join(", ")))
                })
            })
            .collect()
    }
}
