//! A whole state in one file, written and read in a stream.
//!
//! `copepod-snapshot`, a version, and pieces: a length, a checksum (CRC-32C), and that many bytes of records. The first
//! piece begins with what Raft knows of the state and the members; then come the objects. No record is cut in two. The
//! last piece is empty, and its checksum is of everything before. A state may be larger than what memory has left, so
//! neither side ever holds more than a piece.
//!
//! Version 1 was one piece with its checksum at the end; it is still read.

use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use copepod_api::{Object, Revision, Timestamp};
use copepod_store::View;
use raft::prelude::{ConfState, SnapshotMetadata};

use crate::{
    codec::{Malformed, Reader, Writer},
    crc32c, crc32c_append,
    membership::Membership,
};

const MAGIC: &[u8] = b"copepod-snapshot\n";
const VERSION: u8 = 2;
const VERSION_WHOLE: u8 = 1;

/// A piece ends with the record that makes it so long: few enough calls, and little memory.
const PIECE_BYTES: usize = 512 * 1024;

/// A piece longer than this was not written by us: the largest object is far smaller.
const PIECE_BYTES_MAX: usize = 64 * 1024 * 1024;

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

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// In the piece that begins there.
    #[error("damaged at offset {offset}: {what}")]
    Damaged { offset: u64, what: Malformed },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a snapshot holds, without its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    pub cluster_id: String,
    pub revision: Revision,
    /// Of the newest transaction.
    pub at: Timestamp,
    pub n_objects: u64,
}

/// Reads a snapshot to its end, decodes every object, and keeps none: however large it is, that takes little memory.
pub fn check(source: &mut dyn Read) -> Result<Contents, SnapshotError> {
    Records::read(source, |records, head| {
        for _ in 0..head.n_objects {
            records.object()?;
        }
        Ok(Contents { cluster_id: head.cluster_id, revision: head.revision, at: head.at, n_objects: head.n_objects })
    })
}

/// What stands before the objects.
struct Head {
    index: u64,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    cluster_id: String,
    membership: Membership,
    revision: Revision,
    at: Timestamp,
    n_objects: u64,
}

impl State {
    pub fn conf_state(&self) -> ConfState {
        ConfState { voters: self.voters.clone(), learners: self.learners.clone(), ..ConfState::default() }
    }

    pub fn metadata(&self) -> SnapshotMetadata {
        SnapshotMetadata { conf_state: Some(self.conf_state()), index: self.index, term: self.term }
    }

    /// Hands everything to `out`, piece by piece; says how many bytes that were.
    pub fn write(&self, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
        let mut pieces = Pieces { out, checksum: 0, n_bytes: 0 };
        pieces.begin()?;
        let mut piece = Writer(Vec::with_capacity(PIECE_BYTES * 2));
        self.write_head(&mut piece);
        let resources: Vec<_> = self.view.resources().cloned().collect();
        piece.number(resources.iter().map(|resource| self.view.count(resource) as u64).sum());
        for resource in &resources {
            for object in self.view.objects(resource, None) {
                if piece.0.len() >= PIECE_BYTES {
                    pieces.write(&piece.0)?;
                    piece.0.clear();
                }
                piece.key(&object.key);
                piece.number(object.revision.0);
                let (gap, before, after) = object.body_parts();
                piece.number(gap.into());
                piece.number((before.len() + after.len()) as u64);
                piece.0.extend_from_slice(&before);
                piece.0.extend_from_slice(&after);
            }
        }
        pieces.write(&piece.0)?;
        pieces.end()
    }

    fn write_head(&self, out: &mut Writer) {
        out.number(self.index);
        out.number(self.term);
        for ids in [&self.voters, &self.learners] {
            out.number(ids.len() as u64);
            ids.iter().for_each(|id| out.number(*id));
        }
        out.text(&self.cluster_id);
        self.membership.write(out);
        out.number(self.view.revision().0);
        out.time(self.view.at());
    }

    /// Reads what `write` wrote, to its end.
    pub fn read(source: &mut dyn Read) -> Result<State, SnapshotError> {
        Records::read(source, |records, head| {
            let mut failure = None;
            let objects =
                (0..head.n_objects).map_while(|_| records.object().map_err(|error| failure = Some(error)).ok());
            let view = View::restore(head.revision, head.at, objects);
            if let Some(failure) = failure {
                return Err(failure);
            }
            let Head { index, term, voters, learners, cluster_id, membership, .. } = head;
            Ok(State { view, index, term, voters, learners, membership, cluster_id })
        })
    }

    /// Once it is in its file.
    pub fn ready(&self) -> Ready {
        Ready { metadata: Arc::new(self.metadata()), name: self.file_name() }
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

/// An end before the end is damage, not a failure of the disk.
fn short(error: io::Error, what: &'static str) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Malformed(what).into(),
        _ => error.into(),
    }
}

struct Pieces<'a> {
    out: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    /// Of the contents of all pieces.
    checksum: u32,
    n_bytes: u64,
}

