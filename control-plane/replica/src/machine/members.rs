//! Who the members are, where they are, and changes of that.

use std::sync::Arc;

use prost_raft::Message as _;
use raft::{
    StateRole,
    prelude::{ConfChangeType, ConfChangeV2, Entry, Message, MessageType},
};

use super::{ELECTION_TICKS, Machine, MemberAnswer};
use crate::{
    Member,
    disk::Disk,
    log::LogError,
    membership::{change, read_member, write_member},
    replica::ChangeError,
};

/// A learner votes when it is so close to the end of the log.
const LEARNER_LAG_MAX: u64 = 100;

/// A member that was not heard for so long is away: sixteen unanswered heartbeats, and longer than any election.
const SILENT_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// How the context of a message begins that tells of its sender. Raft's own contexts are numbers and one word.
const INTRODUCTION: &[u8] = b"from:";

/// The whole context of a message that says to its receiver that it is no member any more.
const REMOVED: &[u8] = b"removed";

/// Servers known beside the members. More than a cluster has; those that are gone make room.
const CONTACTS_MAX: usize = 32;

impl<D: Disk> Machine<D> {
    /// Learns where the sender is, if the log has not told yet: who was away for long may be asked by servers that joined
    /// meanwhile, and must be able to answer them before it can have the entries that name them.
    pub(super) fn meet(&mut self, message: &mut Message) {
        let Some(introduction) = message.context.strip_prefix(INTRODUCTION).filter(|_| introduces(message)) else {
            return;
        };
        let introduced = self.member(message.from).is_none().then(|| read_member(introduction));
        message.context.clear();
        let Some(Ok(member)) = introduced else { return };
        if member.id == message.from {
            if self.contacts.len() >= CONTACTS_MAX {
                self.contacts.remove(0);
            }
            self.contacts.push(member);
        }
    }

    /// Whether a server has been a member and is none any more. Ids are given in order and never again, so a state that
    /// has seen a later one, or this one, and does not list it, has seen it leave; one that lags behind says nothing.
    fn was_removed(&self, id: u64) -> bool {
        id <= self.membership.last_id && !self.membership.members.contains_key(&id)
    }

    /// Tells a sender that was removed while it was away, and would ask for votes for ever. True if it was.
    pub(super) fn turns_away(&mut self, id: u64) -> bool {
        if !self.was_removed(id) {
            return false;
        }
        let known = self.contacts.iter().position(|contact| contact.id == id);
        if let Some(member) = known.map(|place| self.contacts.remove(place)) {
            let context = REMOVED.to_vec();
            let mut message = Message { from: self.id, to: id, reject: true, context, ..Message::default() };
            message.set_msg_type(MessageType::MsgRequestPreVoteResponse);
            self.outlet.send(&member, vec![message.encode_to_vec().into()]);
        }
        true
    }

    /// Whether the message says that this server is no member any more. What the log says stays as it is: whoever runs
    /// this server is shown the members without it, and ends.
    pub(super) fn hears_of_removal(&self, message: &Message) -> bool {
        if message.context != REMOVED {
            return false;
        }
        let others = self.membership.members.values().filter(|member| member.id != self.id);
        self.members.send_replace(Arc::new(others.cloned().collect()));
        true
    }

    /// Says where this server is.
    pub(super) fn introduce(&self, message: &mut Message) {
        if introduces(message)
            && message.context.is_empty()
            && let Some(own) = self.membership.members.get(&self.id)
        {
            message.context = [INTRODUCTION, &write_member(own)].concat();
        }
    }

    pub(super) fn member(&self, id: u64) -> Option<&Member> {
        self.membership.members.get(&id).or_else(|| self.contacts.iter().find(|member| member.id == id))
    }

    pub(super) fn apply_change(&mut self, entry: &Entry, change: &ConfChangeV2) {
        let state = match self.raw.apply_conf_change(change) {
            Ok(state) => state,
            Err(error) => return tracing::error!(%error, "a change of members cannot be applied"),
        };
        self.membership.apply(change, &state);
        self.has_new_members = true;
        if self.raw.raft.state == StateRole::Leader && !state.voters.contains(&self.id) {
            // Raft counts a leader's own vote, and this one has none any more. The others elect one of theirs.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        {
            let mut shared = self.shared.borrow_mut();
            shared.conf_state = state;
            // A new member takes no snapshot that does not know it.
            shared.ready = None;
        }
        self.show_members();
        if let Some((index, member, answer)) = self.member_change.take() {
            if index == entry.index {
                let _ = answer.send(Ok(member));
            } else {
                self.member_change = Some((index, member, answer));
            }
        }
    }

