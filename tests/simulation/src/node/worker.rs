//! A pod on a node: the real `copepod_pods::next` decides, and what it asks for takes a while and sometimes fails.
//!
//! The book-keeping between the two is that of `node-agent/src/worker.rs`, for pods without hooks and probes.

use std::{borrow::Cow, sync::Arc};

use copepod_api::{
    Timestamp,
    k8s_openapi::api::core::v1::{Container, Pod, PodStatus},
};
use copepod_pods::{
    Action, Desired, Ended, Image, Job, Observed, Run, RunState, Sandbox, Seen, Step, Trouble, next,
    observed::{Hook, StopRecord},
    spec, status,
    status::ID_SCHEME,
};

use super::machine::{Machine, Process};
use crate::{dice::Dice, plan::MS};

/// After clearing something away has failed, as on an agent.
pub const CLEAR_AGAIN: u64 = 1000 * MS;

/// What came of an action.
#[derive(Clone, Debug)]
pub enum Outcome {
    Volumes(bool),
    Sandbox { attempt: u32, ip: Option<String> },
    SandboxGone { stopped: bool, done: bool },
    TornDown(bool),
    Image { container: String, attempt: u32, done: bool },
    Started { container: String, attempt: u32, done: bool },
    Stopped,
    Nothing,
}

/// Something that is being done: what it is, how long it takes, and what will come of it.
pub struct Doing {
    pub job: Job,
    pub takes: u64,
    pub outcome: Outcome,
}

pub struct Worker {
    pub pod: Arc<Pod>,
    pub wanted: bool,
    pub observed: Observed,
    pub is_over: bool,
    /// When it will look again for sure.
    pub looks_at: Option<Timestamp>,
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn container_id(uid: &str, container: &str, attempt: u32) -> String {
    format!("{uid}-{container}-{attempt}")
}

impl Worker {
    /// Begins the work for a pod, of which some may run already.
    pub fn begin(pod: Arc<Pod>, wanted: bool, said: Option<PodStatus>, machine: &Machine, now: Timestamp) -> Worker {
        let mut observed = Observed { host_ips: vec![machine.address.clone()], ..Observed::default() };
        observed.accepted_at = said.as_ref().and_then(|said| said.start_time.as_ref()).map(|time| time.0).or(Some(now));
        let uid = uid(&pod).to_owned();
        if let Some((attempt, ip)) = machine.sandboxes.get(&uid) {
            observed.sandbox = Sandbox::Ready { attempt: *attempt, ips: vec![ip.clone()] };
        }
        for process in machine.newest(&uid) {
            observed.containers.insert(process.container.clone(), Box::new(seen(&pod, process)));
        }
        let mut worker = Worker { pod: pod.clone(), wanted, observed, is_over: false, looks_at: None };
        worker.take_pod(pod, said.as_ref(), now);
        if !wanted {
            worker.observed.leaving_since = Some(now);
        }
        worker
    }

    pub fn take_pod(&mut self, pod: Arc<Pod>, said: Option<&PodStatus>, now: Timestamp) {
        let mut pod = pod;
        // What this agent has said last counts more than what the control plane has heard so far.
        if let Some(said) = said.filter(|said| is_final(said)) {
            Arc::make_mut(&mut pod).status = Some(said.clone());
        }
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.observed.leaving_since.get_or_insert(now);
        }
    }

    pub fn vanished(&mut self, now: Timestamp) {
        self.wanted = false;
        self.observed.leaving_since.get_or_insert(now);
    }

    /// Decides, and begins what is to be done. When to look again, if nothing happens before.
    pub fn decide(
        &mut self,
        machine: &mut Machine,
        dice: &mut Dice,
        now: Timestamp,
    ) -> (Vec<Doing>, Option<Timestamp>) {
        let actions = next(Desired { pod: &self.pod, wanted: self.wanted }, &self.observed, now);
        let mut doing = Vec::new();
        for action in actions.now {
            let job = action.job();
            if let Some((takes, outcome)) = self.start(action, machine, dice, now) {
                self.observed.busy.insert(job.clone());
                doing.push(Doing { job, takes, outcome });
            }
        }
        (doing, actions.look_again)
    }

    fn start(
        &mut self,
        action: Action,
        machine: &mut Machine,
        dice: &mut Dice,
        now: Timestamp,
    ) -> Option<(u64, Outcome)> {
        let uid = uid(&self.pod).to_owned();
        let done = !machine.has_bad_luck(dice);
        Some(match action {
            Action::PrepareVolumes => (dice.between(100, 20 * MS), Outcome::Volumes(done)),
            Action::CreateSandbox { attempt } => {
                let ip = done.then(|| machine.next_address());
                (dice.between(MS, 60 * MS), Outcome::Sandbox { attempt, ip })
            }
            Action::RemoveSandbox => (dice.between(MS, 60 * MS), Outcome::SandboxGone { stopped: false, done }),
            Action::StopSandbox => (dice.between(MS, 60 * MS), Outcome::SandboxGone { stopped: true, done }),
            Action::TearDown => (dice.between(MS, 60 * MS), Outcome::TornDown(done)),
            Action::EnsureImage { container, attempt } => {
                (dice.between(MS, 300 * MS), Outcome::Image { container, attempt, done })
            }
            Action::Start { container, attempt } => {
                (dice.between(2 * MS, 150 * MS), Outcome::Started { container, attempt, done })
            }
            Action::Stop { container, grace_seconds } => {
                let seen = self.observed.containers.get_mut(&container)?;
                let id = seen.running()?.0.id.clone();
                let stop = seen.stop.get_or_insert(StopRecord { since: now, pre_stop: Hook::Pending, deadline: None });
                let grace = std::time::Duration::from_secs(grace_seconds.unsigned_abs());
                stop.deadline = Some(now + grace);
                let takes = dice.between(MS, 1500 * MS).min(grace.as_micros() as u64 + MS);
                let is_forced = self.pod.metadata.deletion_grace_period_seconds == Some(0);
                if self.observed.released && self.wanted && !is_forced {
                    machine.is_released(&id, &uid);
                }
                (takes, Outcome::Stopped)
            }
            Action::Condemn(verdict) => {
                self.observed.verdict = Some(verdict);
                (1, Outcome::Nothing)
            }
            // No pod here has hooks, probes or changing amounts.
            Action::Resize { .. } | Action::PostStart { .. } | Action::PreStop { .. } | Action::Probe { .. } => {
                return None;
            }
        })
    }

