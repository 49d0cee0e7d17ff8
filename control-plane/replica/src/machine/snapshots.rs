//! Snapshots: when one is made, taken over, sent, and what of the log stays behind it.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use copepod_store::View;
use prost_raft::Message as _;
use raft::{
    SnapshotStatus,
    prelude::{HardState, Message, Snapshot},
};

use super::{Incoming, Input, Machine};
use crate::{
    Member, OpenError,
    disk::{Archive, Disk},
    log::LogError,
    membership::Membership,
    replica::{Config, Sent},
    snapshot::{Ready, State, is_file},
};

/// A snapshot is made when the log has become half as long as the last one: then all snapshots together cost twice as much
/// as the log, whatever the size of the state. Not below the first bound, where they would cost more than they save; and
/// above the second the log goes no further, for a restart reads and applies it: that much takes two seconds.
const SNAPSHOT_AFTER_BYTES_MIN: usize = 8 * 1024 * 1024;
const SNAPSHOT_AFTER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// After a snapshot that could not be written, so many ticks pass before the next is tried. Where a disk is full, each try
/// takes the space that the log needs to go on; ten seconds are long enough for somebody to be served in between.
const SNAPSHOT_RETRY_TICKS: u32 = 200;

/// After one that was refused. A receiver may be what is broken, and then the next is refused as well.
const SNAPSHOT_REFUSED_TICKS: u32 = 20;

/// How much of the log is kept behind a snapshot, for followers that are a little behind: a quarter of what it was. To send
/// them the rest of it is less than to send the snapshot.
const LOG_KEPT: usize = 4;

impl<D: Disk> Machine<D> {
    pub(super) fn send_snapshot(&mut self, message: Message) {
        let to = message.to;
        let index = message.get_snapshot().get_metadata().index;
        let ready = self.shared.borrow().ready.clone().filter(|ready| ready.metadata.index == index);
        let (Some(ready), Some(member)) = (ready, self.member(to).cloned()) else {
            return self.snapshot_sent(to, Sent::Lost);
        };
        match self.archive.open(&ready.name) {
            Ok(data) => self.outlet.send_snapshot(&member, message.encode_to_vec().into(), data),
            Err(error) => {
                tracing::warn!(file = ready.name, %error, "a snapshot cannot be read");
                self.snapshot_sent(to, Sent::Damaged);
            }
        }
    }

    /// What Raft accepts must be what is kept here for it: an older snapshot may come after a newer one.
    pub(super) fn take_snapshot(&mut self, message: Message, incoming: Incoming) {
        let index = incoming.state.index;
        let told = message.get_snapshot().get_metadata().index;
        if told != index {
            return tracing::warn!(told, index, "a snapshot is not the one that its message speaks of");
        }
        self.step(message);
        if self.accepted_snapshot() == Some(index) {
            self.incoming = Some(incoming);
        }
    }

    /// The index of the snapshot that Raft has accepted and that is not installed yet.
    fn accepted_snapshot(&self) -> Option<u64> {
        let accepted = self.raw.raft.raft_log.unstable.snapshot.as_ref();
        accepted.map(|snapshot| snapshot.get_metadata().index)
    }

    /// Replaces everything by what the leader sent.
    pub(super) fn install(&mut self, snapshot: Snapshot, hard_state: Option<HardState>) -> Result<(), LogError> {
        let metadata = snapshot.get_metadata();
        let incoming = self.incoming.take().filter(|incoming| incoming.state.index == metadata.index);
        let Some(Incoming { state, draft, n_bytes }) = incoming else {
            let error = std::io::Error::other("the snapshot that was accepted is not here");
            return Err(LogError::Io { path: self.shared.borrow_mut().log.disk().place(""), error });
        };
        self.snapshot_bytes = n_bytes;
        let mut shared = self.shared.borrow_mut();
        let name = state.file_name();
        // Written and synchronised as it came.
        draft.keep(&name).map_err(|error| LogError::Io { path: shared.log.disk().place(&name), error })?;
        let hard_state = hard_state.unwrap_or_else(|| shared.log.hard_state.clone());
        shared.log.reset((state.index, state.term), hard_state)?;
        remove_older(shared.log.disk(), &name);
        shared.conf_state = state.conf_state();
        shared.ready = Some(state.ready());
        drop(shared);
        tracing::info!(index = state.index, revision = state.view.revision().0, "took over a snapshot from the leader");
        let replaced = std::mem::replace(&mut self.view, state.view.clone());
        self.outlet.let_go(Box::new(replaced));
        self.applied = (state.index, state.term);
        self.membership = state.membership;
        self.cluster = state.cluster_id.clone();
        self.cluster_id.send_replace(state.cluster_id);
        let ended = self.published.restart(state.view);
        self.outlet.let_go(Box::new(ended));
        self.show_members();
        Ok(())
    }

