//! The log on disk: segments of frames.
//!
//! A segment is a file that begins with a header and goes on with frames; a frame is what one batch of Raft wrote and one
//! fdatasync made durable: a mark, a length, a checksum (CRC-32C over length and content), and records (entries and the
//! hard state). So what a crash can tear is exactly the last frame of the last segment, and it is cut off. A bad frame
//! that is followed by a good one was not torn, it rotted: that is refused, with the file and the offset, because what
//! follows it was acknowledged.

use std::{collections::VecDeque, io, path::PathBuf};

use prost_raft::Message as _;
use raft::prelude::{Entry, HardState};

use crate::{crc32c, disk::Disk};

const HEADER: &[u8] = b"copepod-log 1\n";
const MARK: [u8; 4] = [0xC0, 0x9E, 0x90, 0xD1];
const FRAME_HEADER_BYTES: usize = 12;

/// Large enough that files are few, small enough that compaction frees space soon.
const SEGMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path}, offset {offset}: {what}; the file is damaged in its middle, and what follows was acknowledged. \
         Restore this server's directory from a backup, or remove it and let the server join again",
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
    bytes: u64,
    /// The highest index of any entry in it.
    last: u64,
}

/// The entries after the last compaction, in memory as on disk.
pub struct Log<D> {
    disk: D,
    segments: VecDeque<Segment>,
    /// Number of the next segment.
    next: u64,
    pub entries: VecDeque<Entry>,
    /// The entry before the first of `entries`: index and term.
    pub before: (u64, u64),
    pub hard_state: HardState,
    /// Bytes of the entries in memory.
    pub bytes: usize,
}

impl<D: Disk> Log<D> {
    /// Reads what is there. `before` is what the snapshot holds: entries up to it are dropped.
    pub fn open(mut disk: D, before: (u64, u64)) -> Result<Log<D>, LogError> {
        let names = disk.list().map_err(|error| LogError::Io { path: disk.place(""), error })?;
        let names: Vec<String> = names.into_iter().filter(|name| name.ends_with(".log")).collect();
        let mut read = Read { entries: VecDeque::new(), hard_state: HardState::default(), before };
        let mut segments = VecDeque::new();
        for (place, name) in names.iter().enumerate() {
            let content = disk.read(name).map_err(|error| LogError::Io { path: disk.place(name), error })?;
            let is_last = place + 1 == names.len();
            let good = read.segment(&disk, name, &content, is_last)?;
            if good.bytes < content.len() as u64 {
                tracing::warn!(
                    file = %disk.place(name).display(), offset = good.bytes,
                    "cut off the torn end of the log: it was written when the machine stopped, and never acknowledged"
                );
                disk.truncate(name, good.bytes).map_err(|error| LogError::Io { path: disk.place(name), error })?;
            }
            segments.push_back(good);
        }
        let next = names.last().and_then(|name| name.trim_end_matches(".log").parse::<u64>().ok()).unwrap_or(0) + 1;
        let Read { entries, hard_state, .. } = read;
        let bytes = entries.iter().map(size).sum();
        Ok(Log { disk, segments, next, entries, before, hard_state, bytes })
    }

    pub fn first_index(&self) -> u64 {
        self.before.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    /// `None` when the entry is compacted, or not there yet.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.before.0 {
            return Some(self.before.1);
        }
        let place = index.checked_sub(self.first_index())?;
        self.entries.get(place as usize).map(|entry| entry.term)
    }

    /// Writes a batch: one frame, one sync. On failure nothing of it counts, here or on disk.
    pub fn append(&mut self, entries: Vec<Entry>, hard_state: Option<HardState>, sync: bool) -> Result<(), LogError> {
        let mut content = Vec::new();
        for entry in &entries {
            record(&mut content, ENTRY, entry);
        }
        if let Some(hard_state) = &hard_state {
            record(&mut content, HARD_STATE, hard_state);
        }
        if content.is_empty() {
            return Ok(());
        }
        if self.segments.back().is_none_or(|segment| segment.bytes >= SEGMENT_BYTES_MAX) {
            self.begin_segment()?;
        }
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        let frame = frame(&content);
        let (name, length) = (segment.name.clone(), segment.bytes);
        let written = self.disk.append(&name, &frame).and_then(|()| if sync { self.disk.sync(&name) } else { Ok(()) });
        if let Err(error) = written {
            // Half a frame must not stay in front of the next one.
            let _ = self.disk.truncate(&name, length);
            return Err(LogError::Io { path: self.disk.place(&name), error });
        }
        segment.bytes += frame.len() as u64;
        segment.last = entries.iter().map(|entry| entry.index).fold(segment.last, u64::max);
        for entry in entries {
            self.push(entry);
        }
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state;
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) {
        while self.last_index() >= entry.index {
            let Some(replaced) = self.entries.pop_back() else { break };
            self.bytes -= size(&replaced);
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
    }

    /// Each segment begins with the hard state, so that older ones can go.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        let name = format!("{:020}.log", self.next);
        let mut content = Vec::new();
        record(&mut content, HARD_STATE, &self.hard_state);
        let mut bytes = HEADER.to_vec();
        bytes.extend(frame(&content));
        let failed = |disk: &D, error| LogError::Io { path: disk.place(&name), error };
        self.disk.replace(&name, &bytes).map_err(|error| failed(&self.disk, error))?;
        self.next += 1;
        self.segments.push_back(Segment { name, bytes: bytes.len() as u64, last: 0 });
        Ok(())
    }

    /// Forgets the entries up to `index`, which a durable snapshot holds.
    pub fn compact(&mut self, index: u64) -> Result<(), LogError> {
        let Some(term) = self.term(index) else { return Ok(()) };
        while self.first_index() <= index {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= size(&entry);
            self.before = (entry.index, entry.term);
        }
        self.before = (index, term);
        while self.segments.len() > 1 && self.segments[0].last <= index {
            let Some(old) = self.segments.pop_front() else { break };
            self.disk.remove(&old.name).map_err(|error| LogError::Io { path: self.disk.place(&old.name), error })?;
        }
        Ok(())
    }

    /// Starts over after a snapshot from the leader.
    pub fn reset(&mut self, before: (u64, u64), hard_state: HardState) -> Result<(), LogError> {
        self.entries.clear();
        self.bytes = 0;
        self.before = before;
        self.hard_state = hard_state;
        self.begin_segment()?;
        while self.segments.len() > 1 {
            let Some(old) = self.segments.pop_front() else { break };
            self.disk.remove(&old.name).map_err(|error| LogError::Io { path: self.disk.place(&old.name), error })?;
        }
        Ok(())
    }

    pub fn disk(&mut self) -> &mut D {
        &mut self.disk
    }
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + size_of::<Entry>()
}

