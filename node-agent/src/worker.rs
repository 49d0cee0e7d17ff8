//! One worker a pod: observe, ask what is next, have it done, report; and again.
//!
//! The worker never waits for an action. Each runs in a task of its own and comes back as a note, so a slow pull or a
//! hanging hook delays nothing else of the pod, and nothing at all of another. All decisions are made by
//! `copepod_pods::next`; what stands here is book-keeping.

mod act;
mod note;
mod outcomes;
mod view;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::Timestamp;
use copepod_pods::{
    Desired, Image as ImageSeen, Observed, Sandbox, Step, is_beginning, next, probe, resize, spec, status,
};
use copepod_proto::nodes;
use copepod_volumes::Volumes;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

pub use self::{
    note::{NotStarted, Note},
    view::{Handle, PodView},
};
use crate::{
    adopt, executor,
    machine::Machine,
    reports::Patience,
    surface::{FoundSandbox, Image, PodRef},
};

pub struct Worker {
    machine: Arc<Machine>,
    pod_ref: PodRef,
    pod: Arc<Pod>,
    wanted: bool,
    observed: Observed,
    images: BTreeMap<String, Box<Image>>,
    volumes: Volumes,
    /// Every sandbox of the pod that may be there, by its id.
    sandboxes: BTreeSet<String>,
    /// Said last by an agent before this one; on disk, so that a pod that ended is known to have ended.
    said_before: Option<PodStatus>,
    notes: mpsc::UnboundedSender<Note>,
    inbox: mpsc::UnboundedReceiver<Note>,
    view: watch::Sender<PodView>,
    /// Two writers of one volume would trip over each other.
    volumes_lock: Arc<tokio::sync::Mutex<()>>,
    waits: Vec<AbortHandle>,
}

pub fn pod_ref(pod: &Pod) -> PodRef {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    PodRef { namespace: text(&pod.metadata.namespace), name: text(&pod.metadata.name), uid: text(&pod.metadata.uid) }
}

/// Begins the work for a pod, of which `found` may run already.
pub fn spawn(machine: Arc<Machine>, pod: Arc<Pod>, wanted: bool, found: Vec<FoundSandbox>) -> Handle {
    let (notes, inbox) = mpsc::unbounded_channel();
    let pod_ref = pod_ref(&pod);
    let (view, seen) = watch::channel(PodView { pod: pod_ref.clone(), spec: pod.clone(), ..PodView::default() });
    let mut worker = Worker {
        machine,
        pod_ref,
        pod,
        wanted,
        observed: Observed::default(),
        images: BTreeMap::new(),
        volumes: Volumes::new(),
        sandboxes: BTreeSet::new(),
        said_before: None,
        notes: notes.clone(),
        inbox,
        view,
        volumes_lock: Arc::default(),
        waits: Vec::new(),
    };
    let task = tokio::spawn(async move {
        worker.begin(found).await;
        worker.run().await;
    });
    Handle { notes, view: seen, task: task.abort_handle() }
}

impl Worker {
    async fn begin(&mut self, found: Vec<FoundSandbox>) {
        self.said_before = adopt::saved_status(&self.machine, &self.pod_ref);
        self.sandboxes = found.iter().map(|sandbox| sandbox.id.clone()).collect();
        self.observed = adopt::observed(&self.machine, &self.pod, self.said_before.as_ref(), &found).await;
        self.observed.accepted_at.get_or_insert_with(Timestamp::now);
        let running: Vec<(String, String)> = self
            .observed
            .containers
            .iter()
            .filter_map(|(name, seen)| seen.running().map(|(run, _)| (name.clone(), run.id.clone())))
            .collect();
        for (name, id) in running {
            self.wait_for(&name, &id);
        }
        let pod = self.pod.clone();
        self.take_pod(pod);
    }

    async fn run(&mut self) {
        loop {
            let now = Timestamp::now();
            if resize::is_wanted(&self.pod, &self.observed) {
                self.observed.room = Some(self.machine.room_beside(&self.pod_ref.uid));
            }
            let actions = next(Desired { pod: &self.pod, wanted: self.wanted }, &self.observed, now);
            for action in actions.now {
                self.start(action, now);
            }
            self.report(now);
            if self.observed.gone {
                return self.end();
            }
            let asleep = actions.look_again.map(|at| at.duration_since(now).unsigned_abs());
            tokio::select! {
                note = self.inbox.recv() => match note {
                    Some(note) => self.take(note),
                    None => return,
                },
                () = sleep(asleep) => (),
            }
            // Whatever else has happened meanwhile is taken before deciding again.
            while let Ok(note) = self.inbox.try_recv() {
                self.take(note);
            }
        }
    }

    fn end(&self) {
        for wait in &self.waits {
            wait.abort();
        }
        let uid = &self.pod_ref.uid;
        if let Err(error) = self.machine.assignments().is_gone(uid) {
            tracing::warn!(uid, %error, "could not forget a pod that is gone");
        }
        if !self.wanted {
            self.machine.reports.forget(uid);
        }
        tracing::info!(pod = self.pod_ref.name, namespace = self.pod_ref.namespace, uid, "nothing is left of the pod");
    }

