//! A disk in memory that does what disks do: loses what was not synchronised, tears what was being written, fails, fills up.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use copepod_replica::{Archive, Disk, Draft};

use crate::dice::Dice;

/// Cloning shares it: what is on it outlives the server.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Platter>>);

pub struct Platter {
    files: BTreeMap<String, File>,
    dice: Dice,
    pub is_full: bool,
    /// The write or sync after so many more fails, and with it all that follow, until the server is started again.
    pub fails_after: Option<u64>,
    has_failed: bool,
    /// It says that it has synchronised, and has not.
    pub lies: bool,
    pub n_syncs: u64,
}

#[derive(Clone, Default)]
struct File {
    content: Vec<u8>,
    durable: usize,
    /// As far as somebody was told that it is durable.
    synced: usize,
    /// What a sync that failed has not written, and a later one does not write either: the system takes it for written.
    dropped: Option<(usize, usize)>,
    /// What stood where it was overwritten in place, the oldest first: as long as that may still come back.
    before: VecDeque<(usize, Vec<u8>)>,
    /// Bytes of it have flipped.
    is_rotten: bool,
}

/// So many writes in place are not durable yet; older ones the system has written back.
const LOOSE_MAX: usize = 16;

/// Where bytes of a disk flip that were durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// In what was written to the log last.
    LastFrame,
    Log,
    Snapshot,
}

/// How a frame of the log begins.
const FRAME_MARK: [u8; 4] = [0xC0, 0x9E, 0x90, 0xD1];

impl SimDisk {
    pub fn new(dice: Dice) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Platter {
            files: BTreeMap::new(),
            dice,
            is_full: false,
            fails_after: None,
            has_failed: false,
            lies: false,
            n_syncs: 0,
        })))
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Platter) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The power goes. Of what was not synchronised a part is left, and that part need not be what was written.
    pub fn lose_power(&self) {
        self.with(|platter| {
            let Platter { files, dice, .. } = platter;
            for file in files.values_mut() {
                // What was overwritten in place comes back, from some moment on; what was under way then is neither.
                let n_lost = dice.below(file.before.len() as u64 + 1);
                for place in 0..n_lost {
                    let Some((offset, before)) = file.before.pop_back() else { break };
                    let kept = if place + 1 == n_lost { dice.below(before.len() as u64 + 1) as usize } else { 0 };
                    file.content[offset + kept..offset + before.len()].copy_from_slice(&before[kept..]);
                }
                let loose = file.content.len().saturating_sub(file.durable) as u64;
                let kept = file.durable + dice.below(loose + 1) as usize;
                file.content.truncate(kept);
                if kept > file.durable && dice.chance(500) {
                    let place = file.durable + dice.below((kept - file.durable) as u64) as usize;
                    file.content[place] ^= 1 << dice.below(8);
                }
                file.durable = file.content.len();
                (file.before, file.dropped) = (VecDeque::new(), None);
            }
            platter.has_failed = false;
            platter.fails_after = None;
        });
    }

    /// What was written in place and nobody waited for is durable.
    pub fn write_back(&self) {
        self.with(|platter| platter.files.values_mut().for_each(|file| file.before.clear()));
    }

    /// Flips bytes that somebody relies on; in which file, if there is one of that kind. Everything has been written back
    /// by then: rot takes longer than the system does.
    pub fn rot(&self, what: Rot) -> Option<String> {
        self.write_back();
        self.with(|platter| {
            let Platter { files, dice, .. } = platter;
            let end = if what == Rot::Snapshot { ".snapshot" } else { ".log" };
            let mut files: Vec<(&String, &mut File)> =
                files.iter_mut().filter(|(name, _)| name.ends_with(end)).collect();
            let place = if what == Rot::Log { dice.below(files.len() as u64) } else { (files.len() as u64).max(1) - 1 };
            let (name, file) = files.get_mut(place as usize)?;
            let durable = &mut file.content[..file.synced];
            let is_mark = |bytes: &[u8]| bytes == FRAME_MARK;
            let last = durable.windows(FRAME_MARK.len()).rposition(is_mark).unwrap_or(0);
            let from = if what == Rot::LastFrame { last } else { 0 };
            let place = from + dice.below((durable.len() - from) as u64) as usize;
            let flipped = dice.between(1, 3) as usize;
            durable.get_mut(place..)?.iter_mut().take(flipped).for_each(|byte| *byte ^= dice.between(1, 255) as u8);
            file.is_rotten = true;
            Some((*name).clone())
        })
    }

    /// Whether bytes have flipped in a file that is still there: compaction may have removed it, a new snapshot replaced it.
    pub fn is_rotten(&self) -> bool {
        self.with(|platter| platter.files.values().any(|file| file.is_rotten))
    }

    pub fn lose(&self, name: &str) {
        self.with(|platter| platter.files.remove(name));
    }

    /// What is on it now, to be put back later.
    pub fn copy(&self) -> Copied {
        self.with(|platter| Copied(platter.files.clone()))
    }

    pub fn put_back(&self, copied: Copied) {
        self.with(|platter| platter.files = copied.0);
    }
}

