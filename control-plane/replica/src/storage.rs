//! The log and the snapshot as Raft reads them.

use std::{cell::RefCell, rc::Rc};

use raft::{
    Error, GetEntriesContext, RaftState, Result, StorageError,
    prelude::{ConfState, Entry, Snapshot},
};

use crate::{disk::Disk, log::Log, snapshot::Ready};

/// What the core and Raft share; both live on one thread.
pub struct Shared<D> {
    pub log: Log<D>,
    pub conf_state: ConfState,
    /// The newest snapshot that can be sent.
    pub ready: Option<Ready>,
    /// A follower needs a snapshot of at least this index, and none is ready.
    pub wanted: Option<u64>,
}

pub struct Storage<D>(pub Rc<RefCell<Shared<D>>>);

impl<D> Clone for Storage<D> {
    fn clone(&self) -> Self {
        Storage(self.0.clone())
    }
}

impl<D: Disk> raft::Storage for Storage<D> {
    fn initial_state(&self) -> Result<RaftState> {
        let shared = self.0.borrow();
        Ok(RaftState { hard_state: shared.log.hard_state.clone(), conf_state: shared.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let log = &self.0.borrow().log;
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low < log.first_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > log.last_index() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        log.entries(low, high, max_bytes).map_err(|error| {
            // What is not applied yet is in memory, so these are for a follower; it is sent a snapshot instead.
            tracing::error!(%error, "entries cannot be read back from the log");
            Error::Store(StorageError::Compacted)
        })
    }

    fn term(&self, index: u64) -> Result<u64> {
        let log = &self.0.borrow().log;
        match log.term(index) {
            Some(term) => Ok(term),
            None if index < log.first_index() => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.0.borrow().log.first_index())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.0.borrow().log.last_index())
    }

    /// Its data is left out: it travels beside the message.
    fn snapshot(&self, request_index: u64, _: u64) -> Result<Snapshot> {
        let mut shared = self.0.borrow_mut();
        let needed = request_index.max(shared.log.before.0);
        match &shared.ready {
            Some(ready) if ready.metadata.index >= needed => {
                Ok(Snapshot { data: Vec::new(), metadata: Some((*ready.metadata).clone()) })
            }
            _ => {
                shared.wanted = Some(needed);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