    fn note(&self, note: Note) {
        let _ = self.notes.send(note);
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Pod(pod) => self.take_pod(pod),
            Note::Vanished => {
                self.wanted = false;
                self.observed.leaving_since.get_or_insert_with(Timestamp::now);
            }
            Note::Released => self.observed.released = true,
            Note::Configuration => {
                self.observed.forgive();
                self.refresh_volumes();
            }
            Note::Tokens => self.refresh_volumes(),
            Note::Done(job, outcome) => self.done(job, *outcome),
            Note::Exited(exited) => self.exited(*exited),
            Note::SandboxLost(id) if id == self.current_sandbox() => self.sandbox_is_lost(),
            Note::SandboxLost(_) => (),
            Note::Rested(job) => drop(self.observed.busy.remove(&job)),
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        let mut pod = pod;
        // What this agent has said last counts more than what the control plane has heard so far.
        if let Some(said) = self.said().filter(|said| is_final(said)) {
            Arc::make_mut(&mut pod).status = Some(said.clone());
        }
        let changed = pod.metadata.labels != self.pod.metadata.labels
            || pod.metadata.annotations != self.pod.metadata.annotations;
        for wanted in spec::all_containers(&pod) {
            let image_changed = spec::container(&self.pod, &wanted.name).is_some_and(|old| old.image != wanted.image);
            if image_changed {
                let seen = self.seen(&wanted.name.clone());
                seen.image = ImageSeen::Unknown;
                seen.failures = 0;
                seen.start_trouble = None;
            }
        }
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.observed.leaving_since.get_or_insert_with(Timestamp::now);
        }
        if changed {
            self.refresh_volumes();
        }
    }

    /// Writes changed configuration into volumes that are there. What cannot be read keeps its last version.
    fn refresh_volumes(&self) {
        if self.observed.volumes != Step::Done || !copepod_volumes::shows_configuration(&self.pod) {
            return;
        }
        let (machine, pod, ips, lock) = (self.machine.clone(), self.pod.clone(), self.ips(), self.volumes_lock.clone());
        tokio::spawn(async move {
            let _writing = lock.lock().await;
            if let Err(error) = executor::prepare_volumes(machine, pod, ips).await {
                tracing::warn!(%error, "configuration changed and cannot be shown");
            }
        });
    }

    /// Says what has changed, to the control plane and to the disk.
    fn report(&mut self, now: Timestamp) {
        self.show();
        let status = status(&self.pod, &self.observed, now);
        if self.observed.reported.as_ref() == Some(&status) && !self.observed.gone {
            return;
        }
        let begins = is_beginning(&status) && !self.observed.gone;
        // Of a beginning, when the pod was accepted is all that an agent that starts anew would not find out by itself.
        let is_step = begins && self.said().is_some();
        if !self.observed.gone
            && !is_step
            && let Err(error) = adopt::save_status(&self.machine, &self.pod_ref, &status)
        {
            tracing::warn!(pod = self.pod_ref.name, %error, "the pod's status could not be written down");
        }
        if self.wanted {
            let report = nodes::PodStatus {
                namespace: self.pod_ref.namespace.clone(),
                name: self.pod_ref.name.clone(),
                uid: self.pod_ref.uid.clone(),
                status: serde_json::to_vec(&status).unwrap_or_default().into(),
                gone: self.observed.gone,
            };
            let patience = if begins { Patience::Moment } else { Patience::None };
            self.machine.reports.put(report, patience, Instant::now());
        }
        if is_final(&status) && spec::final_phase(&self.pod).is_none() {
            Arc::make_mut(&mut self.pod).status = Some(status.clone());
        }
        self.observed.reported = Some(status);
        self.said_before = None;
    }

    /// What was said last, by this agent or by one before it.
    fn said(&self) -> Option<&PodStatus> {
        self.observed.reported.as_ref().or(self.said_before.as_ref())
    }

    fn seen(&mut self, name: &str) -> &mut copepod_pods::Seen {
        self.observed.containers.entry(name.to_owned()).or_default()
    }

    /// The id of a container's running process, with what the spec says of it.
    fn running(&self, name: &str) -> Option<(String, Container)> {
        let (run, _) = self.observed.containers.get(name)?.running()?;
        // A container that the spec does not name was found, and is only ever stopped.
        let wanted = spec::container(&self.pod, name).map(Cow::into_owned);
        Some((run.id.clone(), wanted.unwrap_or_else(|| Container { name: name.into(), ..Container::default() })))
    }

    fn container_ids(&self) -> Vec<String> {
        let runs = self.observed.containers.values().filter_map(|seen| seen.run.as_ref());
        runs.map(|run| run.id.clone()).collect()
    }

    fn current_sandbox(&self) -> String {
        match self.observed.sandbox {
            Sandbox::Ready { attempt, .. } => executor::sandbox_id(&self.pod_ref, attempt),
            _ => String::new(),
        }
    }

    fn ips(&self) -> Vec<String> {
        if spec::is_host_network(&self.pod) {
            self.machine.host_ips.clone()
        } else {
            self.observed.sandbox.ips().to_vec()
        }
    }
}

fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// How long a probe may take is part of the probe; the rest of the agent must not depend on it ending.
pub fn probe_timeout(probe: &k8s_openapi::api::core::v1::Probe) -> Duration {
    probe::timeout(probe).unsigned_abs()
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