impl Pieces<'_> {
    fn begin(&mut self) -> io::Result<()> {
        let mut beginning = MAGIC.to_vec();
        beginning.push(VERSION);
        self.put(&beginning)
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(|_| io::Error::other("an object is too large"))?;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&crc32c(content).to_le_bytes());
        self.checksum = crc32c_append(self.checksum, content);
        self.put(&header)?;
        self.put(content)
    }

    fn end(mut self) -> io::Result<u64> {
        let mut header = [0; 8];
        header[4..].copy_from_slice(&self.checksum.to_le_bytes());
        self.put(&header)?;
        Ok(self.n_bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.n_bytes += bytes.len() as u64;
        (self.out)(bytes)
    }
}

/// The records of a snapshot, a piece at a time.
struct Records<'a> {
    source: &'a mut dyn Read,
    /// How far it is read, and where the piece begins.
    n_read: u64,
    offset: u64,
    checksum: u32,
    piece: Reader,
    has_ended: bool,
}

impl<'a> Records<'a> {
    /// Reads what `objects` takes, which is all of it, and says where damage is.
    fn read<T>(
        source: &'a mut dyn Read,
        objects: impl FnOnce(&mut Records<'a>, Head) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let piece = Reader::new(Bytes::new());
        let mut records = Records { source, n_read: 0, offset: 0, checksum: 0, piece, has_ended: false };
        let mut outcome = records.begin().and_then(|head| objects(&mut records, head));
        if outcome.is_ok()
            && let Err(error) = records.end()
        {
            outcome = Err(error);
        }
        outcome.map_err(|error| match error {
            SnapshotError::Malformed(what) => SnapshotError::Damaged { offset: records.offset, what },
            other => other,
        })
    }

    fn begin(&mut self) -> Result<Head, SnapshotError> {
        let mut beginning = vec![0; MAGIC.len() + 1];
        self.take(&mut beginning, "snapshot: too short")?;
        if !beginning.starts_with(MAGIC) {
            return Err(Malformed("snapshot: not a snapshot of copepod").into());
        }
        match beginning[MAGIC.len()] {
            VERSION => (),
            VERSION_WHOLE => self.whole(beginning)?,
            _ => return Err(Malformed("snapshot: written by a newer version").into()),
        }
        self.fill()?;
        let from = &mut self.piece;
        Ok(Head {
            index: from.number()?,
            term: from.number()?,
            voters: ids(from)?,
            learners: ids(from)?,
            cluster_id: from.text()?,
            membership: Membership::read(from)?,
            revision: Revision(from.number()?),
            at: from.time()?,
            n_objects: from.number()?,
        })
    }

    /// Of version 1: all of it at once.
    fn whole(&mut self, mut bytes: Vec<u8>) -> Result<(), SnapshotError> {
        let start = bytes.len();
        self.source.read_to_end(&mut bytes)?;
        let bytes = Bytes::from(bytes);
        let end = bytes.len().checked_sub(4).filter(|end| *end >= start).ok_or(Malformed("snapshot: too short"))?;
        if crc32c(&bytes[..end]).to_le_bytes() != bytes[end..] {
            return Err(Malformed("snapshot: its checksum does not match").into());
        }
        self.piece = Reader::new(bytes.slice(start..end));
        self.has_ended = true;
        Ok(())
    }

    /// An end before the end is damage.
    fn take(&mut self, into: &mut [u8], what: &'static str) -> Result<(), SnapshotError> {
        self.source.read_exact(into).map_err(|error| short(error, what))?;
        self.n_read += into.len() as u64;
        Ok(())
    }

    /// Makes the next piece the one that is read, when this one is read to its end.
    fn fill(&mut self) -> Result<(), SnapshotError> {
        while self.piece.is_empty() && !self.has_ended {
            self.offset = self.n_read;
            let mut header = [0; 8];
            self.take(&mut header, "snapshot: it ends too early")?;
            let [a, b, c, d, checksum @ ..] = header;
            let (length, checksum) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes(checksum));
            if length == 0 {
                if checksum != self.checksum {
                    return Err(Malformed("snapshot: its checksum does not match").into());
                }
                self.has_ended = true;
                return Ok(());
            }
            if length > PIECE_BYTES_MAX {
                return Err(Malformed("snapshot: a piece is too long").into());
            }
            let mut content = vec![0; length];
            self.take(&mut content, "snapshot: it ends too early")?;
            if crc32c(&content) != checksum {
                return Err(Malformed("snapshot: the checksum of a piece does not match").into());
            }
            self.checksum = crc32c_append(self.checksum, &content);
            self.piece = Reader::new(content.into());
        }
        Ok(())
    }

