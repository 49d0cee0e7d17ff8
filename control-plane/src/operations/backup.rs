//! A cluster in one file: its state, and the keys that make it this cluster and no other.
//!
//! `copepod-backup`, a version, a length, a checksum (CRC-32C), and that many bytes of JSON: the key files, and of what
//! cluster and revision. Then a snapshot, as servers send each other (`replica/src/snapshot.rs`): pieces with a checksum
//! each, and an end, so that a file cut or changed anywhere is found out. The state is a view, which nobody has to stop
//! for, and it is written as it is sent.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use copepod_api::{Status, Timestamp};
use copepod_replica::{Founder, RebirthError, Reborn, SnapshotError, crc32c};
use copepod_store::Door;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Means, refusal};
use crate::{ServerError, join, keys::Keys};

const MAGIC: &[u8] = b"copepod-backup\n";
const VERSION: u8 = 1;

/// What stands before the snapshot: magic, version, length, checksum.
const BEGINNING_BYTES: usize = MAGIC.len() + 1 + 8;

/// A certificate and a key take two kilobytes; more than this was not written by us.
const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// Pieces that are written and not sent yet.
const PIECES_AHEAD: usize = 4;

#[derive(Serialize, Deserialize)]
struct Head {
    cluster: String,
    taken: Timestamp,
    keys: BTreeMap<String, String>,
}

/// What a backup holds.
#[derive(Debug)]
pub struct Summary {
    pub cluster: String,
    pub taken: Timestamp,
    pub revision: u64,
    pub n_objects: u64,
    pub n_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("damaged or cut off at offset {offset}: {what}")]
    Damaged { offset: u64, what: String },
    #[error("written by a newer version of copepod")]
    Newer,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{path} is not empty; a restored cluster begins in a directory of its own", path = path.display())]
    NotEmpty { path: PathBuf },
    #[error("{0}")]
    Rebirth(RebirthError),
    #[error("{0}")]
    Server(#[from] ServerError),
}

/// Sends a backup of everything acknowledged before the request.
pub async fn stream(State(means): Means) -> Response {
    let view = match means.door.fresh().await {
        Ok(view) => view,
        Err(status) => return refusal(&status),
    };
    let keys = match means.keys.shared() {
        Ok(keys) => keys,
        Err(error) => return refusal(&Status::internal(error)),
    };
    let keys = keys.into_iter().map(|(name, text)| (name, String::from_utf8_lossy(&text).into_owned())).collect();
    let head = Head { cluster: means.replica.cluster_id(), taken: Timestamp::now(), keys };
    let beginning = match beginning(&head) {
        Ok(beginning) => beginning,
        Err(error) => return refusal(&Status::internal(error)),
    };
    let (outbox, pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let send = |piece: Bytes| outbox.blocking_send(Ok(piece)).map_err(gone);
        let sent = send(beginning.into())
            .and_then(|()| means.replica.save(&view, &mut |piece| send(Bytes::copy_from_slice(piece))));
        match sent {
            Ok(n_bytes) => tracing::info!(revision = view.revision().0, n_bytes, "a backup was sent"),
            Err(error) => tracing::warn!(%error, "a backup could not be sent to its end"),
        }
    });
    Response::new(Body::from_stream(ReceiverStream::new(pieces)))
}

fn beginning(head: &Head) -> serde_json::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.extend((head.len() as u32).to_le_bytes());
    bytes.extend(crc32c(&head).to_le_bytes());
    bytes.extend(head);
    Ok(bytes)
}

/// Reads a backup to its end and decodes all of it, without keeping it.
pub fn check_backup(source: &mut dyn Read) -> Result<Summary, BackupError> {
    let (head, start) = read_head(source)?;
    let mut counted = Counted { source, n_bytes: start };
    let contents = copepod_replica::check(&mut counted).map_err(|error| placed(error, start))?;
    if contents.cluster_id != head.cluster {
        return Err(BackupError::Damaged { offset: start, what: "the state is of another cluster".to_owned() });
    }
    Ok(Summary {
        cluster: head.cluster,
        taken: head.taken,
        revision: contents.revision.0,
        n_objects: contents.n_objects,
        n_bytes: counted.n_bytes,
    })
}

