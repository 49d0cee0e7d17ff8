//! A disk in memory, which can be full and can be torn, and counts what it is asked for.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Archive, Disk, Draft};

/// A disk in memory: what was not synchronised can be torn off.
#[derive(Clone, Default)]
pub struct FakeDisk(Arc<Mutex<Files>>, Arc<Mutex<()>>);

#[derive(Default)]
pub struct Files {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Bytes of each file that are durable.
    durable: BTreeMap<String, usize>,
    pub full: bool,
    /// Nothing can be synchronised or cut.
    pub broken: bool,
    /// How often the log was written to, and synchronised.
    pub n_appends: usize,
    pub n_syncs: usize,
}

impl FakeDisk {
    pub fn with<T>(&self, act: impl FnOnce(&mut Files) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nothing is synchronised while somebody holds this.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes: of what was not durable, a part is left.
    pub fn tear(&self, kept: usize) -> FakeDisk {
        self.with(|disk| {
            let mut files = disk.files.clone();
            for (name, content) in &mut files {
                let durable = disk.durable.get(name).copied().unwrap_or(0);
                content.truncate((durable + kept).min(content.len()));
            }
            let durable = files.iter().map(|(name, content)| (name.clone(), content.len())).collect();
            FakeDisk(Arc::new(Mutex::new(Files { files, durable, ..Files::default() })), Arc::default())
        })
    }
}

impl Disk for FakeDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.with(|disk| disk.files.keys().cloned().collect()))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.with(|disk| disk.files.get(name).cloned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let rest = self.read(name)?.split_off(offset as usize);
        Ok(rest.into_iter().take(length).collect())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            if disk.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.n_appends += 1;
            disk.files.entry(name.to_owned()).or_default().extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        drop(self.hold());
        self.with(|disk| {
            if disk.broken {
                return Err(io::Error::other("broken"));
            }
            let length = disk.files.get(name).map_or(0, Vec::len);
            disk.durable.insert(name.to_owned(), length);
            disk.n_syncs += 1;
            Ok(())
        })
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        self.with(|disk| {
            let content = disk.files.entry(name.to_owned()).or_default();
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(bytes);
            // Here the system is quick.
            let length = content.len();
            disk.durable.insert(name.to_owned(), length);
        });
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.with(|disk| {
            if !disk.broken {
                disk.files.entry(name.to_owned()).or_default().truncate(length as usize);
            }
        });
        self.sync(name)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| disk.files.insert(name.to_owned(), bytes.to_vec()));
        self.sync(name)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.with(|disk| disk.files.remove(name));
        Ok(())
    }

    fn place(&self, name: &str) -> PathBuf {
        PathBuf::from("/fake").join(name)
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(self.clone())
    }
}

impl Archive for FakeDisk {
    fn draft(&self) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(FakeDraft { disk: self.clone(), content: Vec::new() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(name)?)))
    }
}

struct FakeDraft {
    disk: FakeDisk,
    content: Vec<u8>,
}

impl Draft for FakeDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn keep(mut self: Box<Self>, name: &str) -> io::Result<()> {
        self.disk.replace(name, &self.content)
    }
}
