//! The machine of a node: what runs on it goes on when its agent does not, and ends when it loses its power.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::Timestamp;

use crate::dice::Dice;

/// So many actions of a thousand fail while things go wrong.
const BAD_LUCK: u64 = 15;

#[derive(Clone, Debug)]
pub struct Process {
    pub id: String,
    pub uid: String,
    pub container: String,
    pub attempt: u32,
    pub image: String,
    pub since: Timestamp,
    pub exit: Option<(i32, Timestamp)>,
}

pub struct Machine {
    pub address: String,
    number: u64,
    n_addresses: u64,
    pub processes: BTreeMap<String, Process>,
    /// The sandbox of each pod: which attempt, and its address.
    pub sandboxes: BTreeMap<String, (u32, String)>,
    /// Pods that are being stopped because they were released, since that was looked at last.
    pub released: Vec<String>,
    stopping: BTreeSet<String>,
    pub is_calm: bool,
}

impl Machine {
    pub fn new(number: u64) -> Machine {
        Machine {
            address: format!("10.0.{}.{}", number / 256, number % 256),
            number,
            n_addresses: 0,
            processes: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            released: Vec::new(),
            stopping: BTreeSet::new(),
            is_calm: false,
        }
    }

    pub fn has_bad_luck(&self, dice: &mut Dice) -> bool {
        dice.chance(BAD_LUCK) && !self.is_calm
    }

    pub fn next_address(&mut self) -> String {
        self.n_addresses += 1;
        format!("10.244.{}.{}", self.number, self.n_addresses % 250 + 2)
    }

    /// The newest run of each container of a pod.
    pub fn newest(&self, uid: &str) -> Vec<&Process> {
        let mut newest: BTreeMap<&str, &Process> = BTreeMap::new();
        for process in self.processes.values().filter(|process| process.uid == uid) {
            let slot = newest.entry(&process.container).or_insert(process);
            if slot.attempt < process.attempt {
                *slot = process;
            }
        }
        newest.into_values().collect()
    }

    pub fn running(&self) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(|process| process.exit.is_none())
    }

    /// Pods of which something is here.
    pub fn pods(&self) -> BTreeSet<String> {
        self.processes.values().map(|process| process.uid.clone()).chain(self.sandboxes.keys().cloned()).collect()
    }

    pub fn is_released(&mut self, id: &str, uid: &str) {
        if self.stopping.insert(id.to_owned()) {
            self.released.push(uid.to_owned());
        }
    }

    pub fn clear(&mut self, uid: &str) {
        self.processes.retain(|_, process| process.uid != uid);
        self.sandboxes.remove(uid);
    }

    pub fn lose_power(&mut self) {
        self.processes.clear();
        self.sandboxes.clear();
        self.stopping.clear();
        self.released.clear();
    }
}