/// Makes an empty directory that of the first server of the same cluster, as it was when the backup was taken.
pub fn restore(source: &mut dyn Read, data_dir: &Path, founder: Founder) -> Result<Reborn, BackupError> {
    let is_empty = match fs::read_dir(data_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error.into()),
    };
    if !is_empty {
        return Err(BackupError::NotEmpty { path: data_dir.to_owned() });
    }
    let (head, start) = read_head(source)?;
    let reborn = copepod_replica::restore(&data_dir.join("raft"), source, founder).map_err(|error| match error {
        RebirthError::Snapshot(error) => placed(error, start),
        other => BackupError::Rebirth(other),
    })?;
    let keys = head.keys.into_iter().map(|(name, text)| (name, Bytes::from(text))).collect();
    Keys::in_directory(data_dir.join("keys"))?.keep_shared(&keys)?;
    join::keep_place(data_dir, reborn.id)?;
    Ok(reborn)
}

/// What stands before the snapshot, and where that begins.
fn read_head(source: &mut dyn Read) -> Result<(Head, u64), BackupError> {
    let damaged = |offset: usize, what: &str| BackupError::Damaged { offset: offset as u64, what: what.to_owned() };
    let ended = |offset: usize| {
        move |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(offset, "it ends too early"),
            _ => error.into(),
        }
    };
    let mut beginning = [0; BEGINNING_BYTES];
    source.read_exact(&mut beginning).map_err(ended(0))?;
    let Some(&[version, l0, l1, l2, l3, c0, c1, c2, c3]) = beginning.strip_prefix(MAGIC) else {
        return Err(damaged(0, "this is no backup of copepod"));
    };
    if version != VERSION {
        return Err(BackupError::Newer);
    }
    let (length, checksum) = (u32::from_le_bytes([l0, l1, l2, l3]) as usize, u32::from_le_bytes([c0, c1, c2, c3]));
    if length > HEAD_BYTES_MAX {
        return Err(damaged(MAGIC.len() + 1, "its head is too long"));
    }
    let mut head = vec![0; length];
    source.read_exact(&mut head).map_err(ended(BEGINNING_BYTES))?;
    let is_whole = crc32c(&head) == checksum;
    let head = serde_json::from_slice(&head).ok().filter(|_| is_whole);
    let head = head.ok_or_else(|| damaged(BEGINNING_BYTES, "the checksum of its head does not match"))?;
    Ok((head, (BEGINNING_BYTES + length) as u64))
}

/// Offsets of the snapshot, as those of the file.
fn placed(error: SnapshotError, start: u64) -> BackupError {
    match error {
        SnapshotError::Damaged { offset, what } => {
            BackupError::Damaged { offset: start + offset, what: what.to_string() }
        }
        SnapshotError::Malformed(what) => BackupError::Damaged { offset: start, what: what.to_string() },
        SnapshotError::Io(error) => error.into(),
    }
}

struct Counted<'a> {
    source: &'a mut dyn Read,
    n_bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n_read = self.source.read(into)?;
        self.n_bytes += n_read as u64;
        Ok(n_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_cut_or_changed_anywhere_is_refused() {
        let keys = BTreeMap::from([("authority.key".to_owned(), "secret".to_owned())]);
        let head = Head { cluster: "c".to_owned(), taken: Timestamp::UNIX_EPOCH, keys };
        let bytes = beginning(&head).unwrap();
        let (back, start) = read_head(&mut &bytes[..]).unwrap();
        assert_eq!((back.keys, start), (head.keys, bytes.len() as u64));
        for place in 0..bytes.len() {
            assert!(read_head(&mut &bytes[..place]).is_err(), "{place}");
            let mut rotten = bytes.clone();
            rotten[place] ^= 1;
            assert!(read_head(&mut &rotten[..]).is_err(), "{place}");
        }
    }

    #[test]
    fn a_directory_with_something_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("server.json"), "{}").unwrap();
        let founder = Founder { name: "s1".to_owned(), address: "s1:1".to_owned() };
        let refused = restore(&mut &b""[..], directory.path(), founder);
        assert!(matches!(refused, Err(BackupError::NotEmpty { .. })));
    }
}
