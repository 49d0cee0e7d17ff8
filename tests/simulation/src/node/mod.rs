//! A node: a machine, and the agent on it, which writes down what it is told before it acts on it.
//!
//! The order of things is that of `node-agent/src/agent.rs` and `assignments.rs`: pods that are no longer assigned are
//! remembered until nothing is left of them, an agent that starts takes over what runs, and what nobody asked for is
//! stopped once the control plane has spoken.

pub mod machine;
pub mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use copepod_api::{
    Timestamp,
    k8s_openapi::api::core::v1::{Pod, PodStatus},
};
use copepod_pods::{Job, spec, spec::RestartPolicy};
use copepod_proto::nodes::{self, Delta};
use prost::Message;
use serde_json::{Value, json};

use self::{
    machine::{Machine, Process},
    worker::{CLEAR_AGAIN, Outcome, Worker, container_id, uid},
};
use crate::{Mutation, dice::Dice, front::Down, plan::MS};

/// What one node offers.
pub const CPU_MILLIS: u64 = 1300;
pub const PODS: u64 = 12;

/// What happens on a node.
pub enum NodeEvent {
    /// The agent looks for a server.
    Dial,
    Down {
        link: u64,
        what: Down,
    },
    /// Nothing comes any more.
    Severed {
        link: u64,
    },
    Beat {
        link: u64,
    },
    Report {
        link: u64,
    },
    Contained {
        revision: u64,
    },
    Done {
        uid: String,
        job: Job,
        outcome: Outcome,
    },
    Rested {
        uid: String,
        job: Job,
    },
    Look {
        uid: String,
    },
    /// A process ends by itself, whoever hears of it.
    Exit {
        id: String,
        code: i32,
    },
}

/// What a node says to the server it has a session with.
pub enum Up {
    Dial { revision: u64 },
    Beat,
    Acknowledged(u64),
    Statuses(Vec<nodes::PodStatus>),
}

/// On disk.
#[derive(Default)]
struct Written {
    revision: u64,
    pods: BTreeMap<(String, String), Arc<Pod>>,
    leaving: BTreeMap<String, Arc<Pod>>,
    said: BTreeMap<String, PodStatus>,
}

#[derive(Default)]
pub struct Agent {
    workers: BTreeMap<String, Worker>,
    /// The session it has, or is about to have.
    pub link: Option<u64>,
    /// It has been told something in this session.
    is_told: bool,
    wanted: u64,
    pub contained: u64,
    latest: BTreeMap<String, nodes::PodStatus>,
    unsaid: BTreeSet<String>,
    /// By its clock.
    said_at: Option<Timestamp>,
}

pub struct Node {
    pub name: String,
    /// As the network knows it.
    pub id: u64,
    pub machine: Machine,
    /// For good.
    pub is_dead: bool,
    pub agent: Option<Agent>,
    pub life: u64,
    pub boot: u64,
    /// Seconds.
    pub clock_ahead: i64,
    /// Of the agent that starts next.
    pub version: u64,
    /// What must not be.
    pub failure: Option<String>,
    written: Written,
    in_flight: Vec<(String, Job, Outcome)>,
    dice: Dice,
    mutation: Option<Mutation>,
    /// What is to happen, from now.
    pub events: Vec<(u64, NodeEvent)>,
    pub says: Vec<Up>,
}

impl Node {
    pub fn new(number: u64, id: u64, dice: Dice, mutation: Option<Mutation>) -> Node {
        Node {
            name: format!("n{number}"),
            id,
            machine: Machine::new(number),
            is_dead: false,
            agent: None,
            life: 0,
            boot: 0,
            clock_ahead: 0,
            version: 0,
            failure: None,
            written: Written::default(),
            in_flight: Vec::new(),
            dice,
            mutation,
            events: Vec::new(),
            says: Vec::new(),
        }
    }

