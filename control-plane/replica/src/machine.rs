//! One server's part of the log: take what came, let Raft decide, write once, apply, answer.
//!
//! It has no thread, no clock and no dice. Ticks, inputs, the disk and random numbers are arguments; what others are to do
//! goes out through an `Outlet`. `core` runs it on a thread; the simulator runs several in one, from a seed.

mod members;
mod reads;
mod snapshots;

use std::{
    any::Any,
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io::Read,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use copepod_api::Revision;
use copepod_store::{Event, View};
use prost_raft::Message as _;
use raft::{
    RawNode, StateRole,
    prelude::{ConfChangeV2, Entry, EntryType, HardState, Message, MessageType},
};
use tokio::sync::{oneshot, watch};

use crate::{
    Member, OpenError, ProposeError, Role, codec,
    cursor::Published,
    disk::{Archive, Disk, Draft},
    log::{Log, LogError},
    membership::Membership,
    replica::{ChangeError, Config, Sent},
    snapshot::{Ready, State},
    storage::{Shared, Storage},
};

use reads::Reads;
use snapshots::found;
pub use snapshots::{SnapshotWork, newest_snapshot, write_snapshot};

/// Raft's clock. A leader that falls silent is replaced after `ELECTION_TICKS` to twice as many, by lot: 0.4 to 0.8 s. An
/// fdatasync behind which heartbeats wait takes a tenth of the lower bound even while a snapshot of a gigabyte is written;
/// and a follower that wakes too early asks first, and is told by the others that the leader lives.
pub const TICK: Duration = Duration::from_millis(50);
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 8;

/// Proposals handed to Raft at once, by their bytes: about what one message carries to a follower.
const PROPOSALS_BYTES_MAX: usize = 1024 * 1024;

/// Committed entries that are applied and shown at once: enough that readers are not woken all the time, and few enough
/// that they are not kept waiting either.
const COMMITTED_BYTES_MAX: u64 = 4 * 1024 * 1024;

const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
const IN_FLIGHT_MAX: usize = 256;
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the machine has others do. It waits for none of it.
pub trait Outlet {
    /// May be lost, repeated and reordered.
    fn send(&mut self, to: &Member, messages: Vec<Bytes>);
    /// Answered by `Input::snapshot_sent`.
    fn send_snapshot(&mut self, to: &Member, message: Bytes, data: Box<dyn Read + Send>);
    /// Takes longer than an election may: beside. Answered by what `carry_out` gives.
    fn write_snapshot(&mut self, work: SnapshotWork);
    /// Something large that nobody needs: to let go of it takes longer than an election may.
    fn let_go(&mut self, what: Box<dyn Any + Send>);
}

/// Random numbers: when this server stands for election, and what a new cluster is called.
pub type Dice = Box<dyn FnMut() -> u64>;

/// How far `settle` came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// The disk is full. Nothing is lost; call again in a while.
    DiskFull,
}

pub enum Input {
    Propose {
        term: u64,
        data: Vec<u8>,
        base: View,
        next: (View, Vec<Event>),
        answer: Answer,
    },
    Read {
        answer: oneshot::Sender<View>,
    },
    Messages(Vec<Bytes>),
    Snapshot {
        message: Bytes,
        incoming: Box<Incoming>,
    },
    AddMember {
        name: String,
        address: String,
        answer: MemberAnswer,
    },
    RemoveMember {
        id: u64,
        answer: MemberAnswer,
    },
    /// To a member, or to the one that has most of the log.
    Transfer {
        to: Option<u64>,
    },
    /// A snapshot has been written in the background, in so many bytes; or it could not be.
    Written {
        written: std::io::Result<(Ready, u64)>,
    },
    SnapshotSent {
        to: u64,
        sent: Sent,
    },
    Stop {
        answer: oneshot::Sender<()>,
    },
}

/// A snapshot from the leader: what it says, and the file that holds it already, in so many bytes.
pub struct Incoming {
    pub state: State,
    pub draft: Box<dyn Draft>,
    pub n_bytes: u64,
}

impl Input {
    pub fn snapshot_sent(to: u64, sent: Sent) -> Input {
        Input::SnapshotSent { to, sent }
    }
}

type Answer = oneshot::Sender<Result<Revision, ProposeError>>;
type MemberAnswer = oneshot::Sender<Result<Member, ChangeError>>;

