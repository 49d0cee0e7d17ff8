//! What came of actions and of containers, noted.

use std::time::Duration;

use copepod_api::Timestamp;
use copepod_pods::{Image as ImageSeen, Job, ProbeKind, Run, RunState, Sandbox, Step, Trouble, observed::Hook, spec};
use k8s_openapi::api::core::v1::ResourceRequirements;

use super::{
    Worker,
    note::{Exited, NotStarted, Note, Outcome},
};
use crate::{
    container,
    surface::{Image, PullError, StartError},
};

/// The pause after clearing something away has failed. Nobody waits for it but the pod itself.
const CLEAR_AGAIN: Duration = Duration::from_secs(1);

/// A run as it was asked for.
struct Begun {
    container: String,
    attempt: u32,
    id: String,
    resources: Option<ResourceRequirements>,
}

impl Worker {
    pub(super) fn done(&mut self, job: Job, outcome: Outcome) {
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
                self.images.insert(name, Box::new(image));
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

    pub(super) fn exited(&mut self, exited: Exited) {
        let Exited { container: name, id, exit, message } = exited;
        let name = name.as_str();
        let Some(seen) = self.observed.containers.get_mut(name) else { return };
        if seen.running().is_none_or(|(run, _)| run.id != id) {
            return;
        }
        let ended = container::ended(&id, &exit, message);
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

    /// Its containers ended with it, and others cannot begin: another is made in its place.
    pub(super) fn sandbox_is_lost(&mut self) {
        let Sandbox::Ready { attempt, .. } = self.observed.sandbox else { return };
        self.observed.lose_sandbox(attempt);
        if self.observed.leaving_since.is_none() {
            let text = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.machine.events.normal(&self.pod_ref, None, "SandboxChanged", text);
        }
    }
}
