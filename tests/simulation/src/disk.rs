//! A disk in memory that does what disks do: loses what was not synchronised, tears what was being written, fails, fills up.

use std::{
    collections::BTreeMap,
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
}

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
                let loose = file.content.len().saturating_sub(file.durable) as u64;
                let kept = file.durable + dice.below(loose + 1) as usize;
                file.content.truncate(kept);
                if kept > file.durable && dice.chance(500) {
                    let place = file.durable + dice.below((kept - file.durable) as u64) as usize;
                    file.content[place] ^= 1 << dice.below(8);
                }
                file.durable = file.content.len();
            }
            platter.has_failed = false;
            platter.fails_after = None;
        });
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
        let content = self.read(name)?;
        let offset = (offset as usize).min(content.len());
        Ok(content[offset..(offset + length).min(content.len())].to_vec())
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
            if platter.fails() {
                return Err(broken());
            }
            let lies = platter.lies;
            let file = platter.files.entry(name.to_owned()).or_default();
            if !lies {
                file.durable = file.content.len();
            }
            Ok(())
        })
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.with(|platter| {
            if platter.has_failed {
                return Err(broken());
            }
            let file = platter.files.entry(name.to_owned()).or_default();
            file.content.truncate(length as usize);
            file.durable = file.content.len();
            Ok(())
        })
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|platter| {
            platter.room()?;
            if platter.fails() {
                return Err(broken());
            }
            let file = File { content: bytes.to_vec(), durable: bytes.len() };
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
