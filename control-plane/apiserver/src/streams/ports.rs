//! Connections to ports of a pod.

use std::{collections::BTreeMap, io, sync::Arc};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    ENDS, ERROR, ForwardQuery, Frame, remote,
    websocket::{Dialect, Said},
};
use crate::{
    Tunnels,
    spdy::{Session, Stream},
};

/// Halves of pairs that wait for the other; clients open both at once.
const HALVES_MAX: usize = 64;

/// How many ports one WebSocket may carry: each has two channels, and a channel is a byte.
pub const PORTS_MAX: usize = 64;

/// Pieces on their way to a port of a WebSocket that is not read on.
const PIECES_MAX: usize = 16;

/// The longest reason that is told.
const REASON_BYTES_MAX: usize = 4096;

/// Where the ports are.
#[derive(Clone)]
pub struct Target {
    pub tunnels: Arc<dyn Tunnels>,
    pub query: ForwardQuery,
}

impl Target {
    fn at(&self, port: u16) -> ForwardQuery {
        ForwardQuery { port, ..self.query.clone() }
    }

    fn failed(&self, port: u16, why: &str) -> String {
        let mut text = format!("error forwarding port {port} to pod {}, uid {}: {why}", self.query.pod, self.query.uid);
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text
    }
}

/// Serves pairs of streams: one for the bytes, and one for what goes wrong.
pub async fn over_spdy(mut session: Session, target: Target) {
    let mut halves: BTreeMap<String, Stream> = BTreeMap::new();
    let mut connections = JoinSet::new();
    while let Some(stream) = session.accept().await {
        while connections.try_join_next().is_some() {}
        let is_error = match stream.header("streamtype") {
            "error" => true,
            "data" => false,
            // Dropped, it is reset.
            _ => continue,
        };
        let Some(port) = stream.header("port").parse::<u16>().ok().filter(|port| *port > 0) else { continue };
        // Old clients do not number their requests: a data stream follows its error stream.
        let request = match stream.header("requestid") {
            "" if is_error => format!("#{}", stream.id()),
            "" => format!("#{}", stream.id().saturating_sub(2)),
            request => request.to_owned(),
        };
        match halves.remove(&request) {
            Some(other) => {
                let (errors, data) = if is_error { (stream, other) } else { (other, stream) };
                connections.spawn(connect(target.clone(), port, errors, data));
            }
            None if halves.len() < HALVES_MAX => drop(halves.insert(request, stream)),
            None => return,
        }
    }
}

async fn connect(target: Target, port: u16, mut errors: Stream, mut data: Stream) {
    match target.tunnels.forward(target.at(port)).await {
        Ok(link) => {
            let mut connection = link.into_connection();
            match tokio::io::copy_bidirectional(&mut data, &mut connection).await {
                Ok(_) => {}
                // The client has gone, which it knows.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => {
                    let _ = errors.write_all(target.failed(port, &error.to_string()).as_bytes()).await;
                }
            }
        }
        Err(status) => {
            let _ = errors.write_all(target.failed(port, status.message()).as_bytes()).await;
        }
    }
    let _ = data.shutdown().await;
    let _ = errors.shutdown().await;
}

type Outbound = Arc<Mutex<SplitSink<WebSocket, Message>>>;

/// Serves ports that were named beforehand, each with two channels: one for the bytes, and one for what goes wrong. Each
/// channel begins with its port.
pub async fn over_websocket(socket: WebSocket, target: Target, ports: Vec<u16>) {
    let protocol = socket.protocol().and_then(|name| name.to_str().ok()).unwrap_or_default();
    let dialect = Dialect::named(protocol);
    let (to_client, mut from_client) = socket.split();
    let to_client = Arc::new(Mutex::new(to_client));
    let mut inboxes = Vec::new();
    let mut connections = JoinSet::new();
    for (place, port) in ports.into_iter().enumerate() {
        let (sender, inbox) = mpsc::channel(PIECES_MAX);
        inboxes.push(sender);
        let side = Side { dialect, to_client: to_client.clone(), channel: (2 * place) as u8 };
        connections.spawn(serve(target.clone(), port, side, inbox));
    }
    let heard = async {
        while let Some(Ok(message)) = from_client.next().await {
            match dialect.read(message) {
                Ok(Some(Said::Piece(Frame { channel, data }))) if channel % 2 == 0 => {
                    let Some(inbox) = inboxes.get(usize::from(channel / 2)) else { return };
                    // What a port does not take any more is thrown away.
                    let _ = inbox.send(data).await;
                }
                Ok(Some(Said::Everything)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::select! {
        () = heard => return,
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
    let _ = to_client.lock().await.close().await;
}

/// One port's place on a WebSocket.
struct Side {
    dialect: Dialect,
    to_client: Outbound,
    channel: u8,
}

impl Side {
    async fn say(&self, channel: u8, data: Bytes) -> bool {
        let message = self.dialect.write(&Frame { channel, data });
        self.to_client.lock().await.send(message).await.is_ok()
    }
}

async fn serve(target: Target, port: u16, side: Side, mut inbox: mpsc::Receiver<Bytes>) {
    let named = Bytes::copy_from_slice(&port.to_le_bytes());
    if !side.say(side.channel, named.clone()).await || !side.say(side.channel + 1, named).await {
        return;
    }
    let why = match target.tunnels.forward(target.at(port)).await {
        Ok(mut link) => {
            let up = async {
                while let Some(frame) = link.from_node.next().await {
                    match frame {
                        Ok(Frame { channel: ERROR, data }) => return String::from_utf8_lossy(&data).into_owned(),
                        Ok(Frame { channel: ENDS, .. }) => break,
                        Ok(frame) => {
                            if !side.say(side.channel, frame.data).await {
                                break;
                            }
                        }
                        Err(status) => return status.message().to_owned(),
                    }
                }
                String::new()
            };
            let down = async {
                while let Some(data) = inbox.recv().await {
                    if !remote::send(&mut link.to_node, Frame { channel: super::STDIN, data }).await {
                        break;
                    }
                }
                // The pod may still have something to say.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                why = up => why,
                () = down => String::new(),
            }
        }
        Err(status) => status.message().to_owned(),
    };
    if !why.is_empty() {
        side.say(side.channel + 1, target.failed(port, &why).into()).await;
    }
}
