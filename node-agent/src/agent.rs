//! The agent between its sessions: the workers, and what each has to be told.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use copepod_proto::nodes::Delta;
use k8s_openapi::{
    List,
    api::{
        core::v1::{Namespace, Pod, Service},
        networking::v1::NetworkPolicy,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::{
    assignments::Place,
    config::AgentError,
    machine::Machine,
    surface::{Cluster, FoundSandbox, PodRef, Shared},
    worker::{self, Handle, Note},
};

/// How long the data path is taken to be as it was made. Firewalls that start again take rules of others with them, and
/// links that go down routes; nobody says so.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The pause after the data path could not be brought up to date. Nothing is acknowledged meanwhile.
const APPLY_AGAIN: Duration = Duration::from_secs(1);

/// How much of the disk's time the ways to others may take. Few are written down as they change; many wait until what
/// was written before has had its time, and are written together.
const WRITE_BYTES_A_SECOND: f64 = 4.0 * 1024.0;

/// An agent that starts again begins with what is written, so that is written before it is acted upon. Where there are so many
/// other nodes, all of them writing would hold up what they are told together: there they write after a while.
const MANY: usize = 500;
const ACT_FIRST: Duration = Duration::from_secs(1);

/// How often it may be written down where nodes are whose pods no endpoint names yet: where many join, each hears of each.
const PEERS_PAUSE: Duration = Duration::from_secs(4);

pub struct Agent {
    pub machine: Arc<Machine>,
    /// Something has not been written down.
    unwritten: Notify,
    /// When it may be.
    writes_at: Mutex<WritesAt>,
    workers: Mutex<BTreeMap<String, Handle>>,
    /// Sandboxes of pods nobody has spoken of yet. They are left alone until the control plane has: the journal might be
    /// what was lost.
    strangers: Mutex<Vec<FoundSandbox>>,
    /// The newest revision the data path has to contain.
    wanted: watch::Sender<Wanted>,
    /// The newest revision it does contain.
    contained: watch::Sender<u64>,
}

/// When the next may be written down. An agent that starts anew begins with the endpoints that are written, so they wait for
/// no more than the time that the last ones took.
#[derive(Clone, Copy)]
struct WritesAt {
    endpoints: Instant,
    rest: Instant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    revision: u64,
    /// Grows with every change of the data path.
    version: u64,
}

impl Agent {
    /// Takes over what runs, as it was left.
    pub async fn start(machine: Arc<Machine>) -> Result<Arc<Agent>, AgentError> {
        let found = machine
            .rooms
            .runtime
            .list()
            .await
            .map_err(|error| AgentError::Room { room: "container runtime", reason: error.0 })?;
        let revision = machine.assignments().revision();
        let agent = Arc::new(Agent {
            machine,
            unwritten: Notify::new(),
            writes_at: Mutex::new(WritesAt { endpoints: Instant::now(), rest: Instant::now() }),
            workers: Mutex::default(),
            strangers: Mutex::new(found),
            wanted: watch::Sender::new(Wanted { revision, version: 1 }),
            contained: watch::Sender::new(0),
        });
        let places: BTreeSet<Place> = {
            let assignments = agent.machine.assignments();
            ["services", "networkpolicies", "namespaces", "neighbours"]
                .iter()
                .flat_map(|plural| assignments.of(plural).map(|(place, _)| place.clone()).collect::<Vec<_>>())
                .collect()
        };
        agent.data_path(&places);
        agent.sync_pods(None);
        Ok(agent)
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<String, Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn worker(&self, uid: &str) -> Option<Handle> {
        self.workers().get(uid).filter(|handle| !handle.notes.is_closed()).cloned()
    }

    /// The worker of a pod asked for by name, where the asker knows no uid.
    pub fn worker_named(&self, namespace: &str, name: &str) -> Option<Handle> {
        let named = |pod: &PodRef| pod.namespace == namespace && pod.name == name;
        self.workers().values().find(|handle| named(&handle.view.borrow().pod)).cloned()
    }

    /// Ends the workers, wherever they are. Their containers run on.
    pub fn stop(&self) {
        for handle in std::mem::take(&mut *self.workers()).into_values() {
            handle.task.abort();
        }
    }

    pub fn contained(&self) -> watch::Receiver<u64> {
        self.contained.subscribe()
    }

    /// Takes a delta over.
    pub fn take(&self, delta: Delta) -> io::Result<()> {
        let revision = delta.revision;
        let (changed, is_written, acts_first) = {
            let mut assignments = self.machine.assignments();
            let Cluster { slices, peers, .. } = &mut *self.machine.cluster();
            (assignments.apply(delta, slices, peers)?, assignments.is_written(), peers.others.len() >= MANY)
        };
        if !is_written && !acts_first && Instant::now() >= self.writes_at() {
            self.write();
        } else if !is_written {
            self.unwritten.notify_one();
        }
        let data_path = self.data_path(&changed.places) | changed.paths;
        self.sync_pods(Some(&changed.places));
        self.adopt_strangers();
        self.tell_of_configuration(&changed.places);
        self.wanted.send_modify(|wanted| {
            wanted.revision = revision;
            wanted.version += u64::from(data_path);
        });
        Ok(())
    }

    pub fn released(&self, uid: &str) {
        if let Some(worker) = self.worker(uid) {
            let _ = worker.notes.send(Note::Released);
        }
    }

    /// Every pod that was assigned (or of those that `changed`), and every one that is leaving, has its worker, and the
    /// worker its newest object.
    fn sync_pods(&self, changed: Option<&BTreeSet<Place>>) {
        let (assigned, leaving) = {
            let assignments = self.machine.assignments();
            let assigned: Vec<Pod> = assignments
                .of("pods")
                .filter(|(place, _)| changed.is_none_or(|changed| changed.contains(*place)))
                .filter_map(|(place, bytes)| decode(place, bytes))
                .collect();
            let leaving: Vec<Pod> = assignments
                .leaving()
                .iter()
                .filter_map(|(uid, bytes)| decode(&Place::new("pods", "", uid), bytes))
                .collect();
            (assigned, leaving)
        };
        let mut workers = self.workers();
        workers.retain(|_, handle| !handle.notes.is_closed());
        for (pod, wanted) in
            assigned.into_iter().map(|pod| (pod, true)).chain(leaving.into_iter().map(|pod| (pod, false)))
        {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let pod = Arc::new(pod);
            match workers.get(&uid) {
                Some(handle) if wanted => {
                    let same = handle.view.borrow().spec.metadata.resource_version == pod.metadata.resource_version;
                    if !same && copepod_pods::is_taken_for_lost(&pod) {
                        self.machine.reports.say_again(&uid, Instant::now());
                    }
                    if !same {
                        let _ = handle.notes.send(Note::Pod(pod));
                    }
                }
                Some(handle) => drop(handle.notes.send(Note::Vanished)),
                None => {
                    let found = self.claim(&uid);
                    let handle = worker::spawn(self.machine.clone(), pod, wanted, found);
                    if !wanted {
                        let _ = handle.notes.send(Note::Vanished);
                    }
                    workers.insert(uid, handle);
                }
            }
        }
    }

    fn strangers(&self) -> MutexGuard<'_, Vec<FoundSandbox>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found of a pod when the agent started.
    fn claim(&self, uid: &str) -> Vec<FoundSandbox> {
        self.strangers().extract_if(.., |sandbox| sandbox.pod.uid == uid).collect()
    }

    /// The control plane has spoken: what runs here and belongs to nobody has to go.
    fn adopt_strangers(&self) {
        loop {
            let Some(pod) = self.strangers().first().map(|sandbox| sandbox.pod.clone()) else { return };
            tracing::warn!(
                pod = pod.name,
                namespace = pod.namespace,
                uid = pod.uid,
                "stopping a pod that nobody asked for"
            );
            let found = self.claim(&pod.uid);
            let mut object = Pod::default();
            object.metadata.name = Some(pod.name);
            object.metadata.namespace = Some(pod.namespace);
            object.metadata.uid = Some(pod.uid.clone());
            let handle = worker::spawn(self.machine.clone(), Arc::new(object), false, found);
            let _ = handle.notes.send(Note::Vanished);
            self.workers().insert(pod.uid, handle);
        }
    }

    fn tell_of_configuration(&self, places: &BTreeSet<Place>) {
        let namespaces: BTreeSet<&str> = places
            .iter()
            .filter(|place| matches!(place.plural.as_str(), "configmaps" | "secrets"))
            .map(|place| place.namespace.as_str())
            .collect();
        if namespaces.is_empty() {
            return;
        }
        for handle in self.workers().values() {
            let (pod, spec) = {
                let view = handle.view.borrow();
                (view.pod.clone(), view.spec.clone())
            };
            let concerns = |place: &&Place| place.namespace == pod.namespace && refers_to(&spec, place);
            if namespaces.contains(pod.namespace.as_str()) && places.iter().any(|place| concerns(&place)) {
                let _ = handle.notes.send(Note::Configuration);
            }
        }
    }

    /// Decodes what changed of the data path; true if anything has.
    fn data_path(&self, places: &BTreeSet<Place>) -> bool {
        let mut changed = false;
        for place in places {
            let key = format!("{}/{}", place.namespace, place.name);
            let bytes = self.machine.assignments().get(place).cloned();
            let mut cluster = self.machine.cluster();
            match place.plural.as_str() {
                "services" => update::<Service>(&mut cluster.services, key, place, bytes.as_ref()),
                "networkpolicies" => update::<NetworkPolicy>(&mut cluster.policies, key, place, bytes.as_ref()),
                "namespaces" => update::<Namespace>(&mut cluster.namespaces, place.name.clone(), place, bytes.as_ref()),
                "neighbours" => update::<List<Pod>>(&mut cluster.neighbours, place.name.clone(), place, bytes.as_ref()),
                _ => continue,
            }
            changed = true;
        }
        changed
    }

    /// Writes down what could not be written as it came; for as long as the agent runs.
    pub async fn keep_written(&self) {
        loop {
            self.unwritten.notified().await;
            let is_one_of_many = self.machine.cluster().peers.others.len() >= MANY;
            let acted = Instant::now() + if is_one_of_many { ACT_FIRST } else { Duration::ZERO };
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(self.writes_at().max(acted).into()) => break,
                    // What has come may be more urgent.
                    () = self.unwritten.notified() => (),
                }
            }
            self.write();
        }
    }

    fn writes_at(&self) -> Instant {
        let at = *self.writes_at.lock().unwrap_or_else(PoisonError::into_inner);
        if self.machine.assignments().has_unwritten_slices() { at.endpoints } else { at.rest }
    }

    /// Writes down what has not been yet.
    pub fn write(&self) {
        let mut assignments = self.machine.assignments();
        let cluster = self.machine.cluster().clone();
        match assignments.write(&cluster.slices, &cluster.peers) {
            Ok(n_bytes) => {
                let took = Duration::from_secs_f64(n_bytes as f64 / WRITE_BYTES_A_SECOND);
                let now = Instant::now();
                let at = WritesAt { endpoints: now + took, rest: now + took.max(PEERS_PAUSE) };
                *self.writes_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
            }
            Err(error) => tracing::warn!(%error, "what the node was told cannot be written down"),
        }
    }

    /// Has volumes show new tokens before the old ones run out; for as long as the agent runs.
    pub async fn keep_tokens(&self) {
        loop {
            for uid in self.machine.tokens.due().await {
                match self.worker(&uid) {
                    Some(worker) => drop(worker.notes.send(Note::Tokens)),
                    None => self.machine.tokens.forget(&uid),
                }
            }
        }
    }

    /// Brings the data path up to date, and says so; for as long as the agent runs.
    pub async fn keep_data_path(&self) {
        let mut wanted = self.wanted.subscribe();
        let mut applied = 0;
        loop {
            let Wanted { revision, version } = *wanted.borrow_and_update();
            if version != applied {
                let cluster = self.machine.cluster().clone();
                match self.machine.rooms.network.apply(&cluster).await {
                    Ok(()) => applied = version,
                    Err(error) => {
                        tracing::warn!(%error, revision, "the data path could not be brought up to date");
                        tokio::time::sleep(APPLY_AGAIN).await;
                        continue;
                    }
                }
            }
            self.contained.send_replace(revision);
            match tokio::time::timeout(LOOK_AGAIN, wanted.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => applied = 0,
            }
        }
    }
}

/// Whether a pod shows the object in a volume, reads it into its environment or pulls with it.
fn refers_to(pod: &Pod, place: &Place) -> bool {
    let (config_maps, secrets) = copepod_volumes::references(pod);
    let is_map = place.plural == "configmaps";
    if (if is_map { &config_maps } else { &secrets }).contains(&place.name) {
        return true;
    }
    let pulls = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    if !is_map && pulls.into_iter().any(|pull| pull.name == place.name) {
        return true;
    }
    let ephemeral = copepod_pods::spec::ephemeral_containers(pod).map(Cow::Owned);
    copepod_pods::spec::all_containers(pod).map(Cow::Borrowed).chain(ephemeral).any(|container| {
        let from = container.env_from.iter().flatten().any(|from| match is_map {
            true => from.config_map_ref.as_ref().is_some_and(|reference| reference.name == place.name),
            false => from.secret_ref.as_ref().is_some_and(|reference| reference.name == place.name),
        });
        let keys = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
        from || keys.into_iter().any(|source| match is_map {
            true => source.config_map_key_ref.as_ref().is_some_and(|reference| reference.name == place.name),
            false => source.secret_key_ref.as_ref().is_some_and(|reference| reference.name == place.name),
        })
    })
}

fn update<T: DeserializeOwned>(map: &mut Shared<T>, key: String, place: &Place, bytes: Option<&bytes::Bytes>) {
    let map = Arc::make_mut(map);
    match bytes.and_then(|bytes| decode(place, bytes)) {
        Some(object) => drop(map.insert(key, Arc::new(object))),
        None => drop(map.remove(&key)),
    }
}

fn decode<T: DeserializeOwned>(place: &Place, bytes: &bytes::Bytes) -> Option<T> {
    serde_json::from_slice(bytes).map_err(|error| tracing::warn!(?place, %error, "an object cannot be decoded")).ok()
}