    /// What the agent says of its node.
    pub fn told(&self) -> Value {
        let cpu = if self.mutation == Some(Mutation::Boast) { 4 * CPU_MILLIS } else { CPU_MILLIS };
        let version = if self.mutation == Some(Mutation::KeepVersion) { shown(0) } else { shown(self.version) };
        let amounts = json!({"cpu": format!("{cpu}m"), "memory": "8Gi", "pods": PODS.to_string()});
        json!({
            "metadata": {"labels": {"kubernetes.io/hostname": self.name}},
            "status": {
                "capacity": amounts, "allocatable": amounts,
                "addresses": [{"type": "InternalIP", "address": self.machine.address}],
                "nodeInfo": {
                    "kubeletVersion": version, "architecture": "amd64", "operatingSystem": "linux",
                    "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                    "machineID": "", "osImage": "", "systemUUID": "",
                },
            },
        })
    }

    /// What it says of its version.
    pub fn shown_version(&self) -> String {
        shown(self.version)
    }

    pub fn start(&mut self, now: Timestamp) {
        if self.is_dead || self.agent.is_some() {
            return;
        }
        self.life += 1;
        let agent = Agent { wanted: self.written.revision, ..Agent::default() };
        self.agent = Some(agent);
        self.sync(None, now);
        self.events.push((self.dice.below(200 * MS), NodeEvent::Dial));
        self.events.push((self.dice.below(40 * MS), NodeEvent::Contained { revision: self.written.revision }));
    }

    /// The agent's process ends; what runs goes on.
    pub fn kill(&mut self, now: Timestamp) {
        if self.agent.is_none() {
            return;
        }
        for (uid, job, outcome) in std::mem::take(&mut self.in_flight) {
            if self.dice.chance(500) {
                self.take_effect(&uid, &job, &outcome, now);
            }
        }
        self.in_flight.clear();
        self.agent = None;
        self.life += 1;
    }

    pub fn lose_power(&mut self, now: Timestamp) {
        self.kill(now);
        self.boot += 1;
        self.machine.lose_power();
    }

    pub fn happens(&mut self, event: NodeEvent, now: Timestamp) {
        if let NodeEvent::Exit { id, code } = event {
            return self.exit(&id, code, now);
        }
        let Some(agent) = &mut self.agent else { return };
        match event {
            NodeEvent::Dial if agent.link.is_none() => self.says.push(Up::Dial { revision: self.written.revision }),
            NodeEvent::Severed { link } if agent.link == Some(link) => self.redial(),
            NodeEvent::Down { link, what } if agent.link == Some(link) => self.hear(what, link, now),
            NodeEvent::Beat { link } if agent.link == Some(link) => {
                self.says.push(Up::Beat);
                self.events.push((1000 * MS, NodeEvent::Beat { link }));
            }
            NodeEvent::Report { link } if agent.link == Some(link) && agent.is_told => {
                let unsaid = std::mem::take(&mut agent.unsaid);
                let pods: Vec<_> = unsaid.iter().filter_map(|uid| agent.latest.get(uid).cloned()).collect();
                if !pods.is_empty() {
                    self.says.push(Up::Statuses(pods));
                }
            }
            NodeEvent::Contained { revision } => {
                agent.contained = agent.contained.max(revision);
                if agent.link.is_some() && agent.is_told {
                    let contained = agent.contained;
                    self.says.push(Up::Acknowledged(contained));
                }
            }
            NodeEvent::Done { uid, job, outcome } => {
                self.in_flight.retain(|(other, under_way, _)| (other, under_way) != (&uid, &job));
                self.take_effect(&uid, &job, &outcome, now);
                let Some(worker) = self.agent.as_mut().and_then(|agent| agent.workers.get_mut(&uid)) else { return };
                if worker.done(&outcome, now) {
                    worker.observed.busy.remove(&job);
                } else {
                    self.events.push((CLEAR_AGAIN, NodeEvent::Rested { uid: uid.clone(), job }));
                }
                self.decide(&uid, now);
            }
            NodeEvent::Rested { uid, job } => {
                if let Some(worker) = agent.workers.get_mut(&uid) {
                    worker.observed.busy.remove(&job);
                }
                self.decide(&uid, now);
            }
            NodeEvent::Look { uid } => {
                if let Some(worker) = agent.workers.get_mut(&uid) {
                    // By a clock that was set back it may be too early, and then another timer is needed.
                    worker.looks_at = None;
                }
                self.decide(&uid, now);
            }
            _ => (),
        }
    }

