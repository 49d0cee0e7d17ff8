//! Containers that are only names.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copepod_api::Timestamp;
use tokio::sync::Notify;

use crate::{
    node::MachineUsage,
    surface::{
        ContainerSpec, ExecOutput, Exit, Failure, FoundContainer, FoundSandbox, FoundState, PodRef, Process, Resources,
        Runtime, SandboxNetwork, SandboxSpec, StartError, Usage, Wanted,
    },
};

#[derive(Default)]
pub struct HollowRuntime {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, FoundSandbox>,
    env: BTreeMap<String, Vec<(String, String)>>,
    log: Vec<String>,
}

impl HollowRuntime {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can fail half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids of containers that run.
    pub fn running(&self) -> Vec<String> {
        let state = self.state();
        let all = state.sandboxes.values().flat_map(|sandbox| &sandbox.containers);
        let mut ids: Vec<String> =
            all.filter(|c| matches!(c.state, FoundState::Running { .. })).map(|c| c.id.clone()).collect();
        ids.sort();
        ids
    }

    pub fn is_empty(&self) -> bool {
        self.state().sandboxes.is_empty()
    }

    /// What was asked of the runtime, in order.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    pub fn env(&self, id: &str) -> Vec<(String, String)> {
        self.state().env.get(id).cloned().unwrap_or_default()
    }

    /// A container ends by itself.
    pub fn crash(&self, id: &str, code: i32) {
        self.end(id, code);
    }

    pub async fn until_running(&self, id: &str) {
        self.until(|running| running.iter().any(|other| other == id)).await;
    }

    /// Waits until the containers that run are as wished.
    pub async fn until(&self, holds: impl Fn(&[String]) -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds(&self.running()) {
                return;
            }
            changed.await;
        }
    }

    /// What holds a sandbox is killed, and its containers with it.
    pub fn kill_sandbox(&self, id: &str) {
        let mut state = self.state();
        let Some(sandbox) = state.sandboxes.get_mut(id) else { return };
        sandbox.ready = false;
        let containers: Vec<String> = sandbox.containers.iter().map(|container| container.id.clone()).collect();
        drop(state);
        containers.iter().for_each(|id| self.end(id, 137));
    }

    /// The machine is started anew, and nothing is left.
    pub fn reboot(&self) {
        self.state().sandboxes.clear();
        self.changed.notify_waiters();
    }

    /// A container of another life.
    pub fn plant(&self, uid: &str, pod: &str, name: &str) {
        let pod = PodRef { namespace: "d".into(), name: pod.into(), uid: uid.into() };
        let container = FoundContainer {
            id: format!("{uid}-{name}-0"),
            name: name.into(),
            attempt: 0,
            image: "x:1".into(),
            image_id: String::new(),
            state: FoundState::Running { since: Timestamp::now() },
        };
        let id = format!("{uid}-0");
        let sandbox = FoundSandbox { id: id.clone(), pod, attempt: 0, ready: true, containers: vec![container] };
        self.state().sandboxes.insert(id, sandbox);
    }

    fn find<T>(&self, id: &str, with: impl FnOnce(&mut FoundContainer) -> T) -> Option<T> {
        let mut state = self.state();
        let mut all = state.sandboxes.values_mut().flat_map(|sandbox| &mut sandbox.containers);
        all.find(|container| container.id == id).map(with)
    }

    fn end(&self, id: &str, code: i32) {
        self.find(id, |container| {
            if let FoundState::Running { since } = container.state {
                let finished_at = Timestamp::now();
                let exit = Exit { code, signal: None, oom_killed: false, started_at: Some(since), finished_at };
                container.state = FoundState::Exited(exit);
            }
        });
        self.changed.notify_waiters();
    }

    fn note(&self, line: String) {
        self.state().log.push(line);
        self.changed.notify_waiters();
    }
}

#[tonic::async_trait]
impl Runtime for HollowRuntime {
    async fn list(&self) -> Result<Vec<FoundSandbox>, Failure> {
        Ok(self.state().sandboxes.values().cloned().collect())
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxNetwork, Failure> {
        let sandbox = FoundSandbox {
            id: spec.id.clone(),
            pod: spec.pod.clone(),
            attempt: spec.attempt,
            ready: true,
            containers: Vec::new(),
        };
        self.state().sandboxes.insert(spec.id.clone(), sandbox);
        self.note(format!("create sandbox {}", spec.id));
        Ok(SandboxNetwork::Namespace("/run/netns".into()))
    }

    async fn has_sandbox(&self, id: &str) -> Result<bool, Failure> {
        Ok(self.state().sandboxes.get(id).is_some_and(|sandbox| sandbox.ready))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Failure> {
        self.state().sandboxes.remove(id);
        self.note(format!("remove sandbox {id}"));
        Ok(())
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        let since = Timestamp::now();
        let container = FoundContainer {
            id: spec.id.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            image_id: spec.image_id.clone(),
            state: FoundState::Running { since },
        };
        let mut state = self.state();
        state.env.insert(spec.id.clone(), spec.env.clone());
        let sandbox = state.sandboxes.get_mut(&spec.sandbox_id);
        sandbox.ok_or_else(|| StartError::Create("no sandbox".into()))?.containers.push(container);
        drop(state);
        self.note(format!("start {}", spec.id));
        Ok(since)
    }

    async fn wait(&self, id: &str) -> Result<Exit, Failure> {
        loop {
            let changed = self.changed.notified();
            match self.find(id, |container| container.state.clone()) {
                None => return Err("no such container".into()),
                Some(FoundState::Exited(exit)) => return Ok(exit),
                Some(FoundState::Running { .. }) => changed.await,
            }
        }
    }

    async fn stop(&self, id: &str, _: Duration) -> Result<(), Failure> {
        self.note(format!("stop {id}"));
        self.end(id, 143);
        Ok(())
    }

    async fn resize(&self, id: &str, resources: &Resources) -> Result<(), Failure> {
        self.note(format!("resize {id} {}", resources.cpu_shares.unwrap_or_default()));
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Failure> {
        for sandbox in self.state().sandboxes.values_mut() {
            sandbox.containers.retain(|container| container.id != id);
        }
        Ok(())
    }

    async fn exec(&self, _: &str, _: &[String], _: Duration) -> Result<ExecOutput, Failure> {
        Ok(ExecOutput::default())
    }

    async fn run(&self, _: &str, _: &[String], _: Wanted) -> Result<Process, Failure> {
        Err("nothing runs here".into())
    }

    async fn attach(&self, _: &str, _: Wanted) -> Result<Process, Failure> {
        Err("nothing runs here".into())
    }

    fn network_namespace(&self, _: &str) -> Option<PathBuf> {
        None
    }

    async fn usage(&self) -> Vec<Usage> {
        Vec::new()
    }

    /// Thousands of nodes would all read the same of the one machine that they pretend not to share.
    fn machine_usage(&self) -> MachineUsage {
        MachineUsage::default()
    }

    fn version(&self) -> String {
        "hollow://1".into()
    }
}