pub struct Copied(BTreeMap<String, File>);

impl Platter {
    /// Whether the next write or sync goes wrong.
    fn fails(&mut self) -> bool {
        match &mut self.fails_after {
            Some(0) => self.has_failed = true,
            Some(left) => *left -= 1,
            None => (),
        }
        self.has_failed
    }

    /// The process is over, and with it the failure.
    pub fn revive(&mut self) {
        (self.has_failed, self.fails_after) = (false, None);
    }

    fn room(&self) -> io::Result<()> {
        if self.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

fn broken() -> io::Error {
    io::Error::other("the disk failed")
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.with(|platter| platter.files.keys().cloned().collect()))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let content = self.with(|platter| platter.files.get(name).map(|file| file.content.clone()));
        content.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.with(|platter| {
            let content = &platter.files.get(name).ok_or(io::ErrorKind::NotFound)?.content;
            let offset = (offset as usize).min(content.len());
            Ok(content[offset..(offset + length).min(content.len())].to_vec())
        })
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|platter| {
            platter.room()?;
            let fails = platter.fails();
            let torn = platter.dice.below(bytes.len() as u64 + 1) as usize;
            let file = platter.files.entry(name.to_owned()).or_default();
            file.content.extend_from_slice(if fails { &bytes[..torn] } else { bytes });
            if fails { Err(broken()) } else { Ok(()) }
        })
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.with(|platter| {
            platter.n_syncs += 1;
            let (fails, lies) = (platter.fails(), platter.lies);
            let file = platter.files.entry(name.to_owned()).or_default();
            let length = file.content.len();
            if fails {
                let from = file.dropped.map_or(file.durable, |(from, _)| from);
                file.dropped = (from < length).then_some((from, length));
                return Err(broken());
            }
            file.synced = length;
            if !lies {
                file.durable = file.dropped.map_or(length, |(from, _)| from);
                file.before.clear();
            }
            Ok(())
        })
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|platter| {
            if platter.has_failed {
                return Err(broken());
            }
            let room = platter.room();
            let file = platter.files.entry(name.to_owned()).or_default();
            let (from, to) = (offset as usize, offset as usize + bytes.len());
            if file.content.len() < to {
                room?;
                file.content.resize(to, 0);
                (file.durable, file.synced) = (to, to);
            }
            file.dropped = file.dropped.filter(|dropped| dropped.0 < from || to < dropped.1);
            if file.before.len() >= LOOSE_MAX {
                file.before.pop_front();
            }
            file.before.push_back((from, file.content[from..to].to_vec()));
            file.content[from..to].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.with(|platter| {
            if platter.has_failed {
                return Err(broken());
            }
            let file = platter.files.entry(name.to_owned()).or_default();
            let length = length as usize;
            file.content.truncate(length);
            file.dropped = file.dropped.filter(|(from, _)| *from < length).map(|(from, to)| (from, to.min(length)));
            file.durable = file.dropped.map_or(file.content.len(), |(from, _)| from);
            file.synced = file.synced.min(length);
            file.before.clear();
            Ok(())
        })
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|platter| {
            platter.room()?;
            if platter.fails() {
                return Err(broken());
            }
            let (content, length) = (bytes.to_vec(), bytes.len());
            let file = File { content, durable: length, synced: length, ..File::default() };
            platter.files.insert(name.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.with(|platter| platter.files.remove(name));
        Ok(())
    }

    fn place(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(self.clone())
    }
}

impl Archive for SimDisk {
    fn draft(&self) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(SimDraft { disk: self.clone(), content: Vec::new() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(name)?)))
    }
}

struct SimDraft {
    disk: SimDisk,
    content: Vec<u8>,
}

impl Draft for SimDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(bytes);
        self.disk.with(|platter| platter.room())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn keep(mut self: Box<Self>, name: &str) -> io::Result<()> {
        self.disk.replace(name, &self.content)
    }
}
