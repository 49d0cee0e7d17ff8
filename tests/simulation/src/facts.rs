//! What has been seen so far, held against what must be so.

use std::collections::BTreeMap;

use copepod_api::{Key, Revision, resource::CONFIG_MAPS};
use copepod_store::{Event, EventKind, View};

use crate::linear::{self, Call};

#[derive(Default)]
pub struct Facts {
    /// The change that each revision is, as the first server showed it that had it.
    changes: BTreeMap<Revision, (Key, bool, u64)>,
    leaders: BTreeMap<u64, u64>,
    /// The calls on each object.
    pub histories: BTreeMap<String, Vec<Call>>,
    acknowledged: BTreeMap<Revision, String>,
    pub failure: Option<String>,
    pub n_calls: u64,
    /// Objects for whose calls the search for an order gave up.
    pub n_given_up: u64,
}

impl Facts {
    pub fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    /// Every server tells the same story.
    pub fn applied(&mut self, server: u64, event: &Event) {
        let change = (event.object.key.clone(), event.kind == EventKind::Deleted, hash(&event.object.bytes()));
        let known = self.changes.entry(event.revision).or_insert_with(|| change.clone());
        if *known != change {
            let what = format!("revision {}: s{server} has {change:?}, another server {known:?}", event.revision);
            self.fail(what);
        }
    }

    pub fn leads(&mut self, server: u64, term: u64) {
        let leader = *self.leaders.entry(term).or_insert(server);
        if leader != server {
            self.fail(format!("term {term} has two leaders, s{leader} and s{server}"));
        }
    }

    /// The revision up to which everything was acknowledged when a call began.
    pub fn newest(&self) -> Revision {
        self.acknowledged.last_key_value().map_or(Revision::ZERO, |(revision, _)| *revision)
    }

    pub fn acknowledged(&mut self, name: String, revision: Revision, newest_before: Revision) {
        if revision <= newest_before {
            self.fail(format!("a write of {name} is revision {revision}, and {newest_before} was answered before it"));
        }
        if let Some(other) = self.acknowledged.insert(revision, name.clone()) {
            self.fail(format!("revision {revision} was given to {name} and to {other}"));
        }
    }

    /// A watch of config maps has shown these revisions after `from`, and claims to have shown all up to `to`.
    pub fn watched(&mut self, from: Revision, to: Revision, seen: &[Revision]) {
        if from >= to {
            return;
        }
        let all = self.changes.range(from.next()..=to).filter(|(_, (key, ..))| key.resource == CONFIG_MAPS);
        let all: Vec<Revision> = all.map(|(revision, _)| *revision).collect();
        if all != seen {
            self.fail(format!("a watch from {from} to {to} has shown {seen:?} instead of {all:?}"));
        }
    }

    /// Everything that was acknowledged is in the story, and each object's calls can be put in order.
    pub fn judge(&mut self, view: &View) {
        let lost = self.acknowledged.iter().find(|(revision, name)| {
            // A server that got a snapshot has not shown every change, but one that applied it has.
            self.changes.get(revision).is_none_or(|(key, ..)| key.name() != name.as_str())
        });
        if let Some((revision, name)) = lost {
            let what = format!("the write of {name} that was acknowledged as revision {revision} is lost");
            return self.fail(what);
        }
        if view.revision() < self.newest() {
            return self.fail(format!("the state ends at {}, before {}", view.revision(), self.newest()));
        }
        let mut wrong = None;
        self.n_given_up = 0;
        for (name, calls) in &self.histories {
            match linear::is_linearizable(calls) {
                Some(true) => (),
                Some(false) => wrong = Some((name, calls)),
                None => self.n_given_up += 1,
            }
        }
        if let Some((name, calls)) = wrong {
            let shown: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
            let what = format!("the calls on {name} cannot be put in order:\n    {}", shown.join("\n    "));
            self.fail(what);
        }
    }
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
