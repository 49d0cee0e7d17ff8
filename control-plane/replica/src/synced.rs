//! How far the log was synchronised, remembered beside it.
//!
//! The last frame of a log may be bad for two reasons. It was torn: the power went while it was written, nobody was
//! answered, and it must be cut off or a server could not start after any loss of power. Or it was whole and has rotted:
//! then others were told that it is here, and a server that cuts it off and votes helps to lose what was acknowledged.
//! The log alone cannot tell which. With other frames nobody has to ask, for a good one behind shows that they were whole.
//!
//! Some engines guess from what is in the bad frame: a torn one often has sectors of zeros. Others write twice and wait
//! twice. Here the length up to which the log was synchronised is written into a file of its own after each sync, and not
//! synchronised itself: it costs a write into the page cache, and no wait. It is what a process leaves that is killed, and
//! what the system has written half a minute later. What is left open is a frame that rots *and* a loss of power within
//! that half minute. An older length is never wrong, it only tells less; so whatever goes wrong here stops nothing.
//!
//! Two places are written in turn, in sectors of their own: where the power goes while one is written, the other stands.

use std::io;

use crate::{crc32c, disk::Disk};

pub const FILE: &str = "synced";

/// Of the file's format.
const MARK: [u8; 4] = *b"syn1";

/// A mark, a number, a length, and a checksum of these.
const RECORD_BYTES: usize = 4 + 4 + 8 + 4;

/// No disk writes half of so much and leaves the other half.
const PLACE_BYTES: u64 = 4096;

/// A length of a segment, by its number: later segments and longer ones are further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Synced {
    pub segment: u32,
    pub bytes: u64,
}

impl Synced {
    /// What is remembered; nothing, where the log is of an earlier version or the file is lost.
    pub fn read(disk: &impl Disk) -> io::Result<Synced> {
        let content = match disk.read(FILE) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Synced::default()),
            Err(error) => return Err(error),
        };
        let places = content.chunks(PLACE_BYTES as usize);
        Ok(places.filter_map(Synced::decode).max().unwrap_or_default())
    }

    fn encode(self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..4].copy_from_slice(&MARK);
        record[4..8].copy_from_slice(&self.segment.to_le_bytes());
        record[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        let checksum = crc32c(&record[..16]);
        record[16..].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    fn decode(record: &[u8]) -> Option<Synced> {
        let record: &[u8; RECORD_BYTES] = record.first_chunk()?;
        let checksum = u32::from_le_bytes(*record.last_chunk()?);
        if record[..4] != MARK || crc32c(&record[..16]) != checksum {
            return None;
        }
        let [_, _, _, _, a, b, c, d, bytes @ ..] = record;
        Some(Synced { segment: u32::from_le_bytes([*a, *b, *c, *d]), bytes: u64::from_le_bytes(*bytes.first_chunk()?) })
    }
}

/// Writes the lengths, now here, now there.
#[derive(Default)]
pub struct Notes {
    is_second: bool,
    has_failed: bool,
}

impl Notes {
    pub fn write(&mut self, disk: &mut impl Disk, synced: Synced) {
        let offset = if self.is_second { PLACE_BYTES } else { 0 };
        self.is_second = !self.is_second;
        if let Err(error) = disk.write_at(FILE, offset, &synced.encode())
            && !std::mem::replace(&mut self.has_failed, true)
        {
            let file = disk.place(FILE);
            tracing::warn!(file = %file.display(), %error, "how far the log is synchronised cannot be remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::disk::FakeDisk;

    #[test]
    fn the_furthest_length_that_is_whole_is_remembered() {
        let mut disk = FakeDisk::default();
        assert_eq!(Synced::read(&disk).unwrap(), Synced::default());
        let mut notes = Notes::default();
        let at = |segment, bytes| Synced { segment, bytes };
        for synced in [at(1, 100), at(1, 200), at(2, 50)] {
            notes.write(&mut disk, synced);
            assert_eq!(Synced::read(&disk).unwrap(), synced);
        }
        disk.with(|disk| disk.files.get_mut(FILE).unwrap()[9] ^= 1);
        assert_eq!(Synced::read(&disk).unwrap(), at(1, 200), "one of the two places has rotted");
        disk.with(|disk| disk.files.get_mut(FILE).unwrap().truncate(5));
        assert_eq!(Synced::read(&disk).unwrap(), Synced::default());
    }
}
