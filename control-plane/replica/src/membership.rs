//! The servers of the cluster, as the log has agreed on them.

use std::collections::BTreeMap;

use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};

use crate::codec::{Malformed, Reader, Writer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// It receives the log and does not vote yet.
    pub learner: bool,
}

/// All members, and the highest id ever given: ids are never used again, since a removed server may still be out there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub members: BTreeMap<u64, Member>,
    pub last_id: u64,
}

impl Membership {
    pub fn of_founder(member: Member) -> Membership {
        Membership { last_id: member.id, members: BTreeMap::from([(member.id, member)]) }
    }

    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    /// Takes over a committed change: what each member is called stands in its context, who votes in `state`.
    pub fn apply(&mut self, change: &ConfChangeV2, state: &ConfState) {
        if let Ok(member) = read_member(&change.context) {
            self.last_id = self.last_id.max(member.id);
            self.members.insert(member.id, member);
        }
        let is_in = |id: &u64| state.voters.contains(id) || state.learners.contains(id);
        self.members.retain(|id, _| is_in(id));
        for member in self.members.values_mut() {
            member.learner = state.learners.contains(&member.id);
        }
    }

    pub fn write(&self, out: &mut Writer) {
        out.number(self.last_id);
        out.number(self.members.len() as u64);
        for member in self.members.values() {
            out.bytes(&write_member(member));
        }
    }

    pub fn read(from: &mut Reader) -> Result<Membership, Malformed> {
        let last_id = from.number()?;
        let mut members = BTreeMap::new();
        for _ in 0..from.number()? {
            let member = read_member(&from.bytes()?)?;
            members.insert(member.id, member);
        }
        Ok(Membership { members, last_id })
    }
}

/// A change of one member; the member itself travels in the context.
pub fn change(kind: ConfChangeType, member: &Member) -> ConfChangeV2 {
    let mut single = ConfChangeSingle { node_id: member.id, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    let context = if kind == ConfChangeType::RemoveNode { Vec::new() } else { write_member(member) };
    ConfChangeV2 { changes: vec![single], context, ..ConfChangeV2::default() }
}

pub fn write_member(member: &Member) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(member.id);
    out.text(&member.name);
    out.text(&member.address);
    out.u8(member.learner.into());
    out.0
}

pub fn read_member(bytes: &[u8]) -> Result<Member, Malformed> {
    let mut from = Reader::new(bytes.to_vec().into());
    Ok(Member { id: from.number()?, name: from.text()?, address: from.text()?, learner: from.u8()? == 1 })
}
