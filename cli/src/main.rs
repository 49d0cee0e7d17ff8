//! `copepod`: the server, the node agent, local clusters, and the operator's verbs, in one binary.

mod agent;
mod backup;
mod bench;
mod client;
mod descriptors;
mod failure;
mod image;
mod keys;
mod kubeconfig;
mod lab;
mod server;
mod token;
mod unused;
mod verbs;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;

use crate::{client::Client, failure::Outcome};

/// A server makes trees of JSON on one thread and drops them on another all the time (docs/performance.md).
#[global_allocator]
static HEAP: MiMalloc = MiMalloc;

#[derive(Parser)]
#[command(name = "copepod", version, about = "A container orchestrator in one binary; speaks the Kubernetes API")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Global {
    /// Kubeconfig of the cluster to speak to [default: KUBECONFIG, the local cluster, this machine's server, ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace [default: that of the context, or "default"]
    #[arg(long, short, global = true)]
    namespace: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Brings up a cluster on this machine: every server and node in a network namespace of its own
    Up(lab::Up),
    /// Takes the local cluster away; leaves nothing behind
    Down,
    /// Prints the path of the local cluster's kubeconfig
    Kubeconfig,
    /// Stops, cuts off and brings back servers and nodes of the local cluster
    #[command(subcommand)]
    Lab(lab::Fault),
    /// Runs a server of the control plane on this machine; its verbs list, remove and recover servers
    Server(server::Server),
    /// Writes the whole cluster into one file, while it runs
    Backup(backup::Backup),
    /// Makes an empty directory that of the first server of a cluster that was backed up
    Restore(backup::Restore),
    /// Makes this machine a node
    Agent(agent::Agent),
    /// Builds, imports and lists images of this machine
    Image(image::Images),
    /// Measures this machine and this build: clusters of its own are brought up and taken down
    Bench(bench::Bench),
    /// Keys that service account tokens are signed with
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Tokens that machines join with
    #[command(subcommand)]
    Token(token::Token),
    #[command(flatten)]
    Verb(verbs::Verb),
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "shim") {
        // Before any thread starts: the shim forks containers.
        return ExitCode::from(copepod_runtime::shim::main(&arguments[2..]) as u8);
    }
    let cli = Cli::parse();
    let mut runtime = match &cli.command {
        Command::Server(server::Server { verb: None, .. }) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    match command {
        Command::Up(wanted) => lab::up(wanted).await,
        Command::Down => lab::down(),
        Command::Kubeconfig => lab::kubeconfig().await,
        Command::Lab(fault) => lab::fault(fault).await,
        Command::Server(server::Server { verb: Some(verb), .. }) => server::verb(verb, &global).await,
        Command::Server(server::Server { verb: None, run }) => {
            log_to_stderr();
            descriptors::raise_limit();
            unused::give_back();
            server::run(run, stop_on_signal()).await
        }
        Command::Backup(backup::Backup { verb: Some(verb), .. }) => backup::verify(verb),
        Command::Backup(backup) => backup::back_up(&connect(&global).await?, backup).await,
        Command::Restore(restore) => backup::restore(restore),
        Command::Agent(agent) => {
            log_to_stderr();
            unused::give_back();
            agent::run(agent, stop_on_signal()).await
        }
        Command::Bench(bench) => {
            descriptors::raise_limit();
            bench::run(bench).await
        }
        Command::Image(images) => image::run(images),
        Command::Keys(keys) => keys::run(&connect(&global).await?, keys).await,
        Command::Token(token) => token::run(&connect(&global).await?, token).await,
        Command::Verb(verb) => verbs::run(verb, &connect(&global).await?, global.namespace.as_deref()).await,
    }
}

/// How long a server of the local cluster may take to accept a connection before another one is looked for.
const LOCAL_CONNECT_MAX: std::time::Duration = std::time::Duration::from_millis(300);

async fn connect(global: &Global) -> Outcome<Client> {
    let path = kubeconfig::find(global.kubeconfig.as_deref())?;
    let access = kubeconfig::read(&path, global.context.as_deref())?;
    if path != lab::kubeconfig_path() {
        return Client::new(access);
    }
    // A kubeconfig names one server; of the local cluster the others are known as well.
    let client = Client::new(access)?;
    match tokio::time::timeout(LOCAL_CONNECT_MAX, client.greets()).await {
        Ok(true) => Ok(client),
        _ => {
            lab::choose_server().await?;
            Client::new(kubeconfig::read(&path, global.context.as_deref())?)
        }
    }
}

/// Daemons tell their story on standard error; the journal adds the time.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("COPEPOD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,raft=warn,libcontainer=warn,libcgroups=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    builder.with_ansi(std::io::stderr().is_terminal()).init();
}

/// Ends on SIGTERM and SIGINT.
fn stop_on_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let stop = stop.clone();
        if let Ok(mut signals) = signal(kind) {
            tokio::spawn(async move {
                signals.recv().await;
                stop.cancel();
            });
        }
    }
    stop
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_server_runs_where_no_verb_is_named() {
        let parsed = |words: &[&str]| Cli::try_parse_from(words).map(|cli| cli.command);
        assert!(matches!(
            parsed(&["copepod", "server", "--name", "s1"]),
            Ok(Command::Server(server::Server { verb: None, .. }))
        ));
        assert!(matches!(
            parsed(&["copepod", "server", "list"]),
            Ok(Command::Server(server::Server { verb: Some(server::Verb::List), .. }))
        ));
        assert!(matches!(parsed(&["copepod", "backup", "verify", "f"]), Ok(Command::Backup(it)) if it.verb.is_some()));
        assert!(matches!(parsed(&["copepod", "backup", "f"]), Ok(Command::Backup(it)) if it.verb.is_none()));
        assert!(parsed(&["copepod", "backup"]).is_err());
    }
}
