//! A command's streams, over WebSocket (`v5.channel.k8s.io`): a message is a byte that names a channel, and bytes.

use std::io::Write;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::{Client, Socket, refused},
    failure::{Failure, Outcome},
};

const PROTOCOL: &str = "v5.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What waits to be sent.
pub const QUEUE: usize = 4;

/// What is said to a command.
pub enum Said {
    Stdin(Bytes),
    StdinEnds,
    Resize { columns: u16, rows: u16 },
}

pub struct Remote(Socket);

impl Remote {
    pub async fn open(client: &Client, path: &str) -> Outcome<Remote> {
        client.websocket(path, PROTOCOL).await?.map(Remote).map_err(|status| refused(&status))
    }

    /// Carries both directions until the command has ended; its exit code.
    pub async fn carry(
        self,
        mut said: mpsc::Receiver<Said>,
        mut stdout: impl Write,
        mut stderr: impl Write,
    ) -> Outcome<i32> {
        let (mut to_server, mut from_server) = self.0.split();
        let up = async {
            while let Some(said) = said.recv().await {
                let message = match said {
                    Said::Stdin(data) => [&[STDIN], data.as_ref()].concat(),
                    Said::StdinEnds => vec![CLOSE, STDIN],
                    Said::Resize { columns, rows } => {
                        let size = json!({"Width": columns, "Height": rows}).to_string();
                        [&[RESIZE], size.as_bytes()].concat()
                    }
                };
                if to_server.send(Message::binary(message)).await.is_err() {
                    break;
                }
            }
            // The command may still have something to say.
            std::future::pending::<()>().await;
        };
        let down = async {
            while let Some(message) = from_server.next().await {
                let bytes = match message {
                    Ok(Message::Binary(bytes)) => bytes,
                    Ok(Message::Close(_)) | Err(_) => break,
                    Ok(_) => continue,
                };
                let Some((channel, data)) = bytes.split_first() else { continue };
                let written = match *channel {
                    STDOUT => stdout.write_all(data).and_then(|()| stdout.flush()),
                    STDERR => stderr.write_all(data).and_then(|()| stderr.flush()),
                    ERROR if !data.is_empty() => return outcome(data),
                    _ => Ok(()),
                };
                // A reader that has seen enough, such as `head`, is no failure.
                if written.is_err() {
                    return Ok(0);
                }
            }
            Err(Failure::new("the connection broke before the command ended"))
        };
        tokio::select! {
            () = up => Ok(0),
            code = down => code,
        }
    }
}

/// The exit code in a Status.
fn outcome(status: &[u8]) -> Outcome<i32> {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(Failure::new(status["message"].as_str().unwrap_or("the command failed").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_command_ended_is_read_from_a_status() {
        let code = |status: Value| outcome(status.to_string().as_bytes()).map_err(|failure| failure.message);
        assert_eq!(code(json!({"status": "Success"})), Ok(0));
        let causes = json!([{"reason": "ExitCode", "message": "7"}]);
        assert_eq!(code(json!({"status": "Failure", "details": {"causes": causes}})), Ok(7));
        assert_eq!(code(json!({"status": "Failure", "message": "no such file"})), Err("no such file".to_owned()));
        assert!(outcome(b"nonsense").is_err());
    }
}
