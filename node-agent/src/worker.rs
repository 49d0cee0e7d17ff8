//! One worker a pod: observe, ask what is next, have it done, report; and again.
//!
//! The worker never waits for an action. Each runs in a task of its own and comes back as a note, so a slow pull or a
//! hanging hook delays nothing else of the pod, and nothing at all of another. All decisions are made by
//! `copepod_pods::next`; what stands here is book-keeping.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::Timestamp;
use copepod_pods::{
    Action, Desired, Image as ImageSeen, Job, Observed, ProbeKind, Run, RunState, Sandbox, Step, Trouble, is_beginning,
    next,
    observed::{Hook, StopRecord},
    probe, resize, spec, status,
};
use copepod_proto::nodes;
use copepod_volumes::{VolumeError, Volumes};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    adopt, container, executor, handlers,
    machine::Machine,
    reports::Patience,
    surface::{Exit, FoundSandbox, Image, PodRef, PullError, StartError},
};

/// The pause after clearing something away has failed. Nobody waits for it but the pod itself.
const CLEAR_AGAIN: Duration = Duration::from_secs(1);

/// What can happen to a worker.
pub enum Note {
    /// The pod's object, for the first time or changed.
    Pod(Arc<Pod>),
    /// The control plane no longer knows the pod, or gave it to another node.
    Vanished,
    /// The pod is out of every node's data path.
    Released,
    /// A config map or secret that the pod may show has changed.
    Configuration,
    /// A token that the pod shows is to be renewed.
    Tokens,
    Done(Job, Outcome),
    Exited {
        container: String,
        id: String,
        exit: Exit,
        message: String,
    },
    /// The sandbox of this id has ended by itself.
    SandboxLost(String),
    /// A job may be tried again.
    Rested(Job),
}

/// What came of an action.
pub enum Outcome {
    Volumes(Result<Volumes, VolumeError>),
    Sandbox {
        attempt: u32,
        ips: Result<Vec<String>, String>,
    },
    SandboxRemoved(Result<(), String>),
    SandboxStopped(Result<(), String>),
    TornDown(Result<(), String>),
    Image {
        container: String,
        attempt: u32,
        image: Result<Image, PullError>,
    },
    Started {
        container: String,
        attempt: u32,
        id: String,
        resources: Option<ResourceRequirements>,
        started: Result<Timestamp, NotStarted>,
    },
    Resized {
        container: String,
        id: String,
        resources: Option<ResourceRequirements>,
        done: Result<(), String>,
    },
    PostStart {
        container: String,
        id: String,
        done: Result<(), String>,
    },
    PreStop {
        container: String,
        done: Result<(), String>,
    },
    Stopped {
        container: String,
        done: Result<(), String>,
    },
    Probed {
        container: String,
        kind: ProbeKind,
        id: String,
        passed: bool,
        message: String,
    },
    Nothing,
}

/// A run as it was asked for.
struct Begun {
    container: String,
    attempt: u32,
    id: String,
    resources: Option<ResourceRequirements>,
}

/// Why a container does not run.
#[derive(Debug)]
pub enum NotStarted {
    /// What it needs is missing or wrong.
    Config(String),
    /// The sandbox has ended.
    Sandbox,
    Runtime(StartError),
}

/// A worker as others see it.
#[derive(Clone)]
pub struct Handle {
    pub notes: mpsc::UnboundedSender<Note>,
    pub view: watch::Receiver<PodView>,
    pub task: AbortHandle,
}

/// What tunnels need to know of a pod.
#[derive(Clone, Default)]
pub struct PodView {
    pub pod: PodRef,
    pub spec: Arc<Pod>,
    pub ips: Vec<String>,
    /// The one that is ready.
    pub sandbox: Option<String>,
    /// The newest run of each container.
    pub runs: BTreeMap<String, RunView>,
    pub gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunView {
    pub id: String,
    pub attempt: u32,
    pub running: bool,
}

pub struct Worker {
    machine: Arc<Machine>,
    pod_ref: PodRef,
    pod: Arc<Pod>,
    wanted: bool,
    observed: Observed,
    images: BTreeMap<String, Image>,
    volumes: Volumes,
    /// Every sandbox of the pod that may be there, by its id.
    sandboxes: BTreeSet<String>,
    /// Said last time; also on disk, so that a pod that ended is known to have ended.
    said: Option<PodStatus>,
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
        said: None,
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
        self.said = adopt::saved_status(&self.machine, &self.pod_ref);
        self.sandboxes = found.iter().map(|sandbox| sandbox.id.clone()).collect();
        self.observed = adopt::observed(&self.machine, &self.pod, self.said.as_ref(), &found).await;
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