/// What the machine shows to the handles.
pub struct Shown {
    pub published: Arc<Published>,
    pub role: watch::Receiver<Role>,
    pub members: watch::Receiver<Arc<Vec<Member>>>,
    pub cluster_id: watch::Receiver<String>,
    pub archive: Arc<dyn Archive>,
}

pub struct Machine<D: Disk> {
    raw: RawNode<Storage<D>>,
    shared: Rc<RefCell<Shared<D>>>,
    outlet: Box<dyn Outlet>,
    dice: Dice,
    id: u64,

    view: View,
    applied: (u64, u64),
    membership: Membership,
    contacts: Vec<Member>,
    cluster: String,
    published: Arc<Published>,
    role: watch::Sender<Role>,
    members: watch::Sender<Arc<Vec<Member>>>,
    cluster_id: watch::Sender<String>,

    /// Not handed to Raft yet, and how many bytes they are.
    proposed: Vec<(Vec<u8>, Proposal)>,
    proposed_bytes: usize,
    proposals: VecDeque<Proposal>,
    /// Applied and not shown yet: events, and answers to give once they are.
    events: Vec<Event>,
    answers: Vec<(Answer, Result<Revision, ProposeError>)>,
    /// Up to this index of this term the log may hold proposals that were refused and are committed in the end. Until
    /// they are applied, nothing new can be decided.
    refused_to: (u64, u64),
    reads: Reads,
    member_change: Option<(u64, Member, MemberAnswer)>,
    /// The snapshot that Raft has been told of and has not accepted yet.
    incoming: Option<Incoming>,
    archive: Arc<dyn Archive>,
    /// A snapshot is being written.
    is_writing: bool,
    /// Ticks until a snapshot may be written again.
    snapshot_pause: u32,
    /// The size of the newest snapshot.
    snapshot_bytes: u64,
    /// What Raft wants written and the disk had no space for, and what came meanwhile and cannot be asked for again.
    in_hand: Option<(Step, LogError)>,
    deferred: Vec<Input>,
    n_ticks: u64,
    /// At which tick each member was last heard.
    heard: BTreeMap<u64, u64>,
    /// A change of members was applied, and whether the disk knows that it is committed is not certain.
    has_new_members: bool,
}

/// What is to be written before Raft goes on.
struct Step {
    ready: raft::Ready,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    sync: bool,
}

/// A proposal under way, by its place in the log.
struct Proposal {
    index: u64,
    term: u64,
    /// What `next` was computed from.
    base: View,
    next: (View, Vec<Event>),
    answer: Answer,
}

impl<D: Disk> Machine<D> {
    pub fn open(
        config: Config,
        mut disk: D,
        outlet: Box<dyn Outlet>,
        mut dice: Dice,
    ) -> Result<(Machine<D>, Shown), OpenError> {
        let archive = disk.archive();
        let newest = match newest_snapshot(&disk)? {
            Some(newest) => Some(newest),
            None if config.bootstrap => Some(found(&config, &mut disk, dice())?),
            None => None,
        };
        let (state, snapshot_bytes) = newest.map_or((None, 0), |(state, n_bytes)| (Some(state), n_bytes));
        let before = state.as_ref().map_or((0, 0), |state| (state.index, state.term));
        let mut log = Log::open(disk, before)?;
        if log.hard_state.commit < before.0 {
            // A crash between a snapshot and the log that follows it: the snapshot was committed.
            log.hard_state.commit = before.0;
            log.hard_state.term = log.hard_state.term.max(before.1);
        }
        // What is committed is here, or will be sent again.
        log.hard_state.commit = log.hard_state.commit.min(log.last_index());
        let conf_state = state.as_ref().map(State::conf_state).unwrap_or_default();
        let shared =
            Rc::new(RefCell::new(Shared { log, conf_state, ready: state.as_ref().map(State::ready), wanted: None }));
        let raft_config = raft::Config {
            id: config.id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: before.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, Storage(shared.clone()), &logger)?;

        let (view, membership, cluster) =
            state.map_or_else(Default::default, |state| (state.view, state.membership, state.cluster_id));
        let published = Published::new(view.clone());
        let members: Arc<Vec<Member>> = Arc::new(membership.members.values().cloned().collect());
        let mut machine = Machine {
            raw,
            shared,
            outlet,
            dice,
            id: config.id,
            view,
            applied: before,
            membership,
            contacts: config.contacts,
            published: published.clone(),
            role: watch::Sender::new(Role::default()),
            members: watch::Sender::new(members),
            cluster_id: watch::Sender::new(cluster.clone()),
            cluster,
            proposed: Vec::new(),
            proposed_bytes: 0,
            proposals: VecDeque::new(),
            events: Vec::new(),
            answers: Vec::new(),
            refused_to: (0, 0),
            reads: Reads::default(),
            member_change: None,
            incoming: None,
            archive: archive.clone(),
            is_writing: false,
            snapshot_pause: 0,
            snapshot_bytes,
            in_hand: None,
            deferred: Vec::new(),
            n_ticks: 0,
            heard: BTreeMap::new(),
            has_new_members: false,
        };
        // A cluster of one has nobody to wait for.
        if machine.raw.raft.prs().conf().voters().ids().iter().collect::<Vec<_>>() == [machine.id] {
            let _ = machine.raw.campaign();
        }
        let shown = Shown {
            published,
            role: machine.role.subscribe(),
            members: machine.members.subscribe(),
            cluster_id: machine.cluster_id.subscribe(),
            archive,
        };
        Ok((machine, shown))
    }

