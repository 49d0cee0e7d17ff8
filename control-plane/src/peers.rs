//! Raft between servers, over gRPC on the one port.
//!
//! A stream a peer carries messages in order; Raft tolerates loss, so a peer that cannot be reached costs a bounded queue
//! and nothing else. Snapshots travel in chunks beside it, from the sender's file into the receiver's.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use copepod_proto::peers::{
    PeerJoinReply, PeerJoinRequest, RaftClosed, RaftMessage, SnapshotChunk, SnapshotReply, peers_client::PeersClient,
    peers_server::Peers,
};
use copepod_replica::{Member, Replica, Sent, SnapshotError, Transport};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

use crate::{admission::Admission, links::Links};

/// Batches of messages that may wait for a slow peer. Beyond it they are dropped and Raft sends them again.
const PEER_QUEUE: usize = 1024;

/// Small enough for gRPC's default limit, large enough to fill a link.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Chunks read and not sent yet, or arrived and not written yet: enough that disk and network work side by side.
const CHUNKS_AHEAD: usize = 4;

/// The largest snapshot accepted from a peer; a store beyond it is not what this design is for.
const SNAPSHOT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Raft messages may carry a batch of entries; above the default of 4 MiB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// The sending side, as the replica uses it.
pub struct PeerTransport {
    links: Links,
    runtime: tokio::runtime::Handle,
    peers: Mutex<BTreeMap<u64, Peer>>,
}

struct Peer {
    address: String,
    queue: mpsc::Sender<Vec<Bytes>>,
}

impl PeerTransport {
    /// To be called within a tokio runtime, on which the streams will run.
    pub fn new(links: Links) -> PeerTransport {
        PeerTransport { links, runtime: tokio::runtime::Handle::current(), peers: Mutex::default() }
    }

    fn queue(&self, to: &Member) -> mpsc::Sender<Vec<Bytes>> {
        let mut peers = self.peers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match peers.get(&to.id) {
            Some(peer) if peer.address == to.address => peer.queue.clone(),
            _ => {
                // Dropping the old queue ends the task that served the old address.
                let (queue, messages) = mpsc::channel(PEER_QUEUE);
                self.runtime.spawn(stream_to(self.links.clone(), to.clone(), messages));
                peers.insert(to.id, Peer { address: to.address.clone(), queue: queue.clone() });
                queue
            }
        }
    }
}

impl Transport for PeerTransport {
    fn send(&self, to: &Member, messages: Vec<Bytes>) {
        if self.queue(to).try_send(messages).is_err() {
            tracing::trace!(peer = to.name, "dropped Raft messages: the peer is slow or away");
        }
    }

    fn send_snapshot(
        &self,
        to: &Member,
        message: Bytes,
        data: Box<dyn Read + Send>,
        done: Box<dyn FnOnce(Sent) + Send>,
    ) {
        let (links, to) = (self.links.clone(), to.clone());
        self.runtime.spawn(async move {
            let outcome = snapshot_to(&links, &to, message, data).await;
            if let Err(error) = &outcome {
                tracing::warn!(peer = to.name, %error, "a snapshot did not arrive");
            }
            done(match outcome {
                Ok(()) => Sent::Arrived,
                Err(status) if status.code() == Code::DataLoss => Sent::Damaged,
                Err(_) => Sent::Lost,
            });
        });
    }
}

/// Nobody is dialled to whom nothing is to be said: a server that was removed may be gone for good.
async fn stream_to(links: Links, to: Member, mut messages: mpsc::Receiver<Vec<Bytes>>) {
    let mut pause = RECONNECT_MIN;
    while let Some(first) = messages.recv().await {
        let mut client = client(links.channel(&to.address));
        let (outbox, outbound) = mpsc::channel::<RaftMessage>(16);
        let call = client.raft(ReceiverStream::new(outbound));
        tokio::pin!(call);
        let mut next = Some(first);
        let mut began = false;
        loop {
            // The call is looked at whatever else waits: while it connects nobody takes from the outbox, and when that
            // fails nobody ever will.
            tokio::select! {
                ended = &mut call => {
                    if let Err(status) = ended {
                        tracing::debug!(peer = to.name, status = status.message(), "the stream to a peer ended");
                    }
                    break;
                }
                room = outbox.reserve(), if next.is_some() => match (room, next.take()) {
                    (Ok(room), Some(messages)) => room.send(RaftMessage { messages }),
                    _ => break,
                },
                batch = messages.recv(), if next.is_none() => {
                    let Some(batch) = batch else { return };
                    began = true;
                    next = Some(batch);
                }
            }
        }
        pause = if began { RECONNECT_MIN } else { (pause * 2).min(RECONNECT_MAX) };
        tokio::time::sleep(pause).await;
    }
}

async fn snapshot_to(links: &Links, to: &Member, message: Bytes, data: Box<dyn Read + Send>) -> Result<(), Status> {
    // Read as it is sent: a state may be larger than what memory has left.
    let (outbox, outbound) = mpsc::channel(CHUNKS_AHEAD);
    let reading = tokio::task::spawn_blocking(move || read_chunks(message, data, &outbox));
    client(links.channel(&to.address)).snapshot(ReceiverStream::new(outbound)).await?;
    reading.await.map_err(|error| Status::internal(error.to_string()))
}