    async fn run(mut self) {
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

    fn end(self) {
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

    /// Begins one action.
    fn start(&mut self, action: Action, now: Timestamp) {
        let job = action.job();
        tracing::debug!(pod = self.pod_ref.name, ?action, "begin");
        let machine = self.machine.clone();
        let pod = self.pod.clone();
        let ips = self.ips();
        match action {
            Action::Condemn(verdict) => {
                self.machine.events.warning(&self.pod_ref, None, &verdict.reason, verdict.message.clone());
                self.observed.verdict = Some(verdict);
                self.note(Note::Done(Job::Verdict, Outcome::Nothing));
            }
            Action::PrepareVolumes => {
                let lock = self.volumes_lock.clone();
                self.spawn(job, async move {
                    let _writing = lock.lock().await;
                    Outcome::Volumes(executor::prepare_volumes(machine, pod, ips).await)
                });
            }
            Action::CreateSandbox { attempt } => {
                self.sandboxes.insert(executor::sandbox_id(&self.pod_ref, attempt));
                self.spawn(job, async move {
                    Outcome::Sandbox { attempt, ips: executor::create_sandbox(&machine, &pod, attempt).await }
                });
            }
            Action::RemoveSandbox => {
                let (ids, containers) = (self.sandboxes.clone(), self.container_ids());
                let pod_ref = self.pod_ref.clone();
                self.spawn(job, async move {
                    Outcome::SandboxRemoved(executor::remove_sandboxes(&machine, &pod_ref, &ids, &containers).await)
                });
            }
            Action::StopSandbox => {
                let (ids, containers) = (self.sandboxes.clone(), self.container_ids());
                let pod_ref = self.pod_ref.clone();
                self.spawn(job, async move {
                    Outcome::SandboxStopped(executor::remove_sandboxes(&machine, &pod_ref, &ids, &containers).await)
                });
            }
            Action::TearDown => {
                let (ids, containers) = (self.sandboxes.clone(), self.container_ids());
                let pod_ref = self.pod_ref.clone();
                self.spawn(job, async move {
                    Outcome::TornDown(executor::tear_down(&machine, pod, &pod_ref, &ids, &containers).await)
                });
            }
            Action::EnsureImage { container, attempt } => {
                let Some(wanted) = spec::container(&pod, &container).map(Cow::into_owned) else { return };
                self.spawn(job, async move {
                    let image = executor::ensure_image(&machine, &pod, &wanted).await;
                    Outcome::Image { container, attempt, image }
                });
            }
            Action::Start { container, attempt } => {
                let Some(wanted) = spec::container(&pod, &container).map(Cow::into_owned) else { return };
                let Some(image) = self.images.get(&container).cloned() else {
                    // It is remembered as ensured and is not in memory: look it up again.
                    self.observed.containers.entry(container).or_default().image = ImageSeen::Unknown;
                    return self.note(Note::Rested(job));
                };
                let volumes = self.volumes.clone();
                let sandbox_id = self.current_sandbox();
                let target = spec::target(&pod, &container).and_then(|name| self.running(name)).map(|(id, _)| id);
                self.spawn(job, async move {
                    let id = container::id(&pod_ref(&pod), &wanted.name, attempt);
                    let started = executor::start(
                        &machine,
                        &pod,
                        &wanted,
                        attempt,
                        &id,
                        &sandbox_id,
                        target,
                        image,
                        &volumes,
                        &ips,
                    )
                    .await;
                    Outcome::Started { container, attempt, id, resources: wanted.resources, started }
                });
            }
            Action::Resize { container } => {
                let Some((id, wanted)) = self.running(&container) else { return };
                self.spawn(job, async move {
                    let done = executor::resize(&machine, &pod, &wanted, &id).await;
                    Outcome::Resized { container, id, resources: wanted.resources, done }
                });
            }
            Action::PostStart { container } => {
                let Some((id, wanted)) = self.running(&container) else { return };
                self.spawn(job, async move {
                    let handler = spec::post_start(&wanted).cloned().unwrap_or_default();
                    let done = handlers::hook(&machine, &wanted, &handler, &id, &ips, handlers::POST_START_MAX).await;
                    Outcome::PostStart { container, id, done }
                });
            }
            Action::PreStop { container, seconds } => {
                let Some((id, wanted)) = self.running(&container) else { return };
                let stop = StopRecord { since: now, pre_stop: Hook::Pending, deadline: None };
                self.seen(&container).stop = Some(stop);
                let limit = Duration::from_secs(seconds.unsigned_abs());
                self.spawn(job, async move {
                    let handler = spec::pre_stop(&wanted).cloned().unwrap_or_default();
                    let done = handlers::hook(&machine, &wanted, &handler, &id, &ips, limit).await;
                    Outcome::PreStop { container, done }
                });
            }
            Action::Stop { container, grace_seconds } => {
                let Some((id, _)) = self.running(&container) else { return };
                let seen = self.seen(&container);
                let stop = seen.stop.get_or_insert(StopRecord { since: now, pre_stop: Hook::Pending, deadline: None });
                let grace = Duration::from_secs(grace_seconds.unsigned_abs());
                stop.deadline = Some(now.checked_add(grace).unwrap_or(Timestamp::MAX));
                let text = format!("Stopping container {container}");
                self.machine.events.normal(&self.pod_ref, Some(&container), "Killing", text);
                self.spawn(job, async move {
                    let done = machine.rooms.runtime.stop(&id, grace).await.map_err(|error| error.0);
                    Outcome::Stopped { container, done }
                });
            }
            Action::Probe { container, kind } => {
                let Some((id, wanted)) = self.running(&container) else { return };
                self.spawn(job, async move {
                    let (passed, message) = match kind.of(&wanted) {
                        Some(probe) => handlers::probe(&machine, &wanted, probe, &id, &ips).await,
                        None => (true, String::new()),
                    };
                    Outcome::Probed { container, kind, id, passed, message }
                });
            }
        }
    }

    fn spawn(&mut self, job: Job, work: impl Future<Output = Outcome> + Send + 'static) {
        self.observed.busy.insert(job.clone());
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let outcome = work.await;
            let _ = notes.send(Note::Done(job, outcome));
        });
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
            Note::Done(job, outcome) => self.done(job, outcome),
            Note::Exited { container, id, exit, message } => self.exited(&container, &id, exit, message),
            Note::SandboxLost(id) if id == self.current_sandbox() => self.sandbox_is_lost(),
            Note::SandboxLost(_) => (),
            Note::Rested(job) => drop(self.observed.busy.remove(&job)),
        }
    }

