//! The handle that everybody holds; the thread behind it is `core`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use copepod_api::{Resource, Revision, Timestamp, Txn};
use copepod_store::{Event, View};
use tokio::sync::{oneshot, watch};

use crate::{
    Member, ReplicaCursor, codec, core,
    cursor::Published,
    disk::{Archive, Directory, Disk, Draft},
    log::LogError,
    machine::{Dice, Incoming, Input, Machine, Outlet, Shown},
    membership::Membership,
    snapshot::{SnapshotError, State},
};

/// How long leadership may take to move.
const TRANSFER_MAX: Duration = Duration::from_secs(2);

pub struct Config {
    /// Never zero, unique, never used again after its server was removed.
    pub id: u64,
    pub data_dir: PathBuf,
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Found a cluster of one where the disk is empty.
    pub bootstrap: bool,
    /// Members that a joining server was told of; used until the log tells it who they are.
    pub contacts: Vec<Member>,
}

/// Carries messages to other members; may lose, repeat and reorder them, and never waits.
pub trait Transport: Send + Sync + 'static {
    fn send(&self, to: &Member, messages: Vec<Bytes>);

    /// Sends a snapshot message and the data that belongs to it, which is to be read elsewhere; says what became of it.
    fn send_snapshot(
        &self,
        to: &Member,
        message: Bytes,
        data: Box<dyn Read + Send>,
        done: Box<dyn FnOnce(Sent) + Send>,
    );
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Arrived,
    /// The receiver is away, or cannot take it now.
    Lost,
    /// It came to the receiver other than it was written.
    Damaged,
}

impl Sent {
    /// By what the receiver says.
    pub fn of(taken: &Result<(), SnapshotError>) -> Sent {
        match taken {
            Ok(()) => Sent::Arrived,
            Err(SnapshotError::Io(_)) => Sent::Lost,
            Err(SnapshotError::Malformed(_) | SnapshotError::Damaged { .. }) => Sent::Damaged,
        }
    }
}

/// What this replica is at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub term: u64,
    /// It leads, and has applied everything of earlier terms: its view is the state to decide on.
    pub leading: bool,
    pub leader: Option<Member>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{path} is in use by another process; each server needs a directory of its own", path = path.display())]
    Locked { path: PathBuf },
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{path}: {error}. Remove this server's directory, and let it join again while most of the others are whole", path = path.display())]
    Snapshot { path: PathBuf, error: SnapshotError },
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProposeError {
    #[error("this server does not lead")]
    NotLeader,
    #[error("leadership moved meanwhile; whether the write took place is unknown")]
    Lost,
    #[error("too many writes are under way; try again")]
    Full,
    #[error("the log cannot be written ({0}); whether the write took place is unknown")]
    Disk(String),
    #[error("the write is refused: {0}")]
    Refused(copepod_store::Refusal),
    #[error("this server is stopping")]
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this server is stopping")]
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this server does not lead")]
    NotLeader,
    #[error("another change of the members is under way; try again")]
    Busy,
    #[error("there is no member {0}")]
    Unknown(u64),
    #[error("the last voting server cannot be removed")]
    LastVoter,
    #[error("a server named {0} is up; stop that one first, or give this one another name")]
    Alive(String),
    #[error("member {0} has the name and has fallen silent")]
    Silent(u64),
    #[error("without {name} no majority would answer, for {silent} is away; bring that back first")]
    NoMajority { name: String, silent: String },
    #[error("this server is stopping")]
    Stopping,
}

/// One server's copy of the store. Cloning shares it.
#[derive(Clone)]
pub struct Replica {
    inputs: mpsc::Sender<Input>,
    published: Arc<Published>,
    role: watch::Receiver<Role>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    cluster_id: watch::Receiver<String>,
    archive: Arc<dyn Archive>,
}

