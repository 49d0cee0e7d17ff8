//! Sandboxes and containers, in the agent's words.

use std::{path::PathBuf, sync::Arc, time::Duration};

use copepod_api::Timestamp;
use copepod_runtime::Cri;

use crate::{
    embedded::runtime::{container, exit, failure, found, resources, sandbox, start_error, usage},
    surface::{
        ContainerSpec, ExecOutput, Exit, Failure, FoundSandbox, Process, Resources, Runtime, SandboxNetwork,
        SandboxSpec, StartError, Usage, Wanted,
    },
};

pub struct Containers(pub Arc<Cri>);

#[tonic::async_trait]
impl Runtime for Containers {
    async fn list(&self) -> Result<Vec<FoundSandbox>, Failure> {
        let sandboxes = self.0.list().await.map_err(failure)?;
        Ok(sandboxes.into_iter().map(found).collect())
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxNetwork, Failure> {
        let addresses = self.0.create_sandbox(&sandbox(spec)).await.map_err(failure)?;
        match (spec.host_network, addresses.is_empty()) {
            (true, _) => Ok(SandboxNetwork::Machine),
            (false, false) => Ok(SandboxNetwork::Given(addresses)),
            (false, true) => Err("the runtime gave the pod no address: look at its CNI configuration".into()),
        }
    }

    async fn has_sandbox(&self, id: &str) -> Result<bool, Failure> {
        self.0.has_sandbox(id).await.map_err(failure)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Failure> {
        self.0.remove_sandbox(id).await.map_err(failure)
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        let own = container(spec).map_err(StartError::Create)?;
        self.0.start(&own).await.map_err(start_error)
    }

    async fn wait(&self, id: &str) -> Result<Exit, Failure> {
        self.0.wait(id).await.map(exit).map_err(failure)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Failure> {
        self.0.stop(id, grace).await.map_err(failure)
    }

    async fn resize(&self, id: &str, wanted: &Resources) -> Result<(), Failure> {
        self.0.resize(id, &resources(wanted)).await.map_err(failure)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Failure> {
        self.0.remove_container(id).await.map_err(failure)
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Failure> {
        let said = self.0.exec(id, command, timeout).await.map_err(failure)?;
        Ok(ExecOutput { exit_code: said.exit_code, output: said.output })
    }

    async fn run(&self, _: &str, _: &[String], _: Wanted) -> Result<Process, Failure> {
        Err("interactive commands are not carried to CRI runtimes; use crictl exec on the node".into())
    }

    async fn attach(&self, _: &str, _: Wanted) -> Result<Process, Failure> {
        Err("streams of containers are not carried from CRI runtimes; use crictl attach on the node".into())
    }

    fn network_namespace(&self, _: &str) -> Option<PathBuf> {
        None
    }

    async fn usage(&self) -> Vec<Usage> {
        match self.0.usage().await {
            Ok(all) => all.into_iter().map(usage).collect(),
            Err(error) => {
                tracing::warn!(%error, "the runtime does not say what containers use");
                Vec::new()
            }
        }
    }

    fn version(&self) -> String {
        self.0.version().to_owned()
    }
}