    /// Its containers ended with it, and others cannot begin: another is made in its place.
    fn sandbox_is_lost(&mut self) {
        let Sandbox::Ready { attempt, .. } = self.observed.sandbox else { return };
        self.observed.lose_sandbox(attempt);
        if self.observed.leaving_since.is_none() {
            let text = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.machine.events.normal(&self.pod_ref, None, "SandboxChanged", text);
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        let mut pod = pod;
        // What this agent has said last counts more than what the control plane has heard so far.
        if let Some(said) = self.said.as_ref().filter(|said| is_final(said)) {
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

    fn done(&mut self, job: Job, outcome: Outcome) {
        let now = Timestamp::now();
        let failed = self.outcome(outcome, now);
        match failed {
            None => drop(self.observed.busy.remove(&job)),
            Some(what) => {
                tracing::warn!(pod = self.pod_ref.name, ?job, what, "will be tried again");
                let notes = self.notes.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(CLEAR_AGAIN).await;
                    let _ = notes.send(Note::Rested(job));
                });
            }
        }
    }

    /// Notes an outcome. What it returns has failed and must rest before it is tried again.
    fn outcome(&mut self, outcome: Outcome, now: Timestamp) -> Option<String> {
        match outcome {
            Outcome::Nothing => None,
            Outcome::Volumes(Ok(volumes)) => {
                self.volumes = volumes;
                self.observed.volumes = Step::Done;
                None
            }
            Outcome::Volumes(Err(error)) => {
                let trouble = Trouble::again(self.observed.volumes.trouble(), "FailedMount", error.to_string(), now);
                if self.observed.volumes.trouble().is_none_or(|before| before.message != trouble.message) {
                    self.machine.events.warning(&self.pod_ref, None, "FailedMount", trouble.message.clone());
                }
                self.observed.volumes = Step::Failed(trouble);
                None
            }
            Outcome::Sandbox { attempt, ips: Ok(ips) } => {
                self.observed.sandbox = Sandbox::Ready { attempt, ips };
                None
            }
            Outcome::Sandbox { attempt, ips: Err(message) } => {
                let before = match &self.observed.sandbox {
                    Sandbox::Failed { trouble, .. } => Some(trouble),
                    _ => None,
                };
                let trouble = Trouble::again(before, "FailedCreatePodSandBox", message, now);
                if before.is_none_or(|before| before.message != trouble.message) {
                    let text = format!("Failed to create pod sandbox: {}", trouble.message);
                    self.machine.events.warning(&self.pod_ref, None, "FailedCreatePodSandBox", text);
                }
                self.observed.sandbox = Sandbox::Failed { attempt, trouble };
                None
            }
            Outcome::SandboxRemoved(done) => {
                if done.is_ok() {
                    self.sandboxes.clear();
                    self.observed.sandbox = Sandbox::Absent;
                }
                done.err()
            }
            Outcome::SandboxStopped(done) => {
                if done.is_ok() {
                    self.sandboxes.clear();
                    self.observed.sandbox = Sandbox::Stopped { ips: self.observed.sandbox.ips().to_vec() };
                }
                done.err()
            }
            Outcome::TornDown(done) => {
                self.observed.gone = done.is_ok();
                done.err()
            }
            Outcome::Image { container, attempt, image } => {
                self.image(container, attempt, image, now);
                None
            }
            Outcome::Started { container, attempt, id, resources, started } => {
                let begun = Begun { container, attempt, id, resources };
                self.started(begun, started, now);
                None
            }
            Outcome::Resized { container, id, resources, done } => {
                self.resized(&container, &id, resources, done, now);
                None
            }
            Outcome::PostStart { container, id, done } => {
                if let Err(error) = &done {
                    let text = format!("PostStartHook failed: {error}");
                    self.machine.events.warning(&self.pod_ref, Some(&container), "FailedPostStartHook", text);
                }
                if let Some(run) = self.seen(&container).run.as_mut().filter(|run| run.id == id) {
                    run.post_start = if done.is_ok() { Hook::Done } else { Hook::Failed };
                }
                None
            }
            Outcome::PreStop { container, done } => {
                if let Err(error) = &done {
                    let text = format!("PreStopHook failed: {error}");
                    self.machine.events.warning(&self.pod_ref, Some(&container), "FailedPreStopHook", text);
                }
                if let Some(stop) = &mut self.seen(&container).stop {
                    stop.pre_stop = Hook::Done;
                }
                None
            }
            Outcome::Stopped { container, done } => {
                if let (Err(_), Some(stop)) = (&done, &mut self.seen(&container).stop) {
                    // Asked for again when the job has rested.
                    stop.deadline = None;
                }
                done.err()
            }
            Outcome::Probed { container, kind, id, passed, message } => {
                self.probed(&container, kind, &id, passed, message, now);
                None
            }
        }
    }

    fn image(&mut self, name: String, attempt: u32, image: Result<Image, PullError>, now: Timestamp) {
        match image {
            Ok(image) => {
                self.seen(&name).image = ImageSeen::Ready { id: image.id.clone(), attempt };
                self.images.insert(name, image);
            }
            Err(error) => {
                let (reason, message, hopeless) = match error {
                    PullError::InvalidName(message) => ("InvalidImageName", message, true),
                    PullError::NeverPull(message) => ("ErrImageNeverPull", message, false),
                    PullError::Failed(message) => ("ErrImagePull", message, false),
                };
                let before = match &self.seen(&name).image {
                    ImageSeen::Failed(trouble) => Some(trouble.clone()),
                    _ => None,
                };
                let trouble = Trouble { hopeless, ..Trouble::again(before.as_ref(), reason, message, now) };
                if before.is_none_or(|before| before.message != trouble.message) {
                    let image =
                        spec::container(&self.pod, &name).map(|c| spec::image(&c).to_owned()).unwrap_or_default();
                    let text = format!("Failed to pull image \"{image}\": {}", trouble.message);
                    self.machine.events.warning(&self.pod_ref, Some(&name), "Failed", text);
                }
                self.seen(&name).image = ImageSeen::Failed(trouble);
            }
        }
    }

    fn started(&mut self, begun: Begun, started: Result<Timestamp, NotStarted>, now: Timestamp) {
        let Begun { container: name, attempt, id, resources } = begun;
        let image = spec::container(&self.pod, &name).map(|c| spec::image(&c).to_owned()).unwrap_or_default();
        let image_id = self.images.get(&name).map(|image| image.id.clone()).unwrap_or_default();
        let (state, post_start) = (RunState::Running { since: now }, Hook::Pending);
        let mut run = Run { id, attempt, image, image_id, resources, state, post_start };
        match started {
            Ok(since) => {
                run.state = RunState::Running { since };
                let id = run.id.clone();
                self.seen(&name).began(run);
                self.machine.events.normal(&self.pod_ref, Some(&name), "Started", format!("Started container {name}"));
                self.wait_for(&name, &id);
                self.clear_older_runs(&name, attempt);
            }
            // The command could not be run: for the pod that is a run that ended at once.
            Err(NotStarted::Runtime(StartError::Run(message))) => {
                self.machine.events.warning(&self.pod_ref, Some(&name), "Failed", format!("Error: {message}"));
                let ended = copepod_pods::Ended {
                    container_id: run.id.clone(),
                    exit_code: container::START_ERROR_EXIT,
                    signal: None,
                    reason: "StartError".into(),
                    message,
                    started_at: None,
                    finished_at: now,
                };
                let seen = self.seen(&name);
                seen.began(run);
                seen.ended_with(ended);
                self.clear_older_runs(&name, attempt);
            }
            Err(NotStarted::Sandbox) => self.sandbox_is_lost(),
            Err(NotStarted::Config(message)) => self.not_started(&name, "CreateContainerConfigError", message, now),
            Err(NotStarted::Runtime(StartError::Create(message))) => {
                self.not_started(&name, "CreateContainerError", message, now);
            }
        }
    }

    fn not_started(&mut self, name: &str, reason: &str, message: String, now: Timestamp) {
        let before = self.seen(name).start_trouble.clone();
        if before.as_ref().is_none_or(|before| before.message != message) {
            self.machine.events.warning(&self.pod_ref, Some(name), "Failed", format!("Error: {message}"));
        }
        self.seen(name).start_trouble = Some(Trouble::again(before.as_ref(), reason, message, now));
    }

    fn resized(
        &mut self,
        name: &str,
        id: &str,
        resources: Option<ResourceRequirements>,
        done: Result<(), String>,
        now: Timestamp,
    ) {
        let seen = self.seen(name);
        let Some(run) = seen.run.as_mut().filter(|run| run.id == id) else { return };
        match done {
            Ok(()) => {
                run.resources = resources;
                seen.resize_trouble = None;
                let text = format!("Container {name} was resized");
                self.machine.events.normal(&self.pod_ref, Some(name), "ResizeCompleted", text);
            }
            Err(message) => {
                let trouble = Trouble::again(seen.resize_trouble.as_ref(), "Error", message, now);
                let is_new =
                    seen.resize_trouble.replace(trouble.clone()).is_none_or(|old| old.message != trouble.message);
                if is_new {
                    let text = format!("Container {name} could not be resized: {}", trouble.message);
                    self.machine.events.warning(&self.pod_ref, Some(name), "ResizeError", text);
                }
            }
        }
    }

    fn clear_older_runs(&self, name: &str, attempt: u32) {
        if attempt > 0 {
            let (machine, pod, name) = (self.machine.clone(), self.pod_ref.clone(), name.to_owned());
            tokio::spawn(async move { executor::clear_older_runs(&machine, &pod, &name, attempt).await });
        }
    }

    fn probed(&mut self, name: &str, kind: ProbeKind, id: &str, passed: bool, message: String, now: Timestamp) {
        let Some(probe) = spec::container(&self.pod, name).and_then(|c| kind.of(&c).cloned()) else { return };
        if !passed {
            let text = format!("{} probe failed: {message}", kind.name());
            let known = self.seen(name).probes.get(&kind).is_some_and(|record| record.message == message);
            if !known {
                self.machine.events.warning(&self.pod_ref, Some(name), "Unhealthy", text);
            }
        }
        let seen = self.seen(name);
        if seen.running().is_some_and(|(run, _)| run.id == id) {
            seen.probes.entry(kind).or_default().record(&probe, passed, message, now);
        }
    }

    fn exited(&mut self, name: &str, id: &str, exit: Exit, message: String) {
        let Some(seen) = self.observed.containers.get_mut(name) else { return };
        if seen.running().is_none_or(|(run, _)| run.id != id) {
            return;
        }
        let ended = container::ended(id, &exit, message);
        if exit.oom_killed {
            let text = container::out_of_memory(spec::container(&self.pod, name).as_deref(), name);
            self.machine.events.warning(&self.pod_ref, Some(name), "OOMKilled", text);
        }
        seen.ended_with(ended);
        if seen.failures > 1 && self.observed.leaving_since.is_none() {
            let text = format!("Back-off restarting failed container {name} in pod {}", self.pod_ref.name);
            self.machine.events.warning(&self.pod_ref, Some(name), "BackOff", text);
        }
    }

    /// Hears of the end of a run.
    fn wait_for(&mut self, name: &str, id: &str) {
        let machine = self.machine.clone();
        let notes = self.notes.clone();
        let (pod, pod_ref) = (self.pod.clone(), self.pod_ref.clone());
        let (name, id, sandbox) = (name.to_owned(), id.to_owned(), self.current_sandbox());
        let attempt =
            self.observed.containers.get(&name).and_then(|seen| seen.run.as_ref()).map_or(0, |run| run.attempt);
        let task = tokio::spawn(async move {
            let exit = executor::wait(&machine, &id).await;
            let wanted = spec::container(&pod, &name);
            let message = executor::last_words(&machine, &pod_ref, wanted.as_deref(), &name, attempt, &exit);
            let stands = executor::stands(&machine, &sandbox).await;
            let _ = notes.send(Note::Exited { container: name, id, exit, message });
            if !stands {
                let _ = notes.send(Note::SandboxLost(sandbox));
            }
        });
        self.waits.retain(|wait| !wait.is_finished());
        self.waits.push(task.abort_handle());
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
        let is_step = begins && self.said.is_some();
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
        self.observed.reported = Some(status.clone());
        self.said = Some(status);
        if self.said.as_ref().is_some_and(is_final) && copepod_pods::spec::final_phase(&self.pod).is_none() {
            Arc::make_mut(&mut self.pod).status = self.said.clone();
        }
    }

    fn show(&self) {
        let runs = self.observed.containers.iter().filter_map(|(name, seen)| {
            let run = seen.run.as_ref()?;
            let running = seen.running().is_some();
            Some((name.clone(), RunView { id: run.id.clone(), attempt: run.attempt, running }))
        });
        let runs: BTreeMap<String, RunView> = runs.collect();
        let ips = self.ips();
        let gone = self.observed.gone;
        let sandbox = Some(self.current_sandbox()).filter(|id| !id.is_empty());
        self.view.send_if_modified(|view| {
            let changed = view.runs != runs
                || view.ips != ips
                || view.gone != gone
                || view.sandbox != sandbox
                || !Arc::ptr_eq(&view.spec, &self.pod);
            if changed {
                *view = PodView { pod: self.pod_ref.clone(), spec: self.pod.clone(), ips, sandbox, runs, gone };
            }
            changed
        });
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
