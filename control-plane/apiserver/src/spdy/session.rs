//! A connection and its streams, from the server's side.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_util::sync::PollSender;

use super::{
    frame::{self, Broken, Control, HEAD_BYTES, Head, Status},
    headers::{Headers, Packer, Unpacker},
};

/// How many streams a client may have at once: two for each connection to a port, five for a command.
const STREAMS_MAX: usize = 256;

/// How much of a data frame is taken at once, however long it is.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// How many pieces wait for a stream that is not read on before the whole connection waits.
const PIECES_MAX: usize = 16;

/// How many frames wait to be sent.
const OUTBOX: usize = 8;

/// Streams that were opened and not looked at yet.
const OPENED: usize = 16;

enum Send {
    Reply(u32),
    Data {
        stream: u32,
        is_last: bool,
        bytes: Bytes,
    },
    Reset(u32, Status),
    Ping(u32),
    Window(u32, u32),
    /// Nothing follows.
    GoAway,
}

/// A connection. Streams end when it is dropped.
pub struct Session {
    opened: mpsc::Receiver<Stream>,
    outbox: mpsc::Sender<Send>,
    reader: AbortHandle,
    writer: tokio::task::JoinHandle<()>,
}

/// A stream that the client has opened.
pub struct Stream {
    pub headers: Headers,
    id: u32,
    inbox: mpsc::Receiver<Bytes>,
    /// What was received and not read yet.
    held: Bytes,
    outbox: PollSender<Send>,
    is_ended: bool,
}

impl Session {
    /// Speaks SPDY on a connection that was switched to it.
    pub fn new(connection: impl AsyncRead + AsyncWrite + std::marker::Send + 'static) -> Result<Session, Broken> {
        let (read, write) = tokio::io::split(connection);
        let (outbox, to_send) = mpsc::channel(OUTBOX);
        let (found, opened) = mpsc::channel(OPENED);
        let last = Arc::new(AtomicU32::new(0));
        let writer = Writer { packer: Packer::new()?, last: last.clone() };
        let reader =
            Reader { unpacker: Unpacker::new(), streams: BTreeMap::new(), outbox: outbox.clone(), opened: found, last };
        let writer = tokio::spawn(async move {
            if let Err(error) = writer.run(write, to_send).await {
                tracing::debug!(%error, "a SPDY connection cannot be written to");
            }
        });
        let reader = tokio::spawn(async move {
            if let Err(error) = reader.run(read).await {
                tracing::debug!(%error, "a SPDY connection is broken off");
            }
        });
        Ok(Session { opened, outbox, reader: reader.abort_handle(), writer })
    }

