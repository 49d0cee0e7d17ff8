//! A command's streams between a client and a tunnel.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use copepod_api::Status;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    ENDS, ERROR, ExecQuery, Frame, Link, RESIZE, STDERR, STDIN, STDOUT,
    websocket::{Dialect, Said},
};
use crate::spdy::{Session, Stream};

/// How much goes through a tunnel at once: what waits on the way is counted in pieces.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// How long a client may take to hear the end.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// The streams that a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Streams {
    pub fn of(wish: &ExecQuery) -> Streams {
        Streams { stdin: wish.stdin, stdout: wish.stdout, stderr: wish.stderr, tty: wish.tty }
    }

    fn wants(self, channel: u8) -> bool {
        match channel {
            STDOUT => self.stdout,
            STDERR => self.stderr,
            _ => false,
        }
    }
}

/// Carries both directions until the command or the client has ended.
pub async fn over_websocket(socket: WebSocket, link: Link, streams: Streams) {
    let protocol = socket.protocol().and_then(|name| name.to_str().ok()).unwrap_or_default();
    let dialect = Dialect::named(protocol);
    let (mut to_client, mut from_client) = socket.split();
    let Link { mut from_node, mut to_node } = link;
    // Tells the client that it is connected.
    let lowest = [(STDOUT, streams.stdout), (STDERR, streams.stderr)].into_iter().find(|(_, wanted)| *wanted);
    let hello = Frame { channel: lowest.map_or(ERROR, |(channel, _)| channel), data: Bytes::new() };
    if to_client.send(dialect.write(&hello)).await.is_err() {
        return;
    }
    let up = async {
        while let Some(message) = from_node.next().await {
            let frame = message.unwrap_or_else(|status| ended(&status));
            if frame.channel == ERROR {
                return Some(frame.data);
            }
            if streams.wants(frame.channel) && to_client.send(dialect.write(&frame)).await.is_err() {
                return None;
            }
        }
        Some(ended(&Status::internal("the node ended the stream without saying why")).data)
    };
    let down = down(&mut from_client, &mut to_node, dialect, streams);
    let last = tokio::select! {
        last = up => last,
        () = down => None,
    };
    if let Some(last) = last {
        let _ = tokio::time::timeout(FAREWELL_MAX, farewell(&mut to_client, &mut from_client, dialect, last)).await;
    }
}

async fn down(
    from_client: &mut SplitStream<WebSocket>,
    to_node: &mut (impl futures::Sink<Frame> + Unpin),
    dialect: Dialect,
    streams: Streams,
) {
    while let Some(Ok(message)) = from_client.next().await {
        let sent = match dialect.read(message) {
            Ok(Some(Said::Piece(frame))) if frame.channel == STDIN && streams.stdin => send(to_node, frame).await,
            Ok(Some(Said::Piece(frame))) if frame.channel == RESIZE && streams.tty => send(to_node, frame).await,
            Ok(Some(Said::End(STDIN))) => send(to_node, Frame { channel: ENDS, data: Bytes::new() }).await,
            Ok(Some(Said::Everything)) => return,
            // What was not asked for is not heard.
            Ok(_) => true,
            Err(why) => {
                tracing::debug!(why, "a client's stream is broken off");
                return;
            }
        };
        if !sent {
            return;
        }
    }
}

/// Sends a frame in pieces.
pub async fn send(to_node: &mut (impl futures::Sink<Frame> + Unpin), mut frame: Frame) -> bool {
    loop {
        let data = frame.data.split_to(frame.data.len().min(PIECE_BYTES_MAX));
        if to_node.send(Frame { channel: frame.channel, data }).await.is_err() {
            return false;
        }
        if frame.data.is_empty() {
            return true;
        }
    }
}

