//! What the agent is asked to do for a pod.

use copepod_api::Timestamp;

use crate::{Verdict, probe::ProbeKind};

/// One thing to do. Data: the agent carries it out and notes the outcome in `Observed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's volumes, with the configuration they show.
    PrepareVolumes,
    /// Make namespaces, network and cgroup of the pod.
    CreateSandbox { attempt: u32 },
    /// The containers' world ended under them (a reboot): clear it away, so that a new one can be made.
    RemoveSandbox,
    /// Have the image of a container on this machine before it runs for the `attempt`th time.
    EnsureImage { container: String, attempt: u32 },
    /// Create and start a container.
    Start { container: String, attempt: u32 },
    /// Give a running container the amounts of its spec.
    Resize { container: String },
    /// Run the container's postStart hook.
    PostStart { container: String },
    /// Run the container's preStop hook, for at most so many seconds.
    PreStop { container: String, seconds: i64 },
    /// Send the stop signal, wait that long, then kill.
    Stop { container: String, grace_seconds: i64 },
    /// Ask a container how it is.
    Probe { container: String, kind: ProbeKind },
    /// The pod failed as a whole; note the verdict, which is final.
    Condemn(Verdict),
    /// The pod has ended for good: give its network and processes back, keep what remains to be read (logs, records).
    StopSandbox,
    /// Nothing of the pod shall be left on this machine.
    TearDown,
}

/// What an action keeps busy. While a job is under way no second action of the same job is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    Volumes,
    Sandbox,
    Image(String),
    Start(String),
    Resize(String),
    PostStart(String),
    PreStop(String),
    /// With its grace: asking again with less patience is another job.
    Stop(String, i64),
    Probe(String, ProbeKind),
    Verdict,
}

impl Action {
    pub fn job(&self) -> Job {
        match self {
            Action::PrepareVolumes => Job::Volumes,
            Action::CreateSandbox { .. } | Action::RemoveSandbox | Action::StopSandbox | Action::TearDown => {
                Job::Sandbox
            }
            Action::EnsureImage { container, .. } => Job::Image(container.clone()),
            Action::Start { container, .. } => Job::Start(container.clone()),
            Action::Resize { container } => Job::Resize(container.clone()),
            Action::PostStart { container } => Job::PostStart(container.clone()),
            Action::PreStop { container, .. } => Job::PreStop(container.clone()),
            Action::Stop { container, grace_seconds } => Job::Stop(container.clone(), *grace_seconds),
            Action::Probe { container, kind } => Job::Probe(container.clone(), *kind),
            Action::Condemn(_) => Job::Verdict,
        }
    }
}

/// What to do now, and when to ask again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    pub now: Vec<Action>,
    pub look_again: Option<Timestamp>,
}

impl Actions {
    pub(crate) fn push(&mut self, action: Action) {
        self.now.push(action);
    }

    /// Ask again at `at`, or earlier if something earlier is asked for.
    pub(crate) fn at(&mut self, at: Timestamp) {
        self.look_again = Some(self.look_again.map_or(at, |earlier| earlier.min(at)));
    }
}
