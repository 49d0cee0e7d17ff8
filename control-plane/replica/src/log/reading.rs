//! A log is read back: what is good, what was torn, and what has rotted.

use std::{collections::VecDeque, io};

use prost_raft::Message as _;
use raft::prelude::{Entry, HardState};

use super::{ENTRY, FRAME_HEADER_BYTES, HARD_STATE, HEADER, Log, LogError, MARK, Place, Segment, place, segment_name};
use crate::{
    crc32c,
    disk::Disk,
    synced::{self, Notes, Synced},
};

impl<D: Disk> Log<D> {
    /// Reads what is there. `before` is what the snapshot holds: entries up to it are dropped.
    pub fn open(disk: D, before: (u64, u64)) -> Result<Log<D>, LogError> {
        let names = disk.list().map_err(|error| LogError::Io { path: disk.place(""), error })?;
        let names: Vec<String> = names.into_iter().filter(|name| name.ends_with(".log")).collect();
        let mut log = Log {
            disk,
            segments: VecDeque::new(),
            next: 1,
            places: VecDeque::new(),
            terms: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            before,
            hard_state: HardState::default(),
            is_behind: false,
            bytes: 0,
            frame: Vec::new(),
            notes: Notes::default(),
        };
        let failed = |disk: &D, name: &str, error| LogError::Io { path: disk.place(name), error };
        let synced = Synced::read(&log.disk).map_err(|error| failed(&log.disk, synced::FILE, error))?;
        for (place, name) in names.iter().enumerate() {
            let content = log.disk.read(name).map_err(|error| failed(&log.disk, name, error))?;
            let is_last = place + 1 == names.len();
            let good = log.read_segment(name, &content, is_last, synced)?;
            if good.bytes < content.len() as u64 {
                tracing::warn!(
                    file = %log.disk.place(name).display(), offset = good.bytes,
                    "cut off the torn end of the log: it was written when the machine stopped, and never acknowledged"
                );
                let cut = log.disk.truncate(name, good.bytes);
                cut.map_err(|error| failed(&log.disk, name, error))?;
            }
            if is_last && (Synced { segment: good.number, bytes: good.bytes }) > synced {
                log.make_durable(&good, &content, synced).map_err(|error| failed(&log.disk, name, error))?;
            }
            log.next = good.number + 1;
            log.segments.push_back(good);
        }
        if log.next <= synced.segment {
            let what = "the file is missing, and was synchronised";
            let path = log.disk.place(&segment_name(synced.segment));
            return Err(LogError::Damaged { path, offset: 0, what });
        }
        Ok(log)
    }

    /// What a process wrote that was killed before it had synchronised it is here, and the next loss of power may take it
    /// away; what a sync has failed to write, the system may take for written. So before anybody counts on what was read, it
    /// is written once more, and synchronised.
    fn make_durable(&mut self, segment: &Segment, content: &[u8], synced: Synced) -> io::Result<()> {
        let from = if synced.segment == segment.number { synced.bytes } else { 0 };
        let loose = content.get(from as usize..segment.bytes as usize).unwrap_or_default();
        self.disk.write_at(&segment.name, from, loose)?;
        self.disk.sync(&segment.name)?;
        self.notes.write(&mut self.disk, Synced { segment: segment.number, bytes: segment.bytes });
        Ok(())
    }

    fn read_segment(&mut self, name: &str, content: &[u8], is_last: bool, synced: Synced) -> Result<Segment, LogError> {
        let path = self.disk.place(name);
        let damaged = |offset: usize, what: &'static str| LogError::Damaged { path: path.clone(), offset, what };
        if !content.starts_with(HEADER) {
            return Err(damaged(0, "the header is not that of a log this version can read"));
        }
        let number = name.trim_end_matches(".log").parse().ok();
        let number = number.ok_or_else(|| damaged(0, "the name of the file is not a number"))?;
        let mut segment = Segment { name: name.to_owned(), number, bytes: HEADER.len() as u64, last: 0 };
        while segment.bytes < content.len() as u64 {
            let offset = segment.bytes as usize;
            let Some(records) = frame_at(content, offset) else {
                let was_synced = Synced { segment: number, bytes: segment.bytes } < synced;
                let good_follows = || (offset + 1..content.len()).any(|later| frame_at(content, later).is_some());
                if was_synced || !is_last || good_follows() {
                    return Err(damaged(offset, "a frame whose checksum does not match"));
                }
                break;
            };
            self.read_records(records, &mut segment).map_err(|what| damaged(offset, what))?;
            segment.bytes += (FRAME_HEADER_BYTES + records.len()) as u64;
        }
        if number == synced.segment && segment.bytes < synced.bytes {
            return Err(damaged(segment.bytes as usize, "the file ends here, and was longer when it was synchronised"));
        }
        Ok(segment)
    }

    fn read_records(&mut self, records: &[u8], segment: &mut Segment) -> Result<(), &'static str> {
        const BAD: &str = "a record that cannot be read";
        let mut rest = records;
        while let [kind, a, b, c, d, after @ ..] = rest {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            let (bytes, after) = after.split_at_checked(length).ok_or(BAD)?;
            match *kind {
                ENTRY => {
                    let entry = Entry::decode(bytes).map_err(|_| BAD)?;
                    segment.last = segment.last.max(entry.index);
                    let from = FRAME_HEADER_BYTES + records.len() - after.len() - length;
                    self.read_entry(entry, place(segment.number, segment.bytes, from, bytes))?;
                }
                HARD_STATE => self.hard_state = HardState::decode(bytes).map_err(|_| BAD)?,
                _ => return Err("a record of an unknown kind, perhaps of a newer version"),
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(BAD) }
    }

    fn read_entry(&mut self, entry: Entry, place: Place) -> Result<(), &'static str> {
        if entry.index <= self.before.0 {
            // The snapshot holds it. Entries after it that were kept from an earlier leader are replaced by it.
            self.forget();
            return Ok(());
        }
        if entry.index > self.last_index() + 1 {
            return Err("an entry is missing before this one");
        }
        self.push(entry, place);
        Ok(())
    }
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