    /// A server that starts again must not take an older set of members for its own and be elected by it: that a change
    /// is committed is written down at once.
    pub(super) fn keep_members(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.has_new_members)
            && let Err(error) = self.shared.borrow_mut().log.append(&mut Vec::new(), None, true)
        {
            self.has_new_members = true;
            return if error.is_full() { Ok(()) } else { Err(error) };
        }
        Ok(())
    }

    pub(super) fn show_members(&self) {
        self.members.send_replace(Arc::new(self.membership.members.values().cloned().collect()));
    }

    pub(super) fn add_member(&mut self, name: String, address: String, answer: MemberAnswer) {
        if self.raw.raft.state != StateRole::Leader {
            return drop(answer.send(Err(ChangeError::NotLeader)));
        }
        // Whoever asks has nothing on its disk. What the one of this name had promised, it may know no more; so it is not
        // that one, and gets an id of its own.
        if let Some(known) = self.membership.named(&name) {
            let is_alive = known.id == self.id || self.hears(known.id);
            let error = if is_alive { ChangeError::Alive(name) } else { ChangeError::Silent(known.id) };
            return drop(answer.send(Err(error)));
        }
        let id = self.membership.last_id + 1;
        self.change(ConfChangeType::AddLearnerNode, Member { id, name, address, learner: true }, answer);
    }

    fn hears(&self, id: u64) -> bool {
        self.heard.get(&id).is_some_and(|at| self.n_ticks - at <= SILENT_TICKS)
    }

    pub(super) fn remove_member(&mut self, id: u64, answer: MemberAnswer) {
        if self.raw.raft.state != StateRole::Leader {
            return drop(answer.send(Err(ChangeError::NotLeader)));
        }
        let Some(member) = self.membership.members.get(&id).cloned() else {
            return drop(answer.send(Err(ChangeError::Unknown(id))));
        };
        let voters = self.membership.members.values().filter(|member| !member.learner).count();
        if !member.learner && voters == 1 {
            return drop(answer.send(Err(ChangeError::LastVoter)));
        }
        let left = self.membership.members.values().filter(|other| !other.learner && other.id != id);
        let silent: Vec<&str> = left
            .filter(|other| other.id != self.id && !self.hears(other.id))
            .map(|other| other.name.as_str())
            .collect();
        let n_left = voters - usize::from(!member.learner);
        if !member.learner && n_left - silent.len() < n_left / 2 + 1 {
            let error = ChangeError::NoMajority { name: member.name, silent: silent.join(", ") };
            return drop(answer.send(Err(error)));
        }
        self.change(ConfChangeType::RemoveNode, member, answer);
    }

    /// On the leader.
    fn change(&mut self, kind: ConfChangeType, member: Member, answer: MemberAnswer) {
        if self.member_change.is_some() || self.raw.raft.has_pending_conf() {
            return drop(answer.send(Err(ChangeError::Busy)));
        }
        match self.raw.propose_conf_change(Vec::new(), change(kind, &member)) {
            Ok(()) => self.member_change = Some((self.raw.raft.raft_log.last_index(), member, answer)),
            Err(_) => drop(answer.send(Err(ChangeError::Busy))),
        }
    }

    pub(super) fn promote_learner(&mut self) {
        if self.raw.raft.state != StateRole::Leader || self.raw.raft.has_pending_conf() {
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        let caught_up = self.membership.members.values().find(|member| {
            let progress = self.raw.raft.prs().get(member.id);
            member.learner
                && progress.is_some_and(|progress| progress.matched > 0 && progress.matched + LEARNER_LAG_MAX >= last)
        });
        if let Some(member) = caught_up {
            let voter = Member { learner: false, ..member.clone() };
            tracing::info!(server = voter.name, "has caught up and votes from now on");
            let _ = self.raw.propose_conf_change(Vec::new(), change(ConfChangeType::AddNode, &voter));
        }
    }

    pub(super) fn transfer(&mut self, to: Option<u64>) {
        if self.raw.raft.state != StateRole::Leader {
            return;
        }
        let progress = self.raw.raft.prs();
        let best = self
            .membership
            .members
            .values()
            .filter(|member| member.id != self.id && !member.learner && to.is_none_or(|to| member.id == to))
            .filter_map(|member| progress.get(member.id).map(|progress| (progress.matched, member.id)))
            .max();
        if let Some((_, id)) = best {
            self.raw.transfer_leader(id);
        }
    }
}

/// Whether a message may tell of its sender: those that ask for an answer. Where Raft puts something into the context
/// itself, another of these follows soon.
fn introduces(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgAppend
            | MessageType::MsgHeartbeat
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestPreVote
    )
}