/// Held for as long as a process uses the directory.
pub fn lock(directory: &Path) -> Result<fs::File, OpenError> {
    let path = directory.join("lock");
    let lock = fs::File::create(&path).map_err(|error| OpenError::Io { path: path.clone(), error })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked { path: directory.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(OpenError::Io { path, error }),
    }
}

/// Whatever is read is written to the draft as well.
struct Copied<'a> {
    from: &'a mut dyn Read,
    to: Box<dyn Draft>,
    n_bytes: u64,
}

impl Read for Copied<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n_read = self.from.read(into)?;
        self.to.write(&into[..n_read])?;
        self.n_bytes += n_read as u64;
        Ok(n_read)
    }
}

impl Replica {
    /// Reads the disk and starts the thread.
    pub fn open(config: Config, transport: Arc<dyn Transport>) -> Result<Replica, OpenError> {
        let failed = |error| OpenError::Io { path: config.data_dir.clone(), error };
        let directory = Directory::open(&config.data_dir).map_err(failed)?;
        let lock = lock(&config.data_dir)?;
        directory.clean().map_err(failed)?;
        Replica::on(config, directory, transport, Some(lock))
    }

    /// On any disk.
    pub fn on<D: Disk>(
        config: Config,
        disk: D,
        transport: Arc<dyn Transport>,
        lock: Option<fs::File>,
    ) -> Result<Replica, OpenError> {
        let (inputs, shown) = core::spawn(config, disk, transport, lock)?;
        Ok(Replica::of(inputs, shown))
    }

    /// Without a thread: a machine, what is to be given to it, and a handle. Whoever asks for it runs the machine, and says
    /// when it ticks.
    pub fn apart<D: Disk>(
        config: Config,
        disk: D,
        outlet: Box<dyn Outlet>,
        dice: Dice,
    ) -> Result<(Machine<D>, mpsc::Receiver<Input>, Replica), OpenError> {
        let (inputs, queue) = mpsc::channel();
        let (machine, shown) = Machine::open(config, disk, outlet, dice)?;
        Ok((machine, queue, Replica::of(inputs, shown)))
    }

    fn of(inputs: mpsc::Sender<Input>, shown: Shown) -> Replica {
        Replica {
            inputs,
            published: shown.published,
            role: shown.role,
            members: shown.members,
            cluster_id: shown.cluster_id,
            archive: shown.archive,
        }
    }

    /// The newest state applied here. Never waits.
    pub fn view(&self) -> View {
        self.published.view()
    }

    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Proposes a transaction in `term`. `next` is the view and the events that the proposer has computed from `base`; it
    /// is adopted at commit when the state is that very view, which saves computing it again. Otherwise the transaction
    /// is applied to the state there is, and the answer may be another revision than that of `next`.
    pub fn propose(
        &self,
        term: u64,
        txn: Txn,
        at: Timestamp,
        base: &View,
        next: (View, Vec<Event>),
    ) -> oneshot::Receiver<Result<Revision, ProposeError>> {
        let (answer, receiver) = oneshot::channel();
        let data = codec::write_txn(&txn, at);
        let _ = self.inputs.send(Input::Propose { term, data, base: base.clone(), next, answer });
        receiver
    }

    /// A view that contains everything acknowledged anywhere before the call. Waits for as long as no majority answers.
    pub async fn fresh(&self) -> Result<View, ReadError> {
        loop {
            let (answer, receiver) = oneshot::channel();
            self.inputs.send(Input::Read { answer }).map_err(|_| ReadError::Stopping)?;
            if let Ok(view) = receiver.await {
                return Ok(view);
            }
        }
    }

    pub async fn reached(&self, revision: Revision) -> Result<View, ReadError> {
        let mut changes = self.published.changes();
        changes.wait_for(|newest| *newest >= revision).await.map_err(|_| ReadError::Stopping)?;
        Ok(self.view())
    }

    pub fn watch(&self, resource: Option<Resource>, from: Revision) -> ReplicaCursor {
        self.published.watch(resource, from)
    }

