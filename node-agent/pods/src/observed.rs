//! What was seen of a pod on this machine, and what came of the actions taken.
//!
//! The agent fills this in: from the runtime (also after its own restart), and from the outcomes of actions.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::time::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};

use crate::{
    Job,
    probe::{ProbeKind, ProbeRecord},
};

#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// When this agent took the pod up; the status' `startTime`.
    pub accepted_at: Option<Timestamp>,
    pub host_ips: Vec<String>,
    pub volumes: Step,
    pub sandbox: Sandbox,
    /// By container name; init containers too. Boxed, as a map has room for eleven where one is.
    pub containers: BTreeMap<String, Box<Seen>>,
    /// The pod failed as a whole.
    pub verdict: Option<Verdict>,
    /// Since when the pod is leaving.
    pub leaving_since: Option<Timestamp>,
    /// The control plane said that nobody sends traffic to the pod any more.
    pub released: bool,
    /// Actions under way.
    pub busy: BTreeSet<Job>,
    /// Nothing is left.
    pub gone: bool,
    /// What the machine has for the pod; looked up when its containers shall be resized.
    pub room: Option<crate::resize::Room>,
    /// What was reported last: times of conditions are carried on from there.
    pub reported: Option<PodStatus>,
}

/// Something that is done once and may fail on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step {
    #[default]
    Pending,
    Done,
    Failed(Trouble),
}

/// A failure that is worth another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As Kubernetes names it: `ErrImagePull`, `CreateContainerConfigError`.
    pub reason: String,
    pub message: String,
    /// When it failed last.
    pub at: Timestamp,
    /// How often in a row.
    pub count: u32,
    /// Trying again cannot help before the pod's spec changes.
    pub hopeless: bool,
}

impl Trouble {
    /// The trouble after one more failure, counted on from `before`.
    pub fn again(before: Option<&Trouble>, reason: &str, message: String, at: Timestamp) -> Trouble {
        let count = before.map_or(0, |trouble| trouble.count).saturating_add(1);
        Trouble { reason: reason.into(), message, at, count, hopeless: false }
    }
}

impl Step {
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Step::Failed(trouble) => Some(trouble),
            _ => None,
        }
    }
}

/// The pod's namespaces, network and cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    #[default]
    Absent,
    Ready {
        attempt: u32,
        ips: Vec<String>,
    },
    /// It was there, and is not usable: the machine was restarted.
    Broken {
        attempt: u32,
    },
    Failed {
        attempt: u32,
        trouble: Trouble,
    },
    /// Given back after the pod ended; the addresses are remembered for the status.
    Stopped {
        ips: Vec<String>,
    },
}

impl Sandbox {
    pub fn ips(&self) -> &[String] {
        match self {
            Sandbox::Ready { ips, .. } | Sandbox::Stopped { ips } => ips,
            _ => &[],
        }
    }
}

/// One container through all its runs.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub image: Image,
    pub start_trouble: Option<Trouble>,
    /// Why the running container has not got the amounts of its spec.
    pub resize_trouble: Option<Trouble>,
    /// The newest run, whatever became of it.
    pub run: Option<Run>,
    /// That run was in a sandbox that is no more: what an init container did to it is undone.
    pub is_of_former_sandbox: bool,
    /// How the run before the newest one ended.
    pub previous: Option<Ended>,
    /// Runs that ended badly and soon, in a row; grows the back-off.
    pub failures: u32,
    pub probes: BTreeMap<ProbeKind, ProbeRecord>,
    pub stop: Option<StopRecord>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Image {
    #[default]
    Unknown,
    /// Ensured for this attempt; `id` is the digest.
    Ready {
        id: String,
        attempt: u32,
    },
    Failed(Trouble),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub id: String,
    /// Zero for the first run: the status' `restartCount`.
    pub attempt: u32,
    /// As the pod's spec named it when this run began: another name in the spec is another run.
    pub image: String,
    pub image_id: String,
    /// The amounts that it was given.
    pub resources: Option<ResourceRequirements>,
    pub state: RunState,
    pub post_start: Hook,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    Running { since: Timestamp },
    Ended(Ended),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    #[default]
    Pending,
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub container_id: String,
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

impl Ended {
    /// The reason Kubernetes gives for an exit.
    pub fn reason_of(exit_code: i32, oom_killed: bool) -> &'static str {
        match (exit_code, oom_killed) {
            (_, true) => "OOMKilled",
            (0, false) => "Completed",
            _ => "Error",
        }
    }

    pub fn ran_for(&self) -> SignedDuration {
        self.started_at.map_or(SignedDuration::ZERO, |started| self.finished_at.duration_since(started))
    }
}