    /// A session was begun with this number.
    pub fn linked(&mut self, link: u64) {
        if let Some(agent) = &mut self.agent {
            (agent.link, agent.is_told) = (Some(link), false);
            // Everything has to be said again.
            if self.mutation != Some(Mutation::SayOnce) {
                agent.unsaid = agent.latest.keys().cloned().collect();
            }
        }
        self.events.push((self.dice.below(1000 * MS), NodeEvent::Beat { link }));
    }

    pub fn redial(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.link = None;
        }
        self.events.push((self.dice.between(20 * MS, 600 * MS), NodeEvent::Dial));
    }

    fn hear(&mut self, what: Down, link: u64, now: Timestamp) {
        match what {
            // The world has noted where to.
            Down::Elsewhere(_) => self.redial(),
            Down::Released(uid) => {
                if let Some(worker) = self.agent.as_mut().and_then(|agent| agent.workers.get_mut(&uid)) {
                    worker.observed.released = true;
                }
                self.decide(&uid, now);
            }
            Down::Delta(parts) => {
                let delta = whole(&parts);
                let revision = delta.revision;
                let changed = self.write_down(delta);
                self.sync(Some(&changed), now);
                self.adopt_strangers(now);
                let Some(agent) = &mut self.agent else { return };
                agent.wanted = revision;
                let is_lost = |place: &(String, String)| {
                    self.written.pods.get(place).filter(|pod| copepod_pods::is_taken_for_lost(pod))
                };
                let lost: Vec<&str> = changed.iter().filter_map(is_lost).map(|pod| uid(pod)).collect();
                for uid in lost.into_iter().filter(|uid| agent.latest.contains_key(*uid)) {
                    agent.unsaid.insert(uid.to_owned());
                    self.events.push((self.dice.below(20 * MS), NodeEvent::Report { link }));
                }
                if !agent.is_told {
                    agent.is_told = true;
                    self.events.push((self.dice.below(20 * MS), NodeEvent::Report { link }));
                }
                self.events.push((self.dice.below(40 * MS), NodeEvent::Contained { revision }));
            }
        }
    }

    /// Takes a delta over; which pods changed.
    fn write_down(&mut self, delta: Delta) -> BTreeSet<(String, String)> {
        let mut named = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for change in delta.changes.into_iter().filter(|change| change.plural == "pods") {
            let place = (change.namespace, change.name);
            named.insert(place.clone());
            let pod = change.object.as_ref().and_then(decode);
            self.replace(&place, pod);
            changed.insert(place);
        }
        if delta.reset {
            let others: Vec<_> = self.written.pods.keys().filter(|place| !named.contains(*place)).cloned().collect();
            for place in others {
                self.replace(&place, None);
                changed.insert(place);
            }
        }
        self.written.revision = delta.revision;
        changed
    }

    fn replace(&mut self, place: &(String, String), by: Option<Arc<Pod>>) {
        let old = match &by {
            Some(pod) => self.written.pods.insert(place.clone(), pod.clone()),
            None => self.written.pods.remove(place),
        };
        if let Some(old) = old.filter(|old| by.as_ref().is_none_or(|by| uid(by) != uid(old))) {
            self.written.leaving.insert(uid(&old).to_owned(), old);
        }
    }

    /// Every pod that is assigned (or of those that `changed`), and every one that is leaving, has its worker, and the
    /// worker its newest object.
    fn sync(&mut self, changed: Option<&BTreeSet<(String, String)>>, now: Timestamp) {
        let Some(agent) = &mut self.agent else { return };
        agent.workers.retain(|_, worker| !worker.is_over);
        let assigned = self.written.pods.iter().filter(|(place, _)| changed.is_none_or(|them| them.contains(*place)));
        let assigned: Vec<(Arc<Pod>, bool)> = assigned.map(|(_, pod)| (pod.clone(), true)).collect();
        let leaving = self.written.leaving.values().map(|pod| (pod.clone(), false));
        let mut touched = Vec::new();
        let nothing = Machine::new(0);
        let machine = if self.mutation == Some(Mutation::ForgetRunning) { &nothing } else { &self.machine };
        for (pod, wanted) in assigned.into_iter().chain(leaving) {
            let mut pod = pod;
            if self.mutation == Some(Mutation::IgnoreDeletion) {
                Arc::make_mut(&mut pod).metadata.deletion_timestamp = None;
            }
            let uid = uid(&pod).to_owned();
            let said = self.written.said.get(&uid);
            match agent.workers.get_mut(&uid) {
                Some(worker) if wanted => worker.take_pod(pod, said, now),
                Some(worker) => worker.vanished(now),
                None => {
                    let worker = Worker::begin(pod, wanted, said.cloned(), machine, now);
                    agent.workers.insert(uid.clone(), worker);
                }
            }
            touched.push(uid);
        }
        touched.iter().for_each(|uid| self.decide(uid, now));
    }

    /// The control plane has spoken: what runs here and belongs to nobody has to go.
    fn adopt_strangers(&mut self, now: Timestamp) {
        for uid in self.machine.pods() {
            let Some(agent) = &mut self.agent else { return };
            if !agent.workers.contains_key(&uid) {
                let mut pod = Pod::default();
                pod.metadata.uid = Some(uid.clone());
                let worker = Worker::begin(Arc::new(pod), false, None, &self.machine, now);
                agent.workers.insert(uid.clone(), worker);
                self.decide(&uid, now);
            }
        }
    }

    fn decide(&mut self, uid: &str, now: Timestamp) {
        loop {
            let Some(agent) = &mut self.agent else { return };
            let Some(worker) = agent.workers.get_mut(uid).filter(|worker| !worker.is_over) else { return };
            let had_verdict = worker.observed.verdict.is_some();
            let (doing, look_again) = worker.decide(&mut self.machine, &mut self.dice, now);
            let decides_again = worker.observed.verdict.is_some() && !had_verdict;
            for doing in doing {
                self.in_flight.push((uid.to_owned(), doing.job.clone(), doing.outcome.clone()));
                let done = NodeEvent::Done { uid: uid.to_owned(), job: doing.job, outcome: doing.outcome };
                self.events.push((doing.takes, done));
            }
            if let Some(said) = worker.report(now) {
                let metadata = worker.pod.metadata.clone();
                let gone = worker.observed.gone;
                let is_old = self.mutation == Some(Mutation::BelieveClock) && agent.said_at.is_some_and(|at| now < at);
                agent.said_at = agent.said_at.max(Some(now));
                if worker.wanted && !is_old {
                    let report = nodes::PodStatus {
                        namespace: metadata.namespace.unwrap_or_default(),
                        name: metadata.name.unwrap_or_default(),
                        uid: uid.to_owned(),
                        status: serde_json::to_vec(&said).unwrap_or_default().into(),
                        gone,
                    };
                    agent.latest.insert(uid.to_owned(), report);
                    agent.unsaid.insert(uid.to_owned());
                    if let Some(link) = agent.link {
                        self.events.push((self.dice.below(20 * MS), NodeEvent::Report { link }));
                    }
                }
                self.written.said.insert(uid.to_owned(), said);
            }
            if worker.observed.gone {
                worker.is_over = true;
                self.written.leaving.remove(uid);
                self.written.said.remove(uid);
                if !worker.wanted {
                    agent.latest.remove(uid);
                    agent.unsaid.remove(uid);
                }
                return;
            }
            if !decides_again {
                if let Some(at) = look_again.filter(|at| worker.looks_at != Some(*at)) {
                    worker.looks_at = look_again;
                    let pause = u64::try_from(at.duration_since(now).as_micros()).unwrap_or(0).max(MS);
                    self.events.push((pause, NodeEvent::Look { uid: uid.to_owned() }));
                }
                return;
            }
        }
    }

    /// What an action does to the machine.
    fn take_effect(&mut self, uid: &str, job: &Job, outcome: &Outcome, now: Timestamp) {
        match outcome {
            Outcome::Sandbox { attempt, ip: Some(ip) } => {
                self.machine.sandboxes.insert(uid.to_owned(), (*attempt, ip.clone()));
            }
            Outcome::SandboxGone { done: true, .. } | Outcome::TornDown(true) => self.machine.clear(uid),
            Outcome::Started { container, attempt, done: true } => self.launch(uid, container, *attempt, now),
            Outcome::Stopped => {
                let Job::Stop(container, _) = job else { return };
                let named = |process: &&Process| process.container == *container;
                let newest = self.machine.newest(uid).into_iter().find(named);
                let running = newest.filter(|process| process.exit.is_none());
                if let Some(id) = running.map(|process| process.id.clone()) {
                    self.exit(&id, 0, now);
                }
            }
            _ => (),
        }
    }

    fn launch(&mut self, uid: &str, container: &str, attempt: u32, now: Timestamp) {
        let Some(pod) = self.agent.as_ref().and_then(|agent| agent.workers.get(uid)).map(|worker| worker.pod.clone())
        else {
            return;
        };
        let id = container_id(uid, container, attempt);
        let image = spec::container(&pod, container).map(|c| spec::image(&c).to_owned()).unwrap_or_default();
        if spec::restart_policy(&pod) != RestartPolicy::Always {
            let code = i32::from(self.dice.chance(150) && !self.machine.is_calm);
            let takes = self.dice.between(200 * MS, 4000 * MS);
            self.events.push((takes, NodeEvent::Exit { id: id.clone(), code }));
        } else if attempt == 0 && self.dice.chance(30) && !self.machine.is_calm {
            let takes = self.dice.between(500 * MS, 20_000 * MS);
            self.events.push((takes, NodeEvent::Exit { id: id.clone(), code: 1 }));
        }
        let is_same = |process: &&Process| process.uid == uid && process.container == container;
        if let Some(other) = self.machine.running().find(is_same) {
            let what = format!("{} starts {id} while {} runs", self.name, other.id);
            self.failure.get_or_insert(what);
        }
        let (uid, container) = (uid.to_owned(), container.to_owned());
        let process = Process { id: id.clone(), uid, container, attempt, image, since: now, exit: None };
        self.machine.processes.insert(id, process);
    }

    fn exit(&mut self, id: &str, code: i32, now: Timestamp) {
        let Some(process) = self.machine.processes.get_mut(id).filter(|process| process.exit.is_none()) else { return };
        process.exit = Some((code, now));
        let process = process.clone();
        if let Some(worker) = self.agent.as_mut().and_then(|agent| agent.workers.get_mut(&process.uid)) {
            worker.exited(&process, code);
            self.decide(&process.uid, now);
        }
    }
}

fn shown(version: u64) -> String {
    format!("v1.36.{version}+copepod")
}

fn decode(bytes: &Bytes) -> Option<Arc<Pod>> {
    serde_json::from_slice(bytes).ok().map(Arc::new)
}

/// A delta, from its messages.
fn whole(parts: &[Bytes]) -> Delta {
    let mut delta = Delta::default();
    for part in parts {
        delta.merge(part.clone()).expect("what the front has encoded");
    }
    delta
}
