//! Clients: what they ask for, and what they make of the answers.

use std::collections::BTreeMap;

use copepod_api::{Action, DeleteOptions, Request, Revision, User, k8s_openapi::api::core::v1::ConfigMap};
use copepod_store::View;
use serde_json::{Value, json};

use crate::{
    Mutation,
    dice::Dice,
    facts::Facts,
    linear::{Answer, Call, Kind, State},
    server::Outcome,
    world::{create, key},
};

/// Objects that come and go; few, so that clients meet.
const SINGLE: [&str; 3] = ["a", "b", "c"];

/// Two objects that are always written together, with the same value.
const PAIR: [&str; 2] = ["left", "right"];

/// The value with which the pair is made.
const FIRST: u64 = 1;

pub struct Clients {
    dice: Dice,
    /// What each client has last seen of each object: its value, and its version.
    seen: Vec<BTreeMap<&'static str, (u64, Revision)>>,
    made: BTreeMap<u64, Made>,
}

/// A call that has no answer yet.
pub struct Made {
    client: usize,
    /// None: a read.
    pub requests: Vec<Request>,
    kinds: Vec<(&'static str, Kind)>,
    began: u64,
    newest: Revision,
}

impl Clients {
    pub fn new(n_clients: usize, dice: Dice) -> Clients {
        Clients { dice, seen: vec![BTreeMap::new(); n_clients], made: BTreeMap::new() }
    }

    pub fn pair(&self, user: &User) -> Vec<Request> {
        PAIR.iter().map(|name| create(user, name, FIRST)).collect()
    }

    /// The pair is being made; nobody waits for it.
    pub fn founded(&mut self, facts: &mut Facts, now: u64) {
        for name in PAIR {
            let call = Call { kind: Kind::Create(FIRST), began: now, ended: u64::MAX, answer: Answer::Unknown };
            facts.histories.entry(name.to_owned()).or_default().push(call);
        }
    }

    /// Makes a call; its number is the value it writes.
    pub fn call(&mut self, client: usize, call: u64, newest: Revision, mutation: Option<Mutation>) {
        let user = User::system("admin");
        let name = SINGLE[self.dice.below(SINGLE.len() as u64) as usize];
        let data = json!({"data": {"value": call.to_string()}});
        let known = self.seen[client].get(name).copied();
        let merge = |name: &str| Request::merge::<ConfigMap>(&user, "default", name, data.clone());
        let (requests, kinds) = match (self.dice.below(10), known) {
            (0 | 1, _) => (Vec::new(), vec![(name, Kind::Read)]),
            (2, _) => (Vec::new(), PAIR.map(|name| (name, Kind::Read)).to_vec()),
            (3 | 4, _) => (PAIR.map(merge).to_vec(), PAIR.map(|name| (name, Kind::Patch(call))).to_vec()),
            (5, _) => {
                let delete = Request::delete::<ConfigMap>(&user, "default", name, DeleteOptions::default());
                (vec![delete], vec![(name, Kind::Delete)])
            }
            (6 | 7, Some((value, revision))) => {
                let mut object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
                    "data": {"value": call.to_string()},
                });
                if mutation != Some(Mutation::DropPrecondition) {
                    object["metadata"]["resourceVersion"] = revision.to_string().into();
                }
                let update = Request::of::<ConfigMap>(&user, "default", name, "", Action::Update { object });
                (vec![update], vec![(name, Kind::Swap(value, call))])
            }
            (8, _) => (vec![merge(name)], vec![(name, Kind::Patch(call))]),
            _ => (vec![create(&user, name, call)], vec![(name, Kind::Create(call))]),
        };
        self.made.insert(call, Made { client, requests, kinds, began: call, newest });
    }

    pub fn made(&self, call: u64) -> Option<&Made> {
        self.made.get(&call)
    }

    pub fn client_of(&self, call: u64) -> Option<usize> {
        self.made.get(&call).map(|made| made.client)
    }

    /// Takes down an answer; says what it was in a line.
    pub fn answer(&mut self, call: u64, outcome: &Outcome, now: u64, facts: &mut Facts) -> String {
        let Some(made) = self.made.remove(&call) else { return String::new() };
        let mut shown = Vec::new();
        if let (Outcome::Written(revision), Some((name, _))) = (outcome, made.kinds.last()) {
            facts.acknowledged((*name).to_owned(), *revision, made.newest);
        }
        for (name, kind) in &made.kinds {
            let answer = match outcome {
                Outcome::Written(_) => Answer::Done,
                Outcome::Seen(view) => {
                    let found = view.object(&key(name)).map(|object| (value(&object.bytes()), object.revision));
                    match found {
                        Some(found) => drop(self.seen[made.client].insert(name, found)),
                        None => drop(self.seen[made.client].remove(name)),
                    }
                    Answer::Seen(found.map(|(value, _)| value))
                }
                // Which of several it is about, nobody asks.
                Outcome::Refused(_) if made.kinds.len() > 1 => Answer::Never,
                Outcome::Refused(status) => match status.code() {
                    409 => Answer::Conflict,
                    404 => Answer::Absent,
                    _ => {
                        facts.fail(format!("{kind:?} of {name} was refused: {status}"));
                        Answer::Never
                    }
                },
                Outcome::Never | Outcome::Same => Answer::Never,
                Outcome::Unknown => Answer::Unknown,
            };
            shown.push(format!("{kind:?} of {name}: {answer:?}"));
            let ended = if answer == Answer::Unknown { u64::MAX } else { now };
            facts.histories.entry((*name).to_owned()).or_default().push(Call {
                kind: *kind,
                began: made.began,
                ended,
                answer,
            });
        }
        if let Outcome::Seen(view) = outcome {
            check_pair(view, facts);
        }
        format!("client {}: {}", made.client, shown.join(", "))
    }

    /// Everybody reads everything once more.
    pub fn last_look(&mut self, view: &View, now: u64, facts: &mut Facts) {
        check_pair(view, facts);
        for name in SINGLE.iter().chain(&PAIR) {
            let state: State = view.object(&key(name)).map(|object| value(&object.bytes()));
            let call = Call { kind: Kind::Read, began: now, ended: now + 1, answer: Answer::Seen(state) };
            facts.histories.entry((*name).to_owned()).or_default().push(call);
        }
    }
}

/// What is written in one transaction is seen together.
fn check_pair(view: &View, facts: &mut Facts) {
    let [left, right] = PAIR.map(|name| view.object(&key(name)).map(|object| value(&object.bytes())));
    if left != right {
        facts.fail(format!("half of a transaction at revision {}: {left:?} and {right:?}", view.revision()));
    }
}

fn value(bytes: &[u8]) -> u64 {
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    object["data"]["value"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
