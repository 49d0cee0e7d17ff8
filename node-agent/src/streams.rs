//! Commands in containers for somebody far away: what comes down a tunnel goes to the process, what it says goes up.
//!
//! Nothing is kept on the way. A process that does not read its input leaves it in the tunnel, whose window is bounded;
//! a client that does not read leaves the output in the process's pipe.

use std::{io, time::Duration};

use bytes::Bytes;
use copepod_api::Status;
use copepod_proto::nodes::{ExecRequest, TunnelData};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};
use tonic::Streaming;

use crate::{
    agent::Agent,
    surface::{Failure, Process, Reader, Size, Wanted, Writer},
    tunnels::{self, DATA, ERROR, Up},
};

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const RESIZE: u32 = 4;
/// Nothing more follows in this direction.
pub const ENDS: u32 = 5;

/// How much is read at once.
const PART_BYTES: usize = 32 << 10;

/// What a process has written is in its pipe when it ends, and is read without waiting; what it left behind may hold the
/// pipe open for ever and is not waited for.
const REST_MAX: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Resize {
    width: u16,
    height: u16,
}

/// Runs a command in a container, or attaches to the one that runs. A refusal is given before anything is said up the tunnel; after that, how the command
/// ended is the last thing said.
pub async fn exec(agent: &Agent, asked: &ExecRequest, up: &Up, down: &mut Streaming<TunnelData>) -> Result<(), Status> {
    let handle = tunnels::find(agent, &asked.namespace, &asked.pod, &asked.uid)?;
    let run = handle.view.borrow().runs.get(&asked.container).filter(|run| run.running).cloned();
    let run = run.ok_or_else(|| Status::internal(format!("container not found ({:?})", asked.container)))?;
    // Those who asked now know that there is a container; the rest is said on the streams.
    if up.send(TunnelData::default()).await.is_err() {
        return Ok(());
    }
    let wanted = Wanted { stdin: asked.stdin, tty: asked.tty };
    let runtime = &agent.machine.rooms.runtime;
    let last = if asked.attach {
        let process = runtime.attach(&run.id, wanted).await;
        let process =
            process.map_err(|Failure(why)| Status::internal(format!("error attaching to container: {why}")))?;
        // How the container ended stands in the pod's status.
        carry(process, up, down).await.map(|_| outcome(0))?
    } else {
        let process = runtime.run(&run.id, &asked.command, wanted).await;
        let process =
            process.map_err(|Failure(why)| Status::internal(format!("error executing command in container: {why}")))?;
        outcome(carry(process, up, down).await?)
    };
    let _ = up.send(TunnelData { id: String::new(), channel: ERROR, data: last.into() }).await;
    Ok(())
}

/// How a command ended, as clients read it (`meta/v1 Status`).
fn outcome(code: i32) -> Vec<u8> {
    let status = match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    };
    status.to_string().into_bytes()
}

/// Carries both directions until the process has ended or nobody listens any more; its exit code.
async fn carry(process: Process, up: &Up, down: &mut Streaming<TunnelData>) -> Result<i32, Status> {
    let Process { stdin, stdout, stderr, resize, ended } = process;
    let (stop, stopped) = watch::channel(false);
    let outputs = async {
        tokio::join!(output(STDOUT, stdout, up, stopped.clone()), output(STDERR, stderr, up, stopped.clone()));
    };
    let input = input(stdin, resize, down);
    let code = async {
        let code = ended.await;
        let _ = stop.send(true);
        code
    };
    let process = async { tokio::join!(code, outputs).0 };
    tokio::select! {
        code = process => code.map_err(|error| Status::internal(format!("the command was lost: {error}"))),
        // Whoever asked has gone: the process finds its streams closed, and what it makes of that is its own business.
        () = input => Ok(0),
    }
}

/// Carries one output up until it ends, or the process has ended and nothing more is in it.
async fn output(channel: u32, from: Option<Reader>, up: &Up, mut stopped: watch::Receiver<bool>) {
    let Some(mut from) = from else { return };
    let mut part = vec![0; PART_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut part) => read,
            () = over(&mut stopped) => return,
        };
        let Ok(n_bytes @ 1..) = read else { return };
        let data = Bytes::copy_from_slice(&part[..n_bytes]);
        if up.send(TunnelData { id: String::new(), channel, data }).await.is_err() {
            return;
        }
    }
}

/// The process has ended, and since then there was time to read the rest.
async fn over(stopped: &mut watch::Receiver<bool>) {
    // The sender lives as long as we do.
    let _ = stopped.wait_for(|stopped| *stopped).await;
    tokio::time::sleep(REST_MAX).await;
}

/// Carries input down until the tunnel ends.
async fn input(
    mut stdin: Option<Writer>,
    resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
    down: &mut Streaming<TunnelData>,
) {
    while let Ok(Some(message)) = down.message().await {
        match message.channel {
            DATA => {
                if let Some(writer) = &mut stdin
                    && written(writer, &message.data).await.is_err()
                {
                    // It reads no more; the client goes on saying what nobody hears, as with any pipe.
                    stdin = None;
                }
            }
            RESIZE => {
                // Of several sizes only the last still counts.
                let sizes = serde_json::Deserializer::from_slice(&message.data).into_iter::<Resize>();
                if let (Some(resize), Some(size)) = (&resize, sizes.map_while(Result::ok).last()) {
                    resize(Size { columns: size.width, rows: size.height });
                }
            }
            ENDS => stdin = None,
            _ => {}
        }
    }
}

async fn written(writer: &mut Writer, data: &[u8]) -> io::Result<()> {
    writer.write_all(data).await?;
    writer.flush().await
}