/// How far the end of a container's run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRecord {
    pub since: Timestamp,
    pub pre_stop: Hook,
    /// The deadline given to the runtime with the stop signal.
    pub deadline: Option<Timestamp>,
}

/// The pod failed as a whole, and will not run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `Evicted`.
    pub reason: String,
    pub message: String,
}

impl Seen {
    pub fn running(&self) -> Option<(&Run, Timestamp)> {
        match &self.run {
            Some(run) => match run.state {
                RunState::Running { since } => Some((run, since)),
                RunState::Ended(_) => None,
            },
            None => None,
        }
    }

    pub fn ended(&self) -> Option<&Ended> {
        match &self.run {
            Some(Run { state: RunState::Ended(ended), .. }) => Some(ended),
            _ => None,
        }
    }

    /// The number of the run that would be started next.
    pub fn next_attempt(&self) -> u32 {
        self.run.as_ref().map_or(0, |run| run.attempt + 1)
    }

    /// A new run has begun: what was known about the one before is history.
    pub fn began(&mut self, run: Run) {
        if let Some(Run { state: RunState::Ended(ended), .. }) = self.run.take() {
            self.previous = Some(ended);
        }
        self.run = Some(run);
        self.is_of_former_sandbox = false;
        self.start_trouble = None;
        self.resize_trouble = None;
        self.stop = None;
        self.probes.clear();
    }

    /// The newest run ended. Counts it for the back-off, unless it did its work or ran long enough.
    pub fn ended_with(&mut self, ended: Ended) {
        self.failures = crate::backoff::failures_after(self.failures, &ended);
        self.probes.clear();
        self.stop = None;
        if let Some(run) = &mut self.run {
            run.state = RunState::Ended(ended);
        }
    }

    /// The container has passed its startup probe and its postStart hook.
    pub fn started(&self, container: &k8s_openapi::api::core::v1::Container) -> bool {
        let Some((run, _)) = self.running() else { return false };
        let hooked = crate::spec::post_start(container).is_none() || run.post_start == Hook::Done;
        hooked && (container.startup_probe.is_none() || self.passed(ProbeKind::Startup))
    }

    /// The container may be sent traffic.
    pub fn ready(&self, container: &k8s_openapi::api::core::v1::Container) -> bool {
        self.started(container) && (container.readiness_probe.is_none() || self.passed(ProbeKind::Readiness))
    }

    fn passed(&self, kind: ProbeKind) -> bool {
        self.probes.get(&kind).and_then(|record| record.verdict) == Some(true)
    }
}

impl Observed {
    /// The sandbox has ended, and with it all that ran there.
    pub fn lose_sandbox(&mut self, attempt: u32) {
        self.sandbox = Sandbox::Broken { attempt };
        self.containers.values_mut().for_each(|seen| seen.is_of_former_sandbox = true);
    }

    /// Configuration the pod refers to has changed: waits that it may have cured are over.
    pub fn forgive(&mut self) {
        if matches!(self.volumes, Step::Failed(_)) {
            self.volumes = Step::Pending;
        }
        for seen in self.containers.values_mut() {
            seen.start_trouble = None;
            seen.failures = 0;
            if matches!(&seen.image, Image::Failed(trouble) if !trouble.hopeless) {
                seen.image = Image::Unknown;
            }
        }
    }

    /// Some container has a process.
    pub fn any_running(&self) -> bool {
        self.containers.values().any(|seen| seen.running().is_some())
    }
}
