//! The log on disk: segments of frames.
//!
//! A segment is a file that begins with a header and goes on with frames; a frame is what one batch of Raft wrote and one
//! fdatasync made durable: a mark, a length, a checksum (CRC-32C over length and content), and records (entries and the
//! hard state). So what a crash can tear is exactly the last frame of the last segment, and it is cut off. A bad frame
//! that is followed by a good one, or that begins before the length which is remembered as synchronised (`synced.rs`), was
//! not torn, it rotted: that is refused, with the file and the offset, because it was acknowledged.

mod reading;

use std::{collections::VecDeque, io, path::PathBuf};

use prost_raft::Message as _;
use raft::prelude::{Entry, HardState};

use crate::{
    crc32c,
    disk::Disk,
    synced::{Notes, Synced},
};

const HEADER: &[u8] = b"copepod-log 1\n";
const MARK: [u8; 4] = [0xC0, 0x9E, 0x90, 0xD1];
const FRAME_HEADER_BYTES: usize = 12;

/// Large enough that files are few, small enough that compaction frees space soon.
const SEGMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Applied entries that stay in memory, by their data: what a follower may lack that answers a little late. At the highest
/// rates that is a twentieth of a second; more would be memory that the objects need.
const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an entry costs beside its bytes when it is read and applied, in bytes that could be read meanwhile.
const ENTRY_COST_BYTES: usize = 256;

/// Most frames are shorter; memory of longer ones is given back.
const FRAME_BYTES_KEPT: usize = 1024 * 1024;

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path}, offset {offset}: {what}. The disk has lost what this server had promised to keep, so it must not go on \
         with it: remove this server's directory, and let it join again while most of the others are whole",
        path = path.display()
    )]
    Damaged { path: PathBuf, offset: usize, what: &'static str },
}

impl LogError {
    pub fn is_full(&self) -> bool {
        matches!(self, LogError::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull)
    }
}

struct Segment {
    name: String,
    number: u32,
    bytes: u64,
    /// The highest index of any entry in it.
    last: u64,
}

/// Where an entry stands on disk.
#[derive(Clone, Copy)]
struct Place {
    segment: u32,
    offset: u32,
    length: u32,
    checksum: u32,
}

/// The entries after the last compaction, on disk; the newest of them in memory too.
///
/// The log may be half as long as the state, so memory holds what Raft asks for all the time: what is not applied yet, and a
/// little before it for followers that are a little behind. What is older is read back for those that were away.
pub struct Log<D> {
    disk: D,
    segments: VecDeque<Segment>,
    /// Number of the next segment.
    next: u32,
    /// Of all entries.
    places: VecDeque<Place>,
    /// From which index on which term holds: one a change of leader.
    terms: VecDeque<(u64, u64)>,
    /// The newest entries.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// The entry before the first: index and term.
    pub before: (u64, u64),
    pub hard_state: HardState,
    /// The hard state is newer than what is on disk: more is committed.
    is_behind: bool,
    /// What reading and applying all entries takes, in bytes.
    pub bytes: usize,
    /// Kept, so that a write allocates nothing.
    frame: Vec<u8>,
    notes: Notes,
}

impl<D: Disk> Log<D> {
    pub fn first_index(&self) -> u64 {
        self.before.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.before.0 + self.places.len() as u64
    }

    fn tail_index(&self) -> u64 {
        self.last_index() + 1 - self.tail.len() as u64
    }