    /// The next stream; none when the client has gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Says goodbye after everything that was said before, and waits until the client has hung up.
    pub async fn close(mut self) {
        let _ = self.outbox.send(Send::GoAway).await;
        let _ = (&mut self.writer).await;
        while let Some(stream) = self.opened.recv().await {
            drop(stream);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

struct Writer {
    packer: Packer,
    last: Arc<AtomicU32>,
}

impl Writer {
    async fn run(
        mut self,
        mut connection: impl AsyncWrite + Unpin,
        mut to_send: mpsc::Receiver<Send>,
    ) -> io::Result<()> {
        let mut head = BytesMut::new();
        while let Some(next) = to_send.recv().await {
            let mut body = Bytes::new();
            let mut is_over = false;
            match next {
                Send::Reply(stream) => {
                    let headers = self.packer.pack(&Headers::new()).map_err(io::Error::other)?;
                    frame::reply(&mut head, stream, &headers);
                }
                Send::Data { stream, is_last, bytes } => {
                    frame::data(&mut head, stream, is_last, bytes.len());
                    body = bytes;
                }
                Send::Reset(stream, status) => frame::reset(&mut head, stream, status),
                Send::Ping(id) => frame::ping(&mut head, id),
                Send::Window(stream, n_bytes) => frame::window_update(&mut head, stream, n_bytes),
                Send::GoAway => {
                    frame::go_away(&mut head, self.last.load(Ordering::Relaxed));
                    is_over = true;
                }
            }
            connection.write_all(&head).await?;
            connection.write_all(&body).await?;
            head.clear();
            if is_over || to_send.is_empty() {
                connection.flush().await?;
            }
            if is_over {
                return connection.shutdown().await;
            }
        }
        Ok(())
    }
}

struct Reader {
    unpacker: Unpacker,
    /// Those that the client may still say something on.
    streams: BTreeMap<u32, mpsc::Sender<Bytes>>,
    outbox: mpsc::Sender<Send>,
    opened: mpsc::Sender<Stream>,
    last: Arc<AtomicU32>,
}

impl Reader {
    async fn run(mut self, mut connection: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut payload = Vec::new();
        loop {
            let mut head = [0; HEAD_BYTES];
            match connection.read_exact(&mut head).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            match Head::parse(head).map_err(io::Error::other)? {
                Head::Data { stream, is_last, length } => {
                    self.data(&mut connection, stream, is_last, length as usize).await?;
                }
                Head::Control { kind, flags, length } => {
                    payload.resize(length as usize, 0);
                    connection.read_exact(&mut payload).await?;
                    let control = Control::parse(kind, flags, &payload).map_err(io::Error::other)?;
                    if !self.control(control).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Hands the bytes of a data frame over as they come.
    async fn data(
        &mut self,
        connection: &mut (impl AsyncRead + Unpin),
        stream: u32,
        is_last: bool,
        length: usize,
    ) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE_BYTES_MAX)];
            connection.read_exact(&mut piece).await?;
            left -= piece.len();
            // What nobody reads any more is thrown away.
            if let Some(inbox) = self.streams.get(&stream) {
                let _ = inbox.send(piece.into()).await;
            }
        }
        if length > 0 {
            // Of the stream and of the connection. Length has 24 bits.
            self.say(Send::Window(stream, length as u32)).await?;
            self.say(Send::Window(0, length as u32)).await?;
        }
        if is_last {
            self.streams.remove(&stream);
        }
        Ok(())
    }

    /// False when the client says that it goes.
    async fn control(&mut self, control: Control<'_>) -> io::Result<bool> {
        match control {
            Control::Open { stream, is_last, headers } => {
                let headers = self.unpacker.unpack(headers).map_err(io::Error::other)?;
                self.open(stream, is_last, headers).await?;
            }
            Control::More { stream, is_last, headers } => {
                self.unpacker.unpack(headers).map_err(io::Error::other)?;
                if is_last {
                    self.streams.remove(&stream);
                }
            }
            Control::Reset { stream } => drop(self.streams.remove(&stream)),
            // Even ones are ours, and we ask none.
            Control::Ping { id } if !id.is_multiple_of(2) => self.say(Send::Ping(id)).await?,
            Control::Ping { .. } | Control::Nothing => {}
            Control::GoAway => return Ok(false),
        }
        Ok(true)
    }

    async fn open(&mut self, id: u32, is_last: bool, headers: Headers) -> io::Result<()> {
        // A client's streams have odd numbers that only grow.
        if id.is_multiple_of(2) || id <= self.last.load(Ordering::Relaxed) {
            return Err(io::Error::other(Broken("a stream with a number that it cannot have")));
        }
        self.last.store(id, Ordering::Relaxed);
        self.streams.retain(|_, inbox| !inbox.is_closed());
        if self.streams.len() >= STREAMS_MAX {
            return self.say(Send::Reset(id, Status::Refused)).await;
        }
        let (sender, inbox) = mpsc::channel(PIECES_MAX);
        if !is_last {
            self.streams.insert(id, sender);
        }
        self.say(Send::Reply(id)).await?;
        let outbox = PollSender::new(self.outbox.clone());
        let stream = Stream { headers, id, inbox, held: Bytes::new(), outbox, is_ended: false };
        self.opened.send(stream).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn say(&self, what: Send) -> io::Result<()> {
        self.outbox.send(what).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Stream {
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    fn poll_say(&mut self, context: &mut Context<'_>, what: impl FnOnce(u32) -> Send) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outbox.poll_reserve(context)).map_err(gone)?;
        Poll::Ready(self.outbox.send_item(what(self.id)).map_err(gone))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            match ready!(self.inbox.poll_recv(context)) {
                Some(piece) => self.held = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n_bytes = self.held.len().min(out.remaining());
        out.put_slice(&self.held.split_to(n_bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        let said = |stream| Send::Data { stream, is_last: false, bytes: Bytes::copy_from_slice(bytes) };
        ready!(self.poll_say(context, said))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_ended {
            ready!(self.poll_say(context, |stream| Send::Data { stream, is_last: true, bytes: Bytes::new() }))?;
            self.is_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_ended
            && let Some(outbox) = self.outbox.get_ref()
        {
            // Where there is no room for this, the connection is on its way down.
            let _ = outbox.try_send(Send::Reset(self.id, Status::Cancel));
        }
    }
}