/// The protocols over SPDY, and their versions.
pub const SPDY_PROTOCOLS: [(&str, u8); 4] =
    [("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];

/// How long a client may take to open its streams.
const STREAMS_OPEN_MAX: Duration = Duration::from_secs(30);

/// How much is read from a stream at once.
const READ_BYTES: usize = 16 << 10;

/// The same over SPDY, where each channel is a stream that the client opens.
pub async fn over_spdy(mut session: Session, link: Link, streams: Streams, version: u8) {
    let opened = tokio::time::timeout(STREAMS_OPEN_MAX, Opened::all(&mut session, streams, version)).await;
    let Ok(Some(opened)) = opened else { return };
    let Opened { errors: Some(mut errors), stdin, mut stdout, mut stderr, resize } = opened else { return };
    let Link { mut from_node, to_node } = link;
    let up = async {
        while let Some(message) = from_node.next().await {
            let frame = message.unwrap_or_else(|status| ended(&status));
            let stream = match frame.channel {
                ERROR => return frame.data,
                STDOUT => stdout.as_mut(),
                STDERR => stderr.as_mut(),
                _ => None,
            };
            if let Some(stream) = stream {
                // A client that hears one stream no more may hear the others.
                let _ = stream.write_all(&frame.data).await;
            }
        }
        ended(&Status::internal("the node ended the stream without saying why")).data
    };
    let to_node = tokio::sync::Mutex::new(to_node);
    let down = async {
        tokio::join!(carry_down(stdin, STDIN, &to_node), carry_down(resize, RESIZE, &to_node));
        std::future::pending::<()>().await;
    };
    let last = tokio::select! {
        last = up => last,
        () = down => return,
        // Nothing more is opened; this ends when the client goes.
        () = async { while session.accept().await.is_some() {} } => return,
    };
    let farewell = async {
        for stream in [&mut stdout, &mut stderr].into_iter().flatten() {
            let _ = stream.shutdown().await;
        }
        let _ = errors.write_all(&last_word(version, last)).await;
        let _ = errors.shutdown().await;
        session.close().await;
    };
    let _ = tokio::time::timeout(FAREWELL_MAX, farewell).await;
}

/// The streams of a command, as the client opens them.
#[derive(Default)]
struct Opened {
    errors: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Opened {
    /// Waits for all that were asked for.
    async fn all(session: &mut Session, streams: Streams, version: u8) -> Option<Opened> {
        let mut opened = Opened::default();
        let wants_resize = streams.tty && version >= 3;
        let is_whole = |opened: &Opened| {
            opened.errors.is_some()
                && opened.stdin.is_some() == streams.stdin
                && opened.stdout.is_some() == streams.stdout
                && opened.stderr.is_some() == streams.stderr
                && opened.resize.is_some() == wants_resize
        };
        while !is_whole(&opened) {
            let stream = session.accept().await?;
            let place = match stream.header("streamtype") {
                "error" => &mut opened.errors,
                "stdin" if streams.stdin => &mut opened.stdin,
                "stdout" if streams.stdout => &mut opened.stdout,
                "stderr" if streams.stderr => &mut opened.stderr,
                "resize" if wants_resize => &mut opened.resize,
                // Dropped, it is reset.
                _ => continue,
            };
            *place = Some(stream);
        }
        Some(opened)
    }
}

/// Carries what a stream says down a channel; its end, where it is the input.
async fn carry_down<S: futures::Sink<Frame> + Unpin>(
    stream: Option<Stream>,
    channel: u8,
    to_node: &tokio::sync::Mutex<S>,
) {
    let Some(mut stream) = stream else { return };
    let mut part = vec![0; READ_BYTES];
    while let Ok(n_bytes @ 1..) = stream.read(&mut part).await {
        let data = Bytes::copy_from_slice(&part[..n_bytes]);
        if to_node.lock().await.send(Frame { channel, data }).await.is_err() {
            return;
        }
    }
    if channel == STDIN {
        let _ = to_node.lock().await.send(Frame { channel: ENDS, data: Bytes::new() }).await;
    }
}

/// Says how it ended, and waits until the client has heard it.
async fn farewell(
    to_client: &mut SplitSink<WebSocket, Message>,
    from_client: &mut SplitStream<WebSocket>,
    dialect: Dialect,
    status: Bytes,
) {
    let data = last_word(dialect.version, status);
    if !data.is_empty() {
        let _ = to_client.send(dialect.write(&Frame { channel: ERROR, data })).await;
    }
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = to_client.send(Message::Close(Some(close))).await;
    while let Some(Ok(_)) = from_client.next().await {}
}

/// From version 4 on a Status; before it, text, and nothing where nothing went wrong.
pub fn last_word(version: u8, status: Bytes) -> Bytes {
    if version >= 4 {
        return status;
    }
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap_or_default();
    match (status["status"].as_str(), status["message"].as_str()) {
        (Some("Failure"), Some(message)) => Bytes::from(message.to_owned()),
        _ => Bytes::new(),
    }
}

fn ended(status: &Status) -> Frame {
    Frame { channel: ERROR, data: status.to_value().to_string().into() }
}
