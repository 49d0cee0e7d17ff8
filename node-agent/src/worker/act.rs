//! Actions, begun. Each runs in a task of its own and comes back as a note.

use std::{borrow::Cow, time::Duration};

use copepod_api::Timestamp;
use copepod_pods::{
    Action, Image as ImageSeen, Job,
    observed::{Hook, StopRecord},
    spec,
};

use super::{
    Worker,
    note::{Exited, Note, Outcome},
    pod_ref,
};
use crate::{container, executor, handlers};

impl Worker {
    /// Begins one action.
    pub(super) fn start(&mut self, action: Action, now: Timestamp) {
        let job = action.job();
        tracing::debug!(pod = self.pod_ref.name, ?action, "begin");
        let machine = self.machine.clone();
        let pod = self.pod.clone();
        let ips = self.ips();
        match action {
            Action::Condemn(verdict) => {
                self.machine.events.warning(&self.pod_ref, None, &verdict.reason, verdict.message.clone());
                self.observed.verdict = Some(verdict);
                self.note(Note::Done(Job::Verdict, Box::new(Outcome::Nothing)));
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
                let Some(image) = self.images.get(&container).map(|image| (**image).clone()) else {
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
            let outcome = Box::new(work.await);
            let _ = notes.send(Note::Done(job, outcome));
        });
    }

    pub(super) fn clear_older_runs(&self, name: &str, attempt: u32) {
        if attempt > 0 {
            let (machine, pod, name) = (self.machine.clone(), self.pod_ref.clone(), name.to_owned());
            tokio::spawn(async move { executor::clear_older_runs(&machine, &pod, &name, attempt).await });
        }
    }

    /// Hears of the end of a run.
    pub(super) fn wait_for(&mut self, name: &str, id: &str) {
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
            let _ = notes.send(Note::Exited(Box::new(Exited { container: name, id, exit, message })));
            if !stands {
                let _ = notes.send(Note::SandboxLost(sandbox));
            }
        });
        self.waits.retain(|wait| !wait.is_finished());
        self.waits.push(task.abort_handle());
    }
}