    /// `None` when the entry is compacted, or not there yet.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.before.0 {
            return Some(self.before.1);
        }
        if index < self.first_index() || index > self.last_index() {
            return None;
        }
        let later = self.terms.partition_point(|(from, _)| *from <= index);
        self.terms.get(later.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// The entries from `low` up to `high`, as many as fit into `max_bytes` and at least one. Those that are not in memory
    /// are read from disk, and are what was written or an error.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        let mut n_bytes = 0;
        let mut next = low;
        while next < high {
            n_bytes += self.place(next).map_or(0, |place| u64::from(place.length));
            if next > low && n_bytes > max_bytes {
                break;
            }
            next += 1;
        }
        let in_memory = self.tail_index().clamp(low, next);
        let mut from = low;
        while from < in_memory {
            from = self.read_back(from, in_memory, &mut entries)?;
        }
        let skipped = (in_memory - self.tail_index().min(in_memory)) as usize;
        entries.extend(self.tail.iter().skip(skipped).take((next - in_memory) as usize).cloned());
        Ok(entries)
    }

    fn place(&self, index: u64) -> Option<&Place> {
        self.places.get(index.checked_sub(self.first_index())? as usize)
    }

    /// Reads the entries from `low` on that stand together in one segment; says which is next.
    fn read_back(&self, low: u64, high: u64, entries: &mut Vec<Entry>) -> Result<u64, LogError> {
        let Some(first) = self.place(low) else { return Ok(high) };
        let is_together = |place: &&Place| place.segment == first.segment && place.offset >= first.offset;
        let together: Vec<&Place> = (low..high).map_while(|index| self.place(index)).take_while(is_together).collect();
        let end = together.last().map_or(0, |last| u64::from(last.offset) + u64::from(last.length));
        let name = segment_name(first.segment);
        let length = (end - u64::from(first.offset)) as usize;
        let bytes = self.disk.read_at(&name, first.offset.into(), length);
        let bytes = bytes.map_err(|error| LogError::Io { path: self.disk.place(&name), error })?;
        for place in &together {
            let from = (place.offset - first.offset) as usize;
            let record = bytes.get(from..from + place.length as usize).filter(|it| crc32c(it) == place.checksum);
            let Some(entry) = record.and_then(|record| Entry::decode(record).ok()) else {
                let what = "an entry is not what was written";
                return Err(LogError::Damaged { path: self.disk.place(&name), offset: place.offset as usize, what });
            };
            entries.push(entry);
        }
        Ok(low + together.len() as u64)
    }

    /// Writes a batch: one frame, one sync. On failure nothing of it counts, here or on disk.
    pub fn append(
        &mut self,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
        sync: bool,
    ) -> Result<(), LogError> {
        if entries.is_empty() && !sync {
            // Only more is committed, which others know as well: it is written with what comes next. A frame that is not
            // synchronised could be torn in front of another, and that would look like rot.
            if let Some(hard_state) = hard_state {
                self.hard_state = hard_state.clone();
                self.is_behind = true;
            }
            return Ok(());
        }
        let newest = self.hard_state.clone();
        let hard_state = hard_state.or_else(|| self.is_behind.then_some(&newest));
        if entries.is_empty() && hard_state.is_none() {
            return Ok(());
        }
        if self.segments.back().is_none_or(|segment| segment.bytes >= SEGMENT_BYTES_MAX) {
            self.begin_segment()?;
        }
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        self.frame.clear();
        self.frame.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            let from = record(&mut self.frame, ENTRY, entry);
            places.push(place(segment.number, segment.bytes, from, &self.frame[from..]));
        }
        if let Some(hard_state) = hard_state {
            record(&mut self.frame, HARD_STATE, hard_state);
        }
        seal(&mut self.frame);
        let (name, length) = (segment.name.clone(), segment.bytes);
        let written =
            self.disk.append(&name, &self.frame).and_then(|()| if sync { self.disk.sync(&name) } else { Ok(()) });
        if let Err(error) = written {
            // Half a frame must not stay in front of the next one.
            let _ = self.disk.truncate(&name, length);
            return Err(LogError::Io { path: self.disk.place(&name), error });
        }
        segment.bytes += self.frame.len() as u64;
        if sync {
            self.notes.write(&mut self.disk, Synced { segment: segment.number, bytes: segment.bytes });
        }
        segment.last = entries.iter().map(|entry| entry.index).fold(segment.last, u64::max);
        self.frame.shrink_to(FRAME_BYTES_KEPT);
        for (entry, place) in entries.drain(..).zip(places) {
            self.push(entry, place);
        }
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
            self.is_behind = false;
        }
        Ok(())
    }

    /// More is committed; written with what comes next.
    pub fn commit(&mut self, index: u64) {
        self.hard_state.commit = index;
        self.is_behind = true;
    }

    /// Takes over an entry, in place of any that had its index or a later one.
    fn push(&mut self, entry: Entry, place: Place) {
        while self.last_index() >= entry.index && self.pop() {}
        if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
            self.terms.push_back((entry.index, entry.term));
        }
        self.bytes += cost(&place);
        self.places.push_back(place);
        self.tail_bytes += entry.data.len();
        self.tail.push_back(entry);
    }

    fn pop(&mut self) -> bool {
        let Some(place) = self.places.pop_back() else { return false };
        self.bytes -= cost(&place);
        if let Some(entry) = self.tail.pop_back() {
            self.tail_bytes -= entry.data.len();
        }
        while self.terms.back().is_some_and(|(from, _)| *from > self.last_index()) {
            self.terms.pop_back();
        }
        true
    }

    /// Everything up to `index` is applied: of that, memory keeps the newest.
    pub fn applied(&mut self, index: u64) {
        while self.tail_bytes > TAIL_BYTES_MAX && self.tail_index() <= index {
            let Some(entry) = self.tail.pop_front() else { return };
            self.tail_bytes -= entry.data.len();
        }
    }

    /// Each segment begins with the hard state, so that older ones can go.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        let name = segment_name(self.next);
        let mut content = vec![0; FRAME_HEADER_BYTES];
        record(&mut content, HARD_STATE, &self.hard_state);
        seal(&mut content);
        let mut bytes = HEADER.to_vec();
        bytes.extend(content);
        let failed = |disk: &D, error| LogError::Io { path: disk.place(&name), error };
        self.disk.replace(&name, &bytes).map_err(|error| failed(&self.disk, error))?;
        let length = bytes.len() as u64;
        self.notes.write(&mut self.disk, Synced { segment: self.next, bytes: length });
        self.segments.push_back(Segment { name, number: self.next, bytes: length, last: 0 });
        self.next += 1;
        Ok(())
    }

    /// The lowest index from which on reading and applying takes no more than `bytes`.
    pub fn index_of_last(&self, bytes: usize) -> u64 {
        let mut n_bytes = 0;
        let newest = self.places.iter().rev().take_while(|place| {
            n_bytes += cost(place);
            n_bytes <= bytes
        });
        self.last_index() + 1 - newest.count() as u64
    }

    /// Forgets the entries up to `index`, which a durable snapshot holds.
    pub fn compact(&mut self, index: u64) -> Result<(), LogError> {
        let Some(term) = self.term(index) else { return Ok(()) };
        while self.first_index() <= index {
            let in_memory = self.tail_index() == self.first_index();
            let Some(place) = self.places.pop_front() else { break };
            self.bytes -= cost(&place);
            if in_memory && let Some(entry) = self.tail.pop_front() {
                self.tail_bytes -= entry.data.len();
            }
            self.before.0 += 1;
        }
        self.before = (index, term);
        while self.terms.get(1).is_some_and(|(from, _)| *from <= index + 1) {
            self.terms.pop_front();
        }
        self.places.shrink_to(self.places.len() * 2);
        while self.segments.len() > 1 && self.segments[0].last <= index {
            let Some(old) = self.segments.pop_front() else { break };
            self.disk.remove(&old.name).map_err(|error| LogError::Io { path: self.disk.place(&old.name), error })?;
        }
        Ok(())
    }

    /// Starts over after a snapshot from the leader.
    pub fn reset(&mut self, before: (u64, u64), hard_state: HardState) -> Result<(), LogError> {
        self.forget();
        self.before = before;
        self.hard_state = hard_state;
        self.begin_segment()?;
        while self.segments.len() > 1 {
            let Some(old) = self.segments.pop_front() else { break };
            self.disk.remove(&old.name).map_err(|error| LogError::Io { path: self.disk.place(&old.name), error })?;
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.places.clear();
        self.terms.clear();
        self.tail.clear();
        (self.bytes, self.tail_bytes) = (0, 0);
    }

    pub fn disk(&mut self) -> &mut D {
        &mut self.disk
    }
}