    /// Starts making a snapshot when the log has grown, or a follower needs one.
    pub(super) fn snapshot_if_due(&mut self) {
        self.snapshot_pause = self.snapshot_pause.saturating_sub(1);
        if self.is_writing || self.snapshot_pause > 0 || self.applied.0 == 0 {
            return;
        }
        let wanted = self.shared.borrow_mut().wanted.take();
        let is_due = self.shared.borrow().log.bytes > self.snapshot_after();
        if !is_due && wanted.is_none() {
            return;
        }
        let conf_state = self.shared.borrow().conf_state.clone();
        let state = State {
            view: self.view.clone(),
            index: self.applied.0,
            term: self.applied.1,
            voters: conf_state.voters,
            learners: conf_state.learners,
            membership: self.membership.clone(),
            cluster_id: self.cluster.clone(),
        };
        self.is_writing = true;
        self.outlet.write_snapshot(SnapshotWork { state, archive: self.archive.clone() });
    }

    /// Raft goes on with what became of it. A snapshot that has rotted in its file is refused wherever it is sent; the state
    /// in memory is whole, and is written anew.
    pub(super) fn snapshot_sent(&mut self, to: u64, sent: Sent) {
        let status = if sent == Sent::Arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
        if sent == Sent::Damaged {
            self.shared.borrow_mut().ready = None;
            self.snapshot_pause = self.snapshot_pause.max(SNAPSHOT_REFUSED_TICKS);
        }
    }

    /// How much log is too much.
    fn snapshot_after(&self) -> usize {
        let half = usize::try_from(self.snapshot_bytes / 2).unwrap_or(usize::MAX);
        half.clamp(SNAPSHOT_AFTER_BYTES_MIN, SNAPSHOT_AFTER_BYTES_MAX)
    }

    pub(super) fn written(&mut self, written: std::io::Result<(Ready, u64)>) {
        self.is_writing = false;
        let (ready, n_bytes) = match written {
            Ok(written) => written,
            // The log goes on without it.
            Err(error) => {
                self.snapshot_pause = SNAPSHOT_RETRY_TICKS;
                return tracing::warn!(%error, "a snapshot cannot be written");
            }
        };
        let mut shared = self.shared.borrow_mut();
        let index = ready.metadata.index;
        if index < shared.log.before.0 {
            return;
        }
        remove_older(shared.log.disk(), &ready.name);
        // A new member takes no snapshot that does not know it.
        if ready.metadata.get_conf_state() == &shared.conf_state {
            shared.ready = Some(ready);
        }
        self.snapshot_bytes = n_bytes;
        let kept = shared.log.index_of_last(self.snapshot_after() / LOG_KEPT);
        if let Err(error) = shared.log.compact(index.min(kept - 1)) {
            tracing::warn!(%error, "the log cannot be compacted");
        }
    }
}

/// The newest snapshot, and its size.
pub fn newest_snapshot(disk: &impl Disk) -> Result<Option<(State, u64)>, OpenError> {
    let names = disk.list().map_err(|error| OpenError::Io { path: disk.place(""), error })?;
    let Some(name) = names.iter().rfind(|name| is_file(name)) else { return Ok(None) };
    let file = disk.archive().open(name).map_err(|error| OpenError::Io { path: disk.place(name), error })?;
    let mut file = Counted { file, n_bytes: 0 };
    let state = State::read(&mut file).map_err(|error| OpenError::Snapshot { path: disk.place(name), error })?;
    Ok(Some((state, file.n_bytes)))
}

struct Counted {
    file: Box<dyn Read + Send>,
    n_bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n_read = self.file.read(into)?;
        self.n_bytes += n_read as u64;
        Ok(n_read)
    }
}

/// A snapshot to be written.
pub struct SnapshotWork {
    state: State,
    archive: Arc<dyn Archive>,
}

impl SnapshotWork {
    /// Writes it, unless it is told to stop; the machine is to be given the outcome.
    pub fn carry_out(&self, stop: &AtomicBool) -> Input {
        Input::Written { written: write_snapshot(&self.state, &*self.archive, stop) }
    }
}

pub fn write_snapshot(state: &State, archive: &dyn Archive, stop: &AtomicBool) -> std::io::Result<(Ready, u64)> {
    let mut draft = archive.draft()?;
    let n_bytes = state.write(&mut |piece| match stop.load(Ordering::Relaxed) {
        true => Err(std::io::ErrorKind::Interrupted.into()),
        false => draft.write(piece),
    })?;
    let ready = state.ready();
    draft.keep(&ready.name)?;
    Ok((ready, n_bytes))
}

/// The first state of a new cluster: empty, with one voter. It stands at index 1, so that every server that joins later
/// is sent a snapshot, and with it the members.
pub fn found(config: &Config, disk: &mut impl Disk, lot: u64) -> Result<(State, u64), OpenError> {
    let member = Member { id: config.id, name: config.name.clone(), address: config.address.clone(), learner: false };
    let state = State {
        view: View::default(),
        index: 1,
        term: 1,
        voters: vec![config.id],
        learners: Vec::new(),
        membership: Membership::of_founder(member),
        cluster_id: format!("{:016x}", lot),
    };
    let written = write_snapshot(&state, &*disk.archive(), &AtomicBool::new(false));
    let (_, n_bytes) = written.map_err(|error| OpenError::Io { path: disk.place(&state.file_name()), error })?;
    Ok((state, n_bytes))
}

fn remove_older(disk: &mut impl Disk, newest: &str) {
    for name in disk.list().unwrap_or_default().iter().filter(|name| is_file(name) && name.as_str() < newest) {
        if let Err(error) = disk.remove(name) {
            tracing::warn!(%error, "an old snapshot cannot be removed");
        }
    }
}