fn record(out: &mut Vec<u8>, kind: u8, message: &impl prost_raft::Message) {
    out.push(kind);
    let bytes = message.encode_to_vec();
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

fn frame(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + content.len());
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c(content).to_le_bytes());
    out.extend_from_slice(content);
    out
}

/// The content of the frame at `offset`, if a good one is there.
fn frame_at(content: &[u8], offset: usize) -> Option<&[u8]> {
    let header = content.get(offset..offset + FRAME_HEADER_BYTES)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..4] != MARK {
        return None;
    }
    let start = offset + FRAME_HEADER_BYTES;
    let records = content.get(start..start.checked_add(word(4) as usize)?)?;
    (crc32c(records) == word(8)).then_some(records)
}

struct Read {
    entries: VecDeque<Entry>,
    hard_state: HardState,
    before: (u64, u64),
}

impl Read {
    fn segment(&mut self, disk: &impl Disk, name: &str, content: &[u8], is_last: bool) -> Result<Segment, LogError> {
        let damaged = |offset: usize, what: &'static str| LogError::Damaged { path: disk.place(name), offset, what };
        if !content.starts_with(HEADER) {
            return Err(damaged(0, "the header is not that of a log this version can read"));
        }
        let mut offset = HEADER.len();
        let mut last = 0;
        while offset < content.len() {
            let Some(records) = frame_at(content, offset) else {
                let good_follows = (offset + 1..content.len()).any(|later| frame_at(content, later).is_some());
                if good_follows || !is_last {
                    return Err(damaged(offset, "a frame whose checksum does not match"));
                }
                break;
            };
            self.records(records, &mut last).map_err(|what| damaged(offset, what))?;
            offset += FRAME_HEADER_BYTES + records.len();
        }
        Ok(Segment { name: name.to_owned(), bytes: offset as u64, last })
    }

    fn records(&mut self, mut records: &[u8], last: &mut u64) -> Result<(), &'static str> {
        const BAD: &str = "a record that cannot be read";
        while let [kind, a, b, c, d, rest @ ..] = records {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            let (bytes, rest) = rest.split_at_checked(length).ok_or(BAD)?;
            match *kind {
                ENTRY => {
                    let entry = Entry::decode(bytes).map_err(|_| BAD)?;
                    *last = (*last).max(entry.index);
                    self.entry(entry)?;
                }
                HARD_STATE => self.hard_state = HardState::decode(bytes).map_err(|_| BAD)?,
                _ => return Err("a record of an unknown kind, perhaps of a newer version"),
            }
            records = rest;
        }
        if records.is_empty() { Ok(()) } else { Err(BAD) }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), &'static str> {
        if entry.index <= self.before.0 {
            // The snapshot holds it. Entries after it that were kept from an earlier leader are replaced by it.
            self.entries.clear();
            return Ok(());
        }
        while self.entries.back().is_some_and(|held| held.index >= entry.index) {
            self.entries.pop_back();
        }
        let expected = self.entries.back().map_or(self.before.0, |held| held.index) + 1;
        if entry.index != expected {
            return Err("an entry is missing before this one");
        }
        self.entries.push_back(entry);
        Ok(())
    }
}
