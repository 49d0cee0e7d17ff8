//! A cluster that begins with what another one left: a snapshot of it, or the disk of its last server.
//!
//! A cluster whose majority is gone can decide nothing, not even who its members are. What is left of it becomes the
//! first state of a cluster of one, as if that one had founded it. Two things must not follow from that. Servers of before
//! that come back must not be counted: so the founder has an id that none of them knows, and messages to other ids are
//! dropped. And whoever saw a transaction that is lost must not be told less later under the same number: so revisions jump.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use copepod_api::Revision;
use prost_raft::Message as _;
use raft::prelude::{ConfChangeV2, Entry, EntryType};

use crate::{
    Member, OpenError, SnapshotError, codec,
    disk::{Directory, Disk},
    log::{Log, LogError},
    machine::{newest_snapshot, write_snapshot},
    membership::Membership,
    replica,
    snapshot::State,
};

/// Beyond every revision that was given away since: at fifty thousand writes a second, those of half a year. Numbers that
/// JSON holds exactly have room for nine thousand such jumps.
const REVISION_JUMP: u64 = 1_000_000_000_000;

/// Beyond the id of every server that may have joined since.
const ID_JUMP: u64 = 1000;

/// Entries that are read back at once.
const ENTRIES_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The one member of the cluster that begins.
pub struct Founder {
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// What the new cluster begins with.
#[derive(Debug)]
pub struct Reborn {
    /// The founder's.
    pub id: u64,
    pub cluster_id: String,
    pub n_objects: u64,
    /// Of the newest transaction that was found, and where the cluster goes on.
    pub found: Revision,
    pub revision: Revision,
}

#[derive(Debug, thiserror::Error)]
pub enum RebirthError {
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{path} holds no state of a cluster", path = path.display())]
    Nothing { path: PathBuf },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{path} is there already, from an earlier recovery; when all is well, remove it", path = path.display())]
    Before { path: PathBuf },
}

/// Makes a directory of the log from a snapshot. Nothing is written before all of it is read and found whole.
pub fn restore(directory: &Path, source: &mut dyn Read, founder: Founder) -> Result<Reborn, RebirthError> {
    found(directory, State::read(source)?, founder)
}

/// Makes the directory of a server whose cluster lost its majority that of a cluster of one. Everything in its log counts:
/// what was acknowledged is among it, unless only servers had it that are gone. The directory as it was stays beside it.
pub fn recover(directory: &Path, founder: Founder) -> Result<Reborn, RebirthError> {
    let (before, beside) = (directory.with_extension("before-recovery"), directory.with_extension("recovered"));
    if before.exists() {
        return Err(RebirthError::Before { path: before });
    }
    if !directory.exists() {
        return Err(RebirthError::Nothing { path: directory.to_owned() });
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| RebirthError::Io { path, error }
    };
    let lock = replica::lock(directory)?;
    let state = last_state(directory)?;
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(failed(&beside))?;
    }
    let reborn = found(&beside, state, founder)?;
    fs::rename(directory, &before).map_err(failed(directory))?;
    fs::rename(&beside, directory).map_err(failed(directory))?;
    let parent = directory.parent().unwrap_or(Path::new("/"));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed(parent))?;
    drop(lock);
    Ok(reborn)
}

fn found(directory: &Path, state: State, founder: Founder) -> Result<Reborn, RebirthError> {
    let failed = |error| RebirthError::Io { path: directory.to_owned(), error };
    let disk = Directory::open(directory).map_err(failed)?;
    let id = state.membership.last_id + ID_JUMP;
    let member = Member { id, name: founder.name, address: founder.address, learner: false };
    let found = state.view.revision();
    let revision = Revision(found.0 + REVISION_JUMP);
    let state = State {
        view: state.view.skip_to(revision),
        index: 1,
        term: 1,
        voters: vec![id],
        learners: Vec::new(),
        membership: Membership::of_founder(member),
        cluster_id: state.cluster_id,
    };
    write_snapshot(&state, &*disk.archive(), &AtomicBool::new(false)).map_err(failed)?;
    let n_objects = state.view.resources().map(|resource| state.view.count(resource) as u64).sum();
    Ok(Reborn { id, cluster_id: state.cluster_id, n_objects, found, revision })
}

/// The newest snapshot, and the whole log after it.
fn last_state(directory: &Path) -> Result<State, RebirthError> {
    let failed = |error| RebirthError::Io { path: directory.to_owned(), error };
    let disk = Directory::open(directory).map_err(failed)?;
    let Some((mut state, _)) = newest_snapshot(&disk)? else {
        return Err(RebirthError::Nothing { path: directory.to_owned() });
    };
    let log = Log::open(disk, (state.index, state.term))?;
    let mut next = log.first_index();
    while next <= log.last_index() {
        let entries = log.entries(next, log.last_index() + 1, ENTRIES_BYTES_MAX)?;
        for entry in entries {
            next = entry.index + 1;
            apply(&mut state, entry);
        }
    }
    Ok(state)
}