fn segment_name(number: u32) -> String {
    format!("{number:020}.log")
}

/// Of an entry whose encoding stands at `from` in a frame that begins at `frame` in its segment.
fn place(segment: u32, frame: u64, from: usize, encoded: &[u8]) -> Place {
    // A segment is at most `SEGMENT_BYTES_MAX` and one frame long, far from what 32 bits hold.
    Place { segment, offset: (frame + from as u64) as u32, length: encoded.len() as u32, checksum: crc32c(encoded) }
}

/// What an entry costs whoever reads and applies it, in bytes.
fn cost(place: &Place) -> usize {
    place.length as usize + ENTRY_COST_BYTES
}

/// Appends a record; says where its content begins.
fn record(out: &mut Vec<u8>, kind: u8, message: &impl prost_raft::Message) -> usize {
    let length = message.encoded_len();
    out.reserve(5 + length);
    out.push(kind);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    let from = out.len();
    message.encode_raw(out);
    from
}

/// Writes the header of a frame, for which there is room in front of its records.
fn seal(frame: &mut [u8]) {
    let (header, content) = frame.split_at_mut(FRAME_HEADER_BYTES);
    header[..4].copy_from_slice(&MARK);
    header[4..8].copy_from_slice(&(content.len() as u32).to_le_bytes());
    header[8..].copy_from_slice(&crc32c(content).to_le_bytes());
}

#[cfg(test)]
mod tests;