    /// Messages of other members.
    pub fn receive(&self, messages: Vec<Bytes>) {
        let _ = self.inputs.send(Input::Messages(messages));
    }

    /// A snapshot message with its data, which is read, decoded and written to disk here, in a stream; refused when it is
    /// not what was sent. Takes as long as it takes: not for a thread on which others wait.
    pub fn receive_snapshot(&self, message: Bytes, data: &mut dyn Read) -> Result<(), SnapshotError> {
        let mut copied = Copied { from: data, to: self.archive.draft()?, n_bytes: 0 };
        let state = State::read(&mut copied)?;
        let Copied { to: mut draft, n_bytes, .. } = copied;
        draft.sync()?;
        let incoming = Box::new(Incoming { state, draft, n_bytes });
        let _ = self.inputs.send(Input::Snapshot { message, incoming });
        Ok(())
    }

    /// The members, and each change of them.
    pub fn membership(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.clone()
    }

    pub fn members(&self) -> Vec<Member> {
        self.members.borrow().to_vec()
    }

    /// Adds a server with an empty disk as a learner, on the leader; it votes once it has caught up. A member that had its
    /// name and has fallen silent is removed first, for it has lost its disk: the new one gets another id, so that nothing
    /// is voted on twice.
    pub async fn add_member(&self, name: &str, address: &str) -> Result<Member, ChangeError> {
        match self.ask_to_add(name, address).await {
            Err(ChangeError::Silent(id)) => {
                self.remove_member(id).await?;
                self.ask_to_add(name, address).await
            }
            outcome => outcome,
        }
    }

    async fn ask_to_add(&self, name: &str, address: &str) -> Result<Member, ChangeError> {
        let (answer, receiver) = oneshot::channel();
        let input = Input::AddMember { name: name.to_owned(), address: address.to_owned(), answer };
        self.inputs.send(input).map_err(|_| ChangeError::Stopping)?;
        receiver.await.map_err(|_| ChangeError::Stopping)?
    }

    pub async fn remove_member(&self, id: u64) -> Result<(), ChangeError> {
        let (answer, receiver) = oneshot::channel();
        self.inputs.send(Input::RemoveMember { id, answer }).map_err(|_| ChangeError::Stopping)?;
        receiver.await.map_err(|_| ChangeError::Stopping)?.map(drop)
    }

    /// Hands leadership to a member, or to the one that has most of the log; at once when this replica does not lead.
    pub async fn transfer_leadership(&self, to: Option<u64>) {
        let mut role = self.role.clone();
        let _ = self.inputs.send(Input::Transfer { to });
        let _ = tokio::time::timeout(TRANSFER_MAX, role.wait_for(|role| !role.leading)).await;
    }

    /// Hands leadership to the member that has most of the log, without waiting for it.
    pub fn hand_over(&self) {
        let _ = self.inputs.send(Input::Transfer { to: None });
    }

    /// Writes a view out as a snapshot, in a stream; says how many bytes that were. Takes as long as it takes: not for a
    /// thread on which others wait.
    pub fn save(&self, view: &View, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
        let members: BTreeMap<u64, Member> = self.members().into_iter().map(|member| (member.id, member)).collect();
        let last_id = members.keys().next_back().copied().unwrap_or_default();
        let state = State {
            view: view.clone(),
            index: 1,
            term: 1,
            voters: members.keys().copied().collect(),
            learners: Vec::new(),
            membership: Membership { members, last_id },
            cluster_id: self.cluster_id(),
        };
        state.write(out)
    }

    /// Stops the thread; everything acknowledged is on disk already.
    pub async fn shutdown(self) {
        let (answer, receiver) = oneshot::channel();
        let _ = self.inputs.send(Input::Stop { answer });
        let _ = receiver.await;
    }

    /// Made up when the cluster was founded; empty on a server that has not heard from its cluster yet.
    pub fn cluster_id(&self) -> String {
        self.cluster_id.borrow().clone()
    }
}
