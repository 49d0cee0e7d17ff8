//! `copepod exec` and `copepod attach`: the operator's streams and a container's.

use std::io::IsTerminal;

use clap::Args;
use tokio::sync::mpsc;

use super::{
    pods,
    remote::{QUEUE, Remote},
    resource::encode,
    terminal::{self, Raw},
};
use crate::{client::Client, failure::Outcome};

#[derive(Args)]
pub struct Exec {
    /// A pod, or deployment/web or service/web for a pod of it
    what: String,
    #[command(flatten)]
    streams: Streams,
    /// The command, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Args)]
pub struct Attach {
    /// A pod, or deployment/web or service/web for a pod of it
    what: String,
    #[command(flatten)]
    streams: Streams,
}

#[derive(Args)]
struct Streams {
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Passes standard input on
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Standard input is a terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// Says nothing of its own
    #[arg(long, short)]
    quiet: bool,
}

pub async fn exec(exec: Exec, client: &Client, namespace: &str) -> Outcome {
    let pod = pods::one(&exec.what, client, namespace).await?;
    let command: String = exec.command.iter().map(|word| format!("&command={}", encode(word))).collect();
    let code =
        connect(client, &format!("/api/v1/namespaces/{namespace}/pods/{pod}/exec"), &exec.streams, &command).await?;
    if code != 0 {
        if !exec.streams.quiet {
            eprintln!("command terminated with exit code {code}");
        }
        // The command's code is ours, as with a shell.
        std::process::exit(code);
    }
    Ok(())
}

pub async fn attach(attach: Attach, client: &Client, namespace: &str) -> Outcome {
    let pod = pods::one(&attach.what, client, namespace).await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/attach");
    connect(client, &path, &attach.streams, "").await.map(drop)
}

/// Carries the operator's streams; the exit code of what was at the other end.
async fn connect(client: &Client, path: &str, streams: &Streams, command: &str) -> Outcome<i32> {
    let tty = streams.tty && std::io::stdin().is_terminal();
    if streams.tty && !tty && !streams.quiet {
        eprintln!("standard input is no terminal, so the command gets none");
    }
    let mut path = format!("{path}?stdin={}&stdout=true&stderr={}&tty={tty}{command}", streams.stdin, !tty);
    if let Some(container) = &streams.container {
        path.push_str(&format!("&container={}", encode(container)));
    }
    let remote = Remote::open(client, &path).await?;
    let (said, to_say) = mpsc::channel(QUEUE);
    let raw = (tty && streams.stdin).then(Raw::begin).flatten();
    if tty {
        terminal::pass_size(said.clone());
    }
    if streams.stdin {
        terminal::pass_stdin(said.clone());
    }
    let code = remote.carry(to_say, std::io::stdout(), std::io::stderr()).await;
    // Before anything more is printed.
    drop(raw);
    code
}
