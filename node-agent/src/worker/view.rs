//! A worker as others see it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::{Worker, note::Note};
use crate::surface::PodRef;

/// The way to a worker.
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

impl Worker {
    pub(super) fn show(&self) {
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
}
