//! The operator's verbs, one file a verb. They are kubectl's, with better answers.

mod apply;
mod cordon;
mod cp;
mod delete;
mod describe;
mod drain;
mod exec;
mod get;
mod logs;
mod pods;
mod port_forward;
mod remote;
mod resource;
mod rollout;
mod scale;
mod terminal;

use clap::Subcommand;

pub use resource::items;

use crate::{client::Client, failure::Outcome};

#[derive(Subcommand)]
pub enum Verb {
    /// Makes the cluster be as manifests say: files, directories or standard input
    Apply(apply::Apply),
    /// Shows objects
    Get(get::Get),
    /// Shows one object in words, with its events
    Describe(describe::Describe),
    /// Deletes objects, and waits until they are gone
    Delete(delete::Delete),
    /// Sets the number of replicas
    Scale(scale::Scale),
    /// Follows, restarts, pauses and undoes rollouts of deployments
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Prints the logs of a pod's container
    Logs(logs::Logs),
    /// Runs a command in a container
    Exec(exec::Exec),
    /// Shows what a container's own process says, and speaks to it
    Attach(exec::Attach),
    /// Opens ports here that lead to a pod
    PortForward(port_forward::PortForward),
    /// Copies files to and from a container
    Cp(cp::Cp),
    /// Keeps new pods away from a node
    Cordon(cordon::Nodes),
    /// Lets new pods onto a node again
    Uncordon(cordon::Nodes),
    /// Empties a node, respecting disruption budgets
    Drain(drain::Drain),
}

pub async fn run(verb: Verb, client: &Client, namespace: Option<&str>) -> Outcome {
    let scope = namespace.unwrap_or(client.namespace());
    match verb {
        Verb::Apply(apply) => apply::run(apply, client, namespace).await,
        Verb::Get(get) => get::run(get, client, namespace).await,
        Verb::Describe(describe) => describe::run(describe, client, namespace).await,
        Verb::Delete(delete) => delete::run(delete, client, namespace).await,
        Verb::Scale(scale) => scale::run(scale, client, scope).await,
        Verb::Rollout(rollout) => rollout::run(rollout, client, scope).await,
        Verb::Logs(logs) => logs::run(logs, client, scope).await,
        Verb::Exec(exec) => exec::exec(exec, client, scope).await,
        Verb::Attach(attach) => exec::attach(attach, client, scope).await,
        Verb::PortForward(forward) => port_forward::run(forward, client, scope).await,
        Verb::Cp(cp) => cp::run(cp, client, scope).await,
        Verb::Cordon(nodes) => cordon::run(nodes, client, true).await,
        Verb::Uncordon(nodes) => cordon::run(nodes, client, false).await,
        Verb::Drain(drain) => drain::run(drain, client).await,
    }
}