fn apply(state: &mut State, entry: Entry) {
    match entry.get_entry_type() {
        EntryType::EntryNormal => {
            // What is refused or cannot be read changed nothing on any server.
            if let Ok((txn, at)) = codec::read_txn(entry.data.into())
                && let Ok((view, _)) = state.view.apply(&txn, at)
            {
                state.view = view;
            }
        }
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            if let Ok(change) = ConfChangeV2::decode(&entry.data[..]) {
                let ids = change.changes.iter().map(|single| single.node_id);
                state.membership.last_id = ids.fold(state.membership.last_id, u64::max);
            }
        }
    }
}

impl From<LogError> for RebirthError {
    fn from(error: LogError) -> RebirthError {
        RebirthError::Open(error.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use copepod_api::{Body, Expect, Key, Op, Timestamp, Txn, resource::CONFIG_MAPS};
    use serde_json::json;

    use super::*;
    use crate::{Config, Replica, Sent, Transport};

    struct Nobody;

    impl Transport for Nobody {
        fn send(&self, _: &Member, _: Vec<Bytes>) {}

        fn send_snapshot(&self, _: &Member, _: Bytes, _: Box<dyn Read + Send>, done: Box<dyn FnOnce(Sent) + Send>) {
            done(Sent::Lost);
        }
    }

    fn founder() -> Founder {
        Founder { name: "s1".to_owned(), address: "s1:1".to_owned() }
    }

    async fn open(directory: &Path, id: u64) -> Replica {
        let config = Config {
            id,
            data_dir: directory.to_owned(),
            name: "s1".to_owned(),
            address: "s1:1".to_owned(),
            bootstrap: true,
            contacts: Vec::new(),
        };
        let replica = Replica::open(config, Arc::new(Nobody)).unwrap();
        replica.role().wait_for(|role| role.leading).await.unwrap();
        replica
    }

    async fn write(replica: &Replica, name: &str) {
        let body = Body::encode(&json!({"metadata": {"name": name, "uid": name}}));
        let txn = Txn { ops: vec![Op::Put { key: key(name), body, expect: Expect::Absent }] };
        let view = replica.view();
        let next = view.apply(&txn, Timestamp::UNIX_EPOCH).unwrap();
        let term = replica.role().borrow().term;
        replica.propose(term, txn, Timestamp::UNIX_EPOCH, &view, next).await.unwrap().unwrap();
    }

    fn key(name: &str) -> Key {
        Key::new(CONFIG_MAPS, "d", name)
    }

    #[tokio::test]
    async fn what_a_log_holds_goes_on_under_another_id_and_a_later_revision() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("raft");
        let replica = open(&path, 1).await;
        write(&replica, "a").await;
        write(&replica, "b").await;
        assert!(matches!(recover(&path, founder()), Err(RebirthError::Open(OpenError::Locked { .. }))));
        replica.shutdown().await;
        let reborn = recover(&path, founder()).unwrap();
        assert_eq!((reborn.id, reborn.n_objects, reborn.found), (1001, 2, Revision(2)));
        assert!(matches!(recover(&path, founder()), Err(RebirthError::Before { .. })));

        let replica = open(&path, reborn.id).await;
        assert_eq!(replica.view().revision(), reborn.revision);
        assert!(replica.view().object(&key("a")).is_some_and(|object| object.revision == Revision(1)));
        write(&replica, "c").await;
        assert_eq!(replica.view().revision(), Revision(reborn.revision.0 + 1));
        assert_eq!(replica.members().iter().map(|member| member.id).collect::<Vec<_>>(), [1001]);
        replica.shutdown().await;
    }

    #[tokio::test]
    async fn what_was_saved_is_restored_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let replica = open(&root.path().join("raft"), 1).await;
        write(&replica, "a").await;
        let mut saved = Vec::new();
        let view = replica.view();
        let copied = |piece: &[u8]| {
            saved.extend_from_slice(piece);
            Ok(())
        };
        replica.save(&view, &mut { copied }).unwrap();
        let other = root.path().join("other");
        let cut = restore(&other, &mut &saved[..saved.len() - 1], founder());
        assert!(matches!(cut, Err(RebirthError::Snapshot(SnapshotError::Damaged { .. }))));
        assert!(!other.exists());
        let reborn = restore(&other, &mut &saved[..], founder()).unwrap();
        assert_eq!(reborn.cluster_id, replica.cluster_id());
        let restored = open(&other, reborn.id).await;
        assert!(restored.view().object(&key("a")).is_some());
        restored.shutdown().await;
        replica.shutdown().await;
    }
}
