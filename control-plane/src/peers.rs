//! Raft between servers, over gRPC on the one port.
//!
//! A stream a peer carries messages in order; Raft tolerates loss, so a peer that cannot be reached costs a bounded queue
//! and nothing else. Snapshots travel in chunks beside it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use copepod_proto::peers::{
    PeerJoinReply, PeerJoinRequest, RaftClosed, RaftMessage, SnapshotChunk, SnapshotReply, peers_client::PeersClient,
    peers_server::Peers,
};
use copepod_replica::{Member, Replica, Transport};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::{admission::Admission, links::Links};

/// Batches of messages that may wait for a slow peer. Beyond it they are dropped and Raft sends them again.
const PEER_QUEUE: usize = 1024;

/// Small enough for gRPC's default limit, large enough to fill a link.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The largest snapshot accepted from a peer; a store beyond it is not what this design is for.
const SNAPSHOT_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;

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

    fn send_snapshot(&self, to: &Member, message: Bytes, data: Bytes, done: Box<dyn FnOnce(bool) + Send>) {
        let (links, to) = (self.links.clone(), to.clone());
        self.runtime.spawn(async move {
            let outcome = snapshot_to(&links, &to, message, data).await;
            if let Err(error) = &outcome {
                tracing::warn!(peer = to.name, %error, "a snapshot did not arrive");
            }
            done(outcome.is_ok());
        });
    }
}

async fn stream_to(links: Links, to: Member, mut messages: mpsc::Receiver<Vec<Bytes>>) {
    let mut pause = RECONNECT_MIN;
    while !messages.is_closed() || !messages.is_empty() {
        let mut client = client(links.channel(&to.address));
        let (outbox, outbound) = mpsc::channel::<RaftMessage>(16);
        let call = client.raft(ReceiverStream::new(outbound));
        tokio::pin!(call);
        let mut began = false;
        loop {
            tokio::select! {
                ended = &mut call => {
                    if let Err(status) = ended {
                        tracing::debug!(peer = to.name, status = status.message(), "the stream to a peer ended");
                    }
                    break;
                }
                batch = messages.recv() => {
                    let Some(batch) = batch else { return };
                    began = true;
                    let message = RaftMessage { messages: batch };
                    if outbox.send(message).await.is_err() {
                        break;
                    }
                }
            }
        }
        pause = if began { RECONNECT_MIN } else { (pause * 2).min(RECONNECT_MAX) };
        tokio::time::sleep(pause).await;
    }
}

async fn snapshot_to(links: &Links, to: &Member, message: Bytes, data: Bytes) -> Result<(), Status> {
    let checksum = crc32c(&data);
    let n_chunks = data.len().div_ceil(CHUNK_BYTES).max(1);
    let chunks = (0..n_chunks).map(move |place| {
        let from = place * CHUNK_BYTES;
        let last = place + 1 == n_chunks;
        SnapshotChunk {
            message: if place == 0 { message.clone() } else { Bytes::new() },
            data: data.slice(from..(from + CHUNK_BYTES).min(data.len())),
            checksum: if last { checksum } else { 0 },
            last,
        }
    });
    client(links.channel(&to.address)).snapshot(tokio_stream::iter(chunks)).await?;
    Ok(())
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
        let mut message = Bytes::new();
        let mut data = BytesMut::new();
        while let Some(chunk) = chunks.message().await? {
            if message.is_empty() {
                message = chunk.message;
            }
            if data.len() + chunk.data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("the snapshot is larger than this server accepts"));
            }
            data.extend_from_slice(&chunk.data);
            if chunk.last {
                if crc32c(&data) != chunk.checksum {
                    return Err(Status::data_loss("the snapshot's checksum does not match"));
                }
                let accepted = self.replica.receive_snapshot(message, data.freeze());
                accepted.map_err(|error| Status::failed_precondition(error.to_string()))?;
                return Ok(Response::new(SnapshotReply {}));
            }
        }
        Err(Status::data_loss("the snapshot ended before its last chunk"))
    }
}

fn only_servers<T>(request: &Request<T>) -> Result<(), Status> {
    let user = request.extensions().get::<copepod_api::User>();
    if user.is_some_and(|user| user.is_in(copepod_identity::SERVERS_GROUP)) {
        return Ok(());
    }
    Err(Status::permission_denied("only servers of this cluster speak Raft"))
}

fn crc32c(data: &[u8]) -> u32 {
    copepod_replica::crc32c(data)
}