    /// Notes an outcome. False if it failed and must rest before it is tried again.
    pub fn done(&mut self, outcome: &Outcome, now: Timestamp) -> bool {
        let again = |before: Option<&Trouble>, reason: &str| Trouble::again(before, reason, "bad luck".into(), now);
        match outcome {
            Outcome::Nothing | Outcome::Stopped => true,
            Outcome::Volumes(done) => {
                self.observed.volumes = match done {
                    true => Step::Done,
                    false => Step::Failed(again(self.observed.volumes.trouble(), "FailedMount")),
                };
                true
            }
            Outcome::Sandbox { attempt, ip: Some(ip) } => {
                self.observed.sandbox = Sandbox::Ready { attempt: *attempt, ips: vec![ip.clone()] };
                true
            }
            Outcome::Sandbox { attempt, ip: None } => {
                let before = match &self.observed.sandbox {
                    Sandbox::Failed { trouble, .. } => Some(trouble),
                    _ => None,
                };
                let trouble = again(before, "FailedCreatePodSandBox");
                self.observed.sandbox = Sandbox::Failed { attempt: *attempt, trouble };
                true
            }
            Outcome::SandboxGone { stopped, done } => {
                if *done {
                    let ips = self.observed.sandbox.ips().to_vec();
                    self.observed.sandbox = if *stopped { Sandbox::Stopped { ips } } else { Sandbox::Absent };
                }
                *done
            }
            Outcome::TornDown(done) => {
                self.observed.gone = *done;
                *done
            }
            Outcome::Image { container, attempt, done } => {
                let seen = self.observed.containers.entry(container.clone()).or_default();
                seen.image = match (done, &seen.image) {
                    (true, _) => Image::Ready { id: "sha256:0".into(), attempt: *attempt },
                    (false, Image::Failed(before)) => Image::Failed(again(Some(before), "ErrImagePull")),
                    (false, _) => Image::Failed(again(None, "ErrImagePull")),
                };
                true
            }
            Outcome::Started { container, attempt, done } => {
                let wanted = spec::container(&self.pod, container).map(Cow::into_owned).unwrap_or_default();
                let id = container_id(uid(&self.pod), container, *attempt);
                let seen = self.observed.containers.entry(container.clone()).or_default();
                if *done {
                    seen.began(run(id, *attempt, &wanted, RunState::Running { since: now }));
                } else {
                    seen.start_trouble = Some(again(seen.start_trouble.as_ref(), "CreateContainerError"));
                }
                true
            }
        }
    }

    pub fn exited(&mut self, process: &Process, code: i32) {
        let Some(seen) = self.observed.containers.get_mut(&process.container) else { return };
        if seen.running().is_some_and(|(run, _)| run.id == process.id) {
            seen.ended_with(ended(process, code));
        }
    }

    /// The status, if it says something new.
    pub fn report(&mut self, now: Timestamp) -> Option<PodStatus> {
        let said = status::status(&self.pod, &self.observed, now);
        if self.observed.reported.as_ref() == Some(&said) && !self.observed.gone {
            return None;
        }
        self.observed.reported = Some(said.clone());
        if is_final(&said) && spec::final_phase(&self.pod).is_none() {
            Arc::make_mut(&mut self.pod).status = Some(said.clone());
        }
        Some(said)
    }
}

fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn run(id: String, attempt: u32, wanted: &Container, state: RunState) -> Run {
    let (image_id, post_start) = ("sha256:0".into(), Hook::Done);
    let (image, resources) = (spec::image(wanted).to_owned(), wanted.resources.clone());
    Run { id, attempt, image, image_id, resources, state, post_start }
}

/// A run as it is found by an agent that was not there when it began.
fn seen(pod: &Pod, process: &Process) -> Seen {
    let state = match process.exit {
        None => RunState::Running { since: process.since },
        Some((code, _)) => RunState::Ended(ended(process, code)),
    };
    let failures = if process.exit.is_some_and(|(code, _)| code != 0) { process.attempt + 1 } else { 0 };
    let wanted = spec::container(pod, &process.container).map(Cow::into_owned).unwrap_or_default();
    let run = run(process.id.clone(), process.attempt, &wanted, state);
    // Its image may have been replaced in the spec meanwhile.
    let run = Run { image: process.image.clone(), ..run };
    Seen { run: Some(run), failures, ..Seen::default() }
}

fn ended(process: &Process, code: i32) -> Ended {
    Ended {
        container_id: format!("{ID_SCHEME}{}", process.id).trim_start_matches(ID_SCHEME).into(),
        exit_code: code,
        signal: None,
        reason: Ended::reason_of(code, false).into(),
        message: String::new(),
        started_at: Some(process.since),
        finished_at: process.exit.map_or(process.since, |(_, at)| at),
    }
}