fn read_chunks(mut message: Bytes, mut data: Box<dyn Read + Send>, outbox: &mpsc::Sender<SnapshotChunk>) {
    let mut checksum = 0;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        // A file that cannot be read ends the stream before its last chunk, and so nothing arrives.
        let Ok(n_read) = data.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk) else { return };
        checksum = copepod_replica::crc32c_append(checksum, &chunk);
        let last = n_read < CHUNK_BYTES;
        let chunk = SnapshotChunk {
            message: std::mem::take(&mut message),
            data: chunk.into(),
            checksum: if last { checksum } else { 0 },
            last,
        };
        if outbox.blocking_send(chunk).is_err() || last {
            return;
        }
    }
}

fn client(channel: Channel) -> PeersClient<Channel> {
    PeersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The receiving side.
pub struct PeerFront {
    pub replica: Replica,
    pub admission: Arc<Admission>,
}

impl PeerFront {
    pub fn service(self) -> copepod_proto::peers::peers_server::PeersServer<PeerFront> {
        copepod_proto::peers::peers_server::PeersServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Peers for PeerFront {
    async fn join(&self, request: Request<PeerJoinRequest>) -> Result<Response<PeerJoinReply>, Status> {
        let request = request.into_inner();
        self.admission.server(request).await.map(Response::new)
    }

    async fn raft(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<RaftClosed>, Status> {
        only_servers(&request)?;
        let mut messages = request.into_inner();
        while let Some(batch) = messages.message().await? {
            self.replica.receive(batch.messages);
        }
        Ok(Response::new(RaftClosed {}))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<SnapshotReply>, Status> {
        only_servers(&request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::data_loss("a snapshot without chunks"))?;
        let message = first.message.clone();
        let (inbox, arriving) = mpsc::channel(CHUNKS_AHEAD);
        let replica = self.replica.clone();
        // Decoded and written to disk as it arrives, on a thread that may wait for both.
        let taking = tokio::task::spawn_blocking(move || {
            let mut data = Arriving { chunks: arriving, rest: Bytes::new(), has_ended: false };
            replica.receive_snapshot(message, &mut data).map_err(refusal)
        });
        let fed = feed(first, &mut chunks, inbox).await;
        let taken = taking.await.map_err(|error| Status::internal(error.to_string()))?;
        fed?;
        taken?;
        Ok(Response::new(SnapshotReply {}))
    }
}

/// The sender writes a damaged one anew.
fn refusal(error: SnapshotError) -> Status {
    match error {
        SnapshotError::Io(error) => Status::unavailable(error.to_string()),
        damaged => Status::data_loss(damaged.to_string()),
    }
}

/// Hands the chunks on; an error leaves the reader without an end, so that nothing is taken over.
async fn feed(
    first: SnapshotChunk,
    chunks: &mut Streaming<SnapshotChunk>,
    inbox: mpsc::Sender<Option<Bytes>>,
) -> Result<(), Status> {
    let (mut n_bytes, mut checksum) = (0, 0);
    let mut next = Some(first);
    while let Some(chunk) = next {
        n_bytes += chunk.data.len() as u64;
        if n_bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::resource_exhausted("the snapshot is larger than this server accepts"));
        }
        checksum = copepod_replica::crc32c_append(checksum, &chunk.data);
        if chunk.last && checksum != chunk.checksum {
            return Err(Status::data_loss("the snapshot's checksum does not match"));
        }
        // Who does not want it any more says why itself.
        let is_wanted = inbox.send(Some(chunk.data)).await.is_ok();
        if chunk.last || !is_wanted {
            let _ = inbox.send(None).await;
            return Ok(());
        }
        next = chunks.message().await?;
    }
    Err(Status::data_loss("the snapshot ended before its last chunk"))
}

/// Chunks that arrive, as a reader. `None` is the end; that nobody sends any more is not.
struct Arriving {
    chunks: mpsc::Receiver<Option<Bytes>>,
    rest: Bytes,
    has_ended: bool,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.has_ended && !into.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.rest = chunk,
                Some(None) => self.has_ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let length = self.rest.len().min(into.len());
        into[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

fn only_servers<T>(request: &Request<T>) -> Result<(), Status> {
    let user = request.extensions().get::<copepod_api::User>();
    if user.is_some_and(|user| user.is_in(copepod_identity::SERVERS_GROUP)) {
        return Ok(());
    }
    Err(Status::permission_denied("only servers of this cluster speak Raft"))
}

#[cfg(test)]
mod tests {
    use copepod_api::Timestamp;
    use copepod_identity::Authority;

    use super::*;

    /// A server that starts, or one behind a network that drops everything: its port takes connections and says nothing.
    #[tokio::test]
    async fn a_peer_that_does_not_answer_is_dialled_again_however_much_waits_for_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let authority = Authority::create(Timestamp::now()).unwrap();
        let issued = authority.issue_server("s1", "localhost", Timestamp::now()).unwrap();
        let links = Links::new(authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem);
        let transport = PeerTransport::new(links);
        let peer = Member { id: 2, name: "s2".to_owned(), address, learner: false };
        let say = async {
            loop {
                transport.send(&peer, vec![Bytes::from_static(b"heartbeat")]);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let dialled_twice = async {
            let _first = listener.accept().await.unwrap();
            listener.accept().await.unwrap();
        };
        tokio::select! {
            () = say => (),
            dialled = tokio::time::timeout(Duration::from_secs(60), dialled_twice) => dialled.expect("dialled again"),
        }
    }
}
