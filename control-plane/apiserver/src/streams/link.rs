//! Tunnels and WebSockets as plain streams of bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{Sink, SinkExt, StreamExt, future::ready as now};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::{ENDS, ERROR, Frame, Link, STDIN};

/// A connection, whatever carries it.
pub trait Connection: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Connection for T {}

impl Link {
    /// The connection at the other end of a tunnel that carries one.
    pub fn into_connection(self) -> impl Connection + Unpin + 'static {
        let bytes = self.from_node.scan(false, |is_over, frame| {
            let piece = match frame {
                _ if *is_over => None,
                Ok(Frame { channel: ENDS, .. }) => None,
                Ok(Frame { channel: ERROR, data }) => {
                    Some(Err(io::Error::other(String::from_utf8_lossy(&data).into_owned())))
                }
                Ok(frame) => Some(Ok(frame.data)),
                Err(status) => Some(Err(io::Error::other(status.message().to_owned()))),
            };
            *is_over = !matches!(piece, Some(Ok(_)));
            now(piece)
        });
        let sink = Ending { inner: self.to_node, end: Some(Frame { channel: ENDS, data: Bytes::new() }) };
        tokio::io::join(StreamReader::new(Box::pin(bytes)), SinkWriter::new(CopyToBytes::new(sink)))
    }
}

/// A sink that says when nothing more follows, and stays open for what still comes the other way.
struct Ending<S> {
    inner: S,
    end: Option<Frame>,
}

impl<S: Sink<Frame> + Unpin> Sink<Bytes> for Ending<S> {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready_unpin(context).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn start_send(mut self: Pin<&mut Self>, data: Bytes) -> io::Result<()> {
        let frame = Frame { channel: STDIN, data };
        self.inner.start_send_unpin(frame).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_flush_unpin(context).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_some() {
            ready!(self.as_mut().poll_ready(context))?;
            if let Some(end) = self.end.take() {
                self.inner.start_send_unpin(end).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            }
        }
        self.poll_flush(context)
    }
}

/// What binary messages carry, one after the other.
pub fn of_websocket(socket: WebSocket) -> impl Connection + 'static {
    let (to_client, from_client) = socket.split();
    let bytes = from_client.filter_map(|message| {
        now(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Message::Text(_)) => Some(Err(io::Error::other("a text among binary messages"))),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let sink = to_client.with(|bytes: Bytes| now(Ok::<_, axum::Error>(Message::Binary(bytes))));
    let sink = sink.sink_map_err(io::Error::other);
    tokio::io::join(StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(sink)))
}