    /// To be called each `TICK`.
    pub fn tick(&mut self) {
        self.n_ticks += 1;
        if self.in_hand.is_some() {
            // Others elect a leader meanwhile.
            self.reads.waiting.retain(|answer| !answer.is_closed());
            return;
        }
        if self.raw.raft.election_elapsed == 0 {
            // Raft has drawn its patience anew, or may have: the lot is ours to draw.
            let lot = (self.dice)() % ELECTION_TICKS as u64;
            self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + lot as usize);
        }
        self.raw.tick();
        self.promote_learner();
        self.snapshot_if_due();
        self.tick_reads();
    }

    /// Takes what came; what follows from it happens in `settle`.
    pub fn take(&mut self, input: Input) {
        let Some((_, error)) = &self.in_hand else { return self.take_at_once(input) };
        match input {
            Input::Propose { answer, .. } => drop(answer.send(Err(ProposeError::Disk(error.to_string())))),
            Input::Read { answer } => self.reads.waiting.push(answer),
            Input::AddMember { answer, .. } | Input::RemoveMember { answer, .. } => {
                drop(answer.send(Err(ChangeError::Busy)));
            }
            // Sent again by those who sent them, or not needed any more.
            Input::Messages(_) | Input::Snapshot { .. } | Input::Transfer { .. } | Input::Stop { .. } => (),
            input @ (Input::Written { .. } | Input::SnapshotSent { .. }) => self.deferred.push(input),
        }
    }

    fn take_at_once(&mut self, input: Input) {
        if !matches!(input, Input::Propose { .. }) {
            // In the order in which they came.
            self.propose();
        }
        match input {
            Input::Propose { term, data, base, next, answer } => {
                self.proposed_bytes += data.len();
                self.proposed.push((data, Proposal { index: 0, term, base, next, answer }));
                if self.proposed_bytes >= PROPOSALS_BYTES_MAX {
                    self.propose();
                }
            }
            Input::Read { answer } => self.reads.waiting.push(answer),
            Input::Messages(messages) => {
                for bytes in messages {
                    match Message::decode(bytes) {
                        Ok(message) if message.get_msg_type() == MessageType::MsgSnapshot => (),
                        Ok(message) => self.step(message),
                        Err(error) => tracing::warn!(%error, "dropped a malformed Raft message"),
                    }
                }
            }
            Input::Snapshot { message, incoming } => {
                if let Ok(message) = Message::decode(message) {
                    self.take_snapshot(message, *incoming);
                }
            }
            Input::AddMember { name, address, answer } => self.add_member(name, address, answer),
            Input::RemoveMember { id, answer } => self.remove_member(id, answer),
            Input::Transfer { to } => self.transfer(to),
            Input::Written { written } => self.written(written),
            Input::SnapshotSent { to, sent } => self.snapshot_sent(to, sent),
            Input::Stop { .. } => (),
        }
    }

    fn step(&mut self, mut message: Message) {
        if message.to != self.id {
            // For a server that had this address before, such as one whose disk was lost: its promises are not ours.
            return;
        }
        if self.hears_of_removal(&message) {
            return;
        }
        self.meet(&mut message);
        if self.turns_away(message.from) {
            return;
        }
        let (from, kind) = (message.from, message.get_msg_type());
        self.heard.insert(from, self.n_ticks);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(from, ?kind, %error, "a Raft message was not taken");
        }
    }

    /// Hands what was proposed to Raft: together, so that one message a follower carries all of it.
    fn propose(&mut self) {
        let (term, leads) = (self.raw.raft.term, self.raw.raft.state == StateRole::Leader);
        let (mut entries, mut proposals) = (Vec::new(), Vec::new());
        self.proposed_bytes = 0;
        for (data, proposal) in self.proposed.drain(..) {
            if leads && proposal.term == term {
                entries.push(Entry { data, ..Entry::default() });
                proposals.push(proposal);
            } else {
                let _ = proposal.answer.send(Err(ProposeError::NotLeader));
            }
        }
        if entries.is_empty() {
            return;
        }
        let first = self.raw.raft.raft_log.last_index() + 1;
        let mut message = Message { from: self.id, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        match self.raw.raft.step(message) {
            Ok(()) => self.proposals.extend((first..).zip(proposals).map(|(index, it)| Proposal { index, ..it })),
            // Dropped while leadership is handed over, or because too much is uncommitted.
            Err(_) => {
                let is_moving = self.raw.raft.lead_transferee.is_some();
                let error = if is_moving { ProposeError::NotLeader } else { ProposeError::Full };
                proposals.into_iter().for_each(|proposal| drop(proposal.answer.send(Err(error.clone()))));
            }
        }
    }

    /// Does all that Raft wants done, until it wants nothing. After an error nobody knows what is on the disk but a
    /// machine that is opened on it again.
    pub fn settle(&mut self) -> Result<Settled, LogError> {
        if self.in_hand.is_none() {
            self.ask_for_reads();
        }
        loop {
            let mut step = match self.in_hand.take() {
                Some((step, _)) => step,
                None => {
                    for input in std::mem::take(&mut self.deferred) {
                        self.take_at_once(input);
                    }
                    self.propose();
                    if !self.raw.has_ready() {
                        break;
                    }
                    self.begin()?
                }
            };
            let written = self.shared.borrow_mut().log.append(&mut step.entries, step.hard_state.as_ref(), step.sync);
            if let Err(error) = written {
                self.refuse_proposals(&error);
                if !error.is_full() {
                    return Err(error);
                }
                self.in_hand = Some((step, error));
                return Ok(Settled::DiskFull);
            }
            self.finish(step.ready);
        }
        self.keep_members()?;
        self.answer_reads();
        self.forget_lost();
        self.show_role();
        Ok(Settled::Done)
    }

    /// What comes before the write. A leader's followers write while it does.
    fn begin(&mut self) -> Result<Step, LogError> {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot().clone(), ready.hs().cloned())?;
        }
        self.apply(ready.take_committed_entries());
        let (entries, hard_state, sync) = (ready.take_entries(), ready.hs().cloned(), ready.must_sync());
        Ok(Step { ready, entries, hard_state, sync })
    }

    /// What may be said once the write is durable.
    fn finish(&mut self, mut ready: raft::Ready) {
        self.send(ready.take_persisted_messages());
        for read in ready.take_read_states() {
            self.confirm(&read.request_ctx, read.index);
        }
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.shared.borrow_mut().log.commit(commit);
        }
        self.send(light.take_messages());
        self.apply(light.take_committed_entries());
        self.raw.advance_apply();
        self.answer_reads();
    }

    fn send(&mut self, messages: Vec<Message>) {
        let mut batches: Vec<(u64, Vec<Bytes>)> = Vec::new();
        for mut message in messages {
            self.introduce(&mut message);
            let to = message.to;
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(message);
                continue;
            }
            let bytes = Bytes::from(message.encode_to_vec());
            match batches.iter_mut().find(|(peer, _)| *peer == to) {
                Some((_, batch)) => batch.push(bytes),
                None => batches.push((to, vec![bytes])),
            }
        }
        for (to, batch) in batches {
            match self.member(to).cloned() {
                Some(member) => self.outlet.send(&member, batch),
                None => self.raw.report_unreachable(to),
            }
        }
    }

    /// Applies what is committed, shows all of it at once, and then answers.
    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied = (entry.index, entry.term);
            match entry.get_entry_type() {
                EntryType::EntryNormal => self.apply_normal(entry),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    match ConfChangeV2::decode(&entry.data[..]) {
                        Ok(change) => self.apply_change(&entry, &change),
                        Err(error) => tracing::error!(%error, index = entry.index, "a malformed change of members"),
                    }
                }
            }
        }
        if !self.events.is_empty() || !self.answers.is_empty() {
            self.published.publish(self.view.clone(), std::mem::take(&mut self.events));
        }
        for (answer, outcome) in self.answers.drain(..) {
            let _ = answer.send(outcome);
        }
        self.shared.borrow_mut().log.applied(self.applied.0);
    }

    fn apply_normal(&mut self, entry: Entry) {
        let proposal = self.proposal_at(entry.index, entry.term);
        if entry.data.is_empty() {
            return;
        }
        if let Some(Proposal { base, next: (view, events), answer, .. }) = proposal {
            // What the proposer computed counts when it was computed from this very state. That the revisions agree is
            // not enough: where one transaction was lost and another refused they agree, and the states do not.
            if base.is(&self.view) {
                self.adopt(view, events);
                return self.answers.push((answer, Ok(self.view.revision())));
            }
            let outcome = self.compute(entry.data);
            return self.answers.push((answer, outcome));
        }
        let _ = self.compute(entry.data);
    }

    fn compute(&mut self, data: Vec<u8>) -> Result<Revision, ProposeError> {
        let (txn, at) = match codec::read_txn(data.into()) {
            Ok(read) => read,
            Err(error) => {
                // Every server reads the same bytes and comes to the same answer: the entry changes nothing.
                tracing::error!(%error, "an entry of the log cannot be read and is skipped");
                return Err(ProposeError::Lost);
            }
        };
        match self.view.apply(&txn, at) {
            Ok((view, events)) => {
                self.adopt(view, events);
                Ok(self.view.revision())
            }
            Err(refusal) => Err(ProposeError::Refused(refusal)),
        }
    }

    fn adopt(&mut self, view: View, events: Vec<Event>) {
        self.view = view;
        self.events.extend(events);
    }

    fn proposal_at(&mut self, index: u64, term: u64) -> Option<Proposal> {
        while let Some(first) = self.proposals.front() {
            if first.index > index {
                return None;
            }
            let proposal = self.proposals.pop_front()?;
            if proposal.index == index && proposal.term == term {
                return Some(proposal);
            }
            let _ = proposal.answer.send(Err(ProposeError::Lost));
        }
        None
    }

    /// Proposals of a leadership that is over may still be committed by the next leader; nobody here can tell.
    fn forget_lost(&mut self) {
        let (term, leads) = (self.raw.raft.term, self.raw.raft.state == StateRole::Leader);
        while self.proposals.front().is_some_and(|proposal| !leads || proposal.term != term) {
            if let Some(proposal) = self.proposals.pop_front() {
                let _ = proposal.answer.send(Err(ProposeError::Lost));
            }
        }
        if !leads && let Some((_, _, answer)) = self.member_change.take() {
            let _ = answer.send(Err(ChangeError::NotLeader));
        }
    }

    fn show_role(&mut self) {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        let leading = leads
            && self.applied.1 == raft.term
            && (self.refused_to.1 != raft.term || self.applied.0 >= self.refused_to.0)
            && raft.lead_transferee.is_none();
        let leader = self.member(raft.leader_id);
        self.role.send_if_modified(|shown| {
            let is_same = shown.term == raft.term && shown.leading == leading && shown.leader.as_ref() == leader;
            if !is_same {
                *shown = Role { term: raft.term, leading, leader: leader.cloned() };
            }
            !is_same
        });
    }

    fn refuse_proposals(&mut self, error: &LogError) {
        // First the role: whoever hears a refusal must not find this server leading still.
        self.role.send_replace(Role::default());
        self.refused_to = (self.raw.raft.raft_log.last_index(), self.raw.raft.term);
        let refusal = ProposeError::Disk(error.to_string());
        let proposed = self.proposed.drain(..).map(|(_, proposal)| proposal);
        for proposal in self.proposals.drain(..).chain(proposed) {
            let _ = proposal.answer.send(Err(refusal.clone()));
        }
    }
}