    fn object(&mut self) -> Result<Object, SnapshotError> {
        self.fill()?;
        let key = self.piece.key()?;
        let revision = Revision(self.piece.number()?);
        let body = self.piece.body()?;
        Ok(Object::store(key, &body, revision).map_err(|_| Malformed("object"))?)
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        self.fill()?;
        if !self.piece.is_empty() || self.source.read(&mut [0])? != 0 {
            return Err(Malformed("snapshot: more than its objects").into());
        }
        Ok(())
    }
}

/// A snapshot in its file, as it can be sent.
#[derive(Clone)]
pub struct Ready {
    pub metadata: Arc<SnapshotMetadata>,
    pub name: String,
}

#[cfg(test)]
mod tests {
    use copepod_api::{
        Body, Expect, Key, Op, Txn,
        resource::{CONFIG_MAPS, PODS},
    };
    use serde_json::json;

    use super::*;
    use crate::Member;

    fn state(n_objects: usize, payload: usize) -> State {
        let put = |number: usize| {
            let resource = if number.is_multiple_of(3) { PODS } else { CONFIG_MAPS };
            let name = format!("o{number}");
            let object = json!({"metadata": {"name": name, "uid": name}, "data": "x".repeat(payload)});
            Op::Put { key: Key::new(resource, "d", name), body: Body::encode(&object), expect: Expect::Any }
        };
        let txn = Txn { ops: (0..n_objects).map(put).collect() };
        let view = View::default().apply(&txn, Timestamp::new(7, 8).unwrap()).unwrap().0;
        let member = Member { id: 3, name: "s3".to_owned(), address: "s3:1".to_owned(), learner: false };
        State {
            view,
            index: 300,
            term: 4,
            voters: vec![3],
            learners: vec![9],
            membership: Membership::of_founder(member),
            cluster_id: "c".to_owned(),
        }
    }

    /// The file, and the longest piece that was handed on.
    fn written(state: &State) -> (Vec<u8>, usize) {
        let (mut bytes, mut longest) = (Vec::new(), 0);
        let mut out = |piece: &[u8]| {
            longest = longest.max(piece.len());
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let n_bytes = state.write(&mut out).unwrap();
        assert_eq!(n_bytes, bytes.len() as u64);
        (bytes, longest)
    }

    fn read(bytes: &[u8]) -> Result<State, SnapshotError> {
        State::read(&mut &bytes[..])
    }

    fn shown(state: &State) -> Vec<(String, Bytes)> {
        let all = [CONFIG_MAPS, PODS];
        let objects = all.iter().flat_map(|resource| state.view.objects(resource, None));
        objects.map(|object| (format!("{object:?}"), object.bytes())).collect()
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        for n_objects in [0, 1, 500] {
            let state = state(n_objects, 100);
            let back = read(&written(&state).0).unwrap();
            assert_eq!(shown(&back), shown(&state));
            assert_eq!((back.view.revision(), back.view.at()), (state.view.revision(), state.view.at()));
            assert_eq!((back.index, back.term, back.cluster_id.as_str()), (300, 4, "c"));
            assert_eq!((back.metadata(), back.membership), (state.metadata(), state.membership));
        }
    }

    #[test]
    fn no_more_than_a_piece_is_held_at_once() {
        let (bytes, longest) = written(&state(300, 10_000));
        assert!(bytes.len() > 5 * PIECE_BYTES);
        assert!(longest < PIECE_BYTES + 11_000, "{longest}");
    }

    #[test]
    fn a_snapshot_cut_or_changed_anywhere_is_refused() {
        let bytes = written(&state(2, 10)).0;
        for place in 0..bytes.len() {
            assert!(read(&bytes[..place]).is_err(), "{place}");
            let mut rotten = bytes.clone();
            rotten[place] ^= 1;
            assert!(read(&rotten).is_err(), "{place}");
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_check_decodes_everything_and_says_where_damage_is() {
        let (mut bytes, _) = written(&state(300, 10_000));
        let contents = check(&mut &bytes[..]).unwrap();
        assert_eq!((contents.n_objects, contents.revision, &*contents.cluster_id), (300, Revision(300), "c"));
        let second = MAGIC.len() + 1 + 8 + u32::from_le_bytes(bytes[18..22].try_into().unwrap()) as usize;
        bytes[second + 100] ^= 1;
        let refusal = check(&mut &bytes[..]).unwrap_err().to_string();
        assert!(refusal.contains(&format!("offset {second}:")), "{refusal}");
    }

    #[test]
    fn the_first_version_is_still_read() {
        let state = state(20, 50);
        let mut out = Writer(MAGIC.to_vec());
        out.u8(VERSION_WHOLE);
        state.write_head(&mut out);
        out.number(20);
        for object in [CONFIG_MAPS, PODS].iter().flat_map(|resource| state.view.objects(resource, None)) {
            out.key(&object.key);
            out.number(object.revision.0);
            out.body(&object.body());
        }
        let checksum = crc32c(&out.0);
        out.0.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(shown(&read(&out.0).unwrap()), shown(&state));
        out.0[60] ^= 1;
        assert!(read(&out.0).is_err());
    }
}
