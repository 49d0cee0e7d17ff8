//! A whole state in one file: `copepod-snapshot`, a version, what Raft knows of it, the members, every object, a checksum.

use std::sync::Arc;

use bytes::Bytes;
use copepod_api::{Object, Revision};
use copepod_store::View;
use raft::prelude::{ConfState, SnapshotMetadata};

use crate::{
    codec::{Malformed, Reader, Writer},
    crc32c,
    membership::Membership,
};

const MAGIC: &[u8] = b"copepod-snapshot\n";
const VERSION: u8 = 1;

/// A state and its place in the log.
#[derive(Clone)]
pub struct State {
    pub view: View,
    pub index: u64,
    pub term: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub membership: Membership,
    pub cluster_id: String,
}

impl State {
    pub fn conf_state(&self) -> ConfState {
        ConfState { voters: self.voters.clone(), learners: self.learners.clone(), ..ConfState::default() }
    }

    pub fn metadata(&self) -> SnapshotMetadata {
        SnapshotMetadata { conf_state: Some(self.conf_state()), index: self.index, term: self.term }
    }

    pub fn write(&self) -> Bytes {
        let mut out = Writer(MAGIC.to_vec());
        out.u8(VERSION);
        out.number(self.index);
        out.number(self.term);
        for ids in [&self.voters, &self.learners] {
            out.number(ids.len() as u64);
            ids.iter().for_each(|id| out.number(*id));
        }
        out.text(&self.cluster_id);
        self.membership.write(&mut out);
        out.number(self.view.revision().0);
        out.time(self.view.at());
        let resources: Vec<_> = self.view.resources().cloned().collect();
        out.number(resources.iter().map(|resource| self.view.count(resource) as u64).sum());
        for resource in &resources {
            for object in self.view.objects(resource, None) {
                out.key(&object.key);
                out.number(object.revision.0);
                out.body(&object.body());
            }
        }
        let checksum = crc32c(&out.0);
        out.0.extend_from_slice(&checksum.to_le_bytes());
        out.0.into()
    }

    pub fn read(bytes: Bytes) -> Result<State, Malformed> {
        let length = bytes.len().checked_sub(4).ok_or(Malformed("snapshot: too short"))?;
        let (content, checksum) = (bytes.slice(..length), &bytes[length..]);
        if !content.starts_with(MAGIC) {
            return Err(Malformed("snapshot: not a snapshot of copepod"));
        }
        if crc32c(&content).to_le_bytes() != checksum {
            return Err(Malformed("snapshot: its checksum does not match"));
        }
        let mut from = Reader::new(content.slice(MAGIC.len()..));
        if from.u8()? != VERSION {
            return Err(Malformed("snapshot: written by a newer version"));
        }
        let (index, term) = (from.number()?, from.number()?);
        let (voters, learners) = (ids(&mut from)?, ids(&mut from)?);
        let cluster_id = from.text()?;
        let membership = Membership::read(&mut from)?;
        let (revision, at) = (Revision(from.number()?), from.time()?);
        let n_objects = from.number()?;
        let mut objects = Vec::new();
        for _ in 0..n_objects {
            let key = from.key()?;
            let revision = Revision(from.number()?);
            let body = from.body()?;
            objects.push(Object::store(key, &body, revision).map_err(|_| Malformed("object"))?);
        }
        if !from.is_empty() {
            return Err(Malformed("snapshot: more than its objects"));
        }
        let view = View::restore(revision, at, objects);
        Ok(State { view, index, term, voters, learners, membership, cluster_id })
    }

    pub fn file_name(&self) -> String {
        format!("{:020}.snapshot", self.index)
    }
}

pub fn is_file(name: &str) -> bool {
    name.ends_with(".snapshot")
}

fn ids(from: &mut Reader) -> Result<Vec<u64>, Malformed> {
    (0..from.number()?).map(|_| from.number()).collect()
}

/// A snapshot as it is sent: shared by all who need it.
#[derive(Clone)]
pub struct Encoded {
    pub metadata: Arc<SnapshotMetadata>,
    pub data: Bytes,
}
