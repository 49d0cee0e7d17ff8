//! The disk, as an argument: a directory, or in tests a fake that can tear what was not synchronised.
//!
//! The log belongs to one thread and is appended to; snapshots are whole files, large ones, that other threads write and
//! read in a stream. So there are two faces: `Disk`, and its `Archive`.

use std::{
    collections::HashMap,
    fs, io,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

/// Files by name, in one directory.
pub trait Disk: Send + 'static {
    fn list(&self) -> io::Result<Vec<String>>;
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// A part of a file; shorter only where the file ends.
    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Appends to a file, which is made where it is absent.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable (fdatasync).
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Writes into a file in place, and waits for nothing: it is durable when the system finds the time.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// Writes a file as a whole, durable: it is there entirely or not at all.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Where a file is, for people.
    fn place(&self, name: &str) -> PathBuf;
    fn archive(&self) -> Arc<dyn Archive>;
}

/// The same files, for threads that write or read a large one in a stream.
pub trait Archive: Send + Sync + 'static {
    /// Begins a file that nobody sees until it is kept.
    fn draft(&self) -> io::Result<Box<dyn Draft>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
}

/// A file that is being written. Dropped before it is kept, it was never there.
pub trait Draft: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable, so that keeping it takes no time.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes it a file of this name, durable, in place of what had the name.
    fn keep(self: Box<Self>, name: &str) -> io::Result<()>;
}

/// How names of drafts end.
const DRAFT: &str = ".new";

/// A draft is made durable in steps of so many bytes. A file system that orders data before its journal lets every other
/// fdatasync wait for what is dirty here: a gigabyte written at once would stop the log for seconds, and this much for
/// milliseconds. Smaller steps make a snapshot slow and win nothing.
const DRAFT_DIRTY_MAX: usize = 4 * 1024 * 1024;

/// A real directory.
pub struct Directory {
    path: PathBuf,
    open: HashMap<String, fs::File>,
    shelf: Arc<Shelf>,
    janitor: Option<Janitor>,
}

/// Removes files, one after the other.
///
/// A file system frees a gigabyte in one go, and while it does, every fdatasync waits: a quarter of a second was seen. So
/// a large file loses its name first and is then made shorter, step by step.
struct Janitor {
    queue: mpsc::Sender<(PathBuf, Option<fs::File>)>,
    thread: JoinHandle<()>,
    /// Somebody waits for the end: no more steps.
    is_leaving: Arc<AtomicBool>,
}

/// What is freed at once: about what the log itself frees with each of its files.
const FREED_BYTES: u64 = 16 * 1024 * 1024;

/// Between two steps, so that the log's syncs come in between. A gigabyte is gone within a second.
const FREED_PAUSE: Duration = Duration::from_millis(10);

impl Janitor {
    fn hire() -> io::Result<Janitor> {
        let (queue, files) = mpsc::channel::<(PathBuf, Option<fs::File>)>();
        let is_leaving = Arc::new(AtomicBool::new(false));
        let leaving = is_leaving.clone();
        let thread = std::thread::Builder::new().name("janitor".to_owned()).spawn(move || {
            for (path, open) in files {
                let large = fs::OpenOptions::new().write(true).open(&path).ok();
                if let Err(error) = fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(file = %path.display(), %error, "a file of the log that is not needed cannot be removed");
                }
                drop(open);
                if let Some(large) = large {
                    free(&large, &leaving);
                }
            }
        })?;
        Ok(Janitor { queue, thread, is_leaving })
    }
}

/// Makes a file that has no name shorter, until so little is left that closing it may free the rest.
fn free(file: &fs::File, is_leaving: &AtomicBool) {
    let mut length = file.metadata().map_or(0, |metadata| metadata.len());
    // Who reads it, to send it to a follower, holds a lock; then closing the last handle frees all of it.
    while length > FREED_BYTES && !is_leaving.load(Ordering::Relaxed) && file.try_lock().is_ok() {
        length -= FREED_BYTES;
        if file.set_len(length).and_then(|()| file.sync_data()).is_err() {
            return;
        }
        std::thread::sleep(FREED_PAUSE);
    }
}

/// Whoever opens the directory next finds it tidy.
impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(Janitor { queue, thread, is_leaving }) = self.janitor.take() {
            is_leaving.store(true, Ordering::Relaxed);
            drop(queue);
            let _ = thread.join();
        }
    }
}

impl Directory {
    pub fn open(path: &Path) -> io::Result<Directory> {
        fs::create_dir_all(path)?;
        // Secrets are among what is written here.
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let shelf = Arc::new(Shelf { path: path.to_owned(), n_drafts: AtomicU64::new(0) });
        Ok(Directory { path: path.to_owned(), open: HashMap::new(), shelf, janitor: Some(Janitor::hire()?) })
    }

    /// Removes what a crash left half written. Only for whoever holds the directory alone.
    pub fn clean(&self) -> io::Result<()> {
        for name in self.list()?.iter().filter(|name| name.ends_with(DRAFT)) {
            fs::remove_file(self.path.join(name))?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str) -> io::Result<&mut fs::File> {
        if !self.open.contains_key(name) {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.path.join(name))?;
            // A new name must survive a crash as well as its content.
            fs::File::open(&self.path)?.sync_all()?;
            self.open.insert(name.to_owned(), file);
        }
        self.open.get_mut(name).ok_or_else(|| io::Error::other("a file that was just opened"))
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let opened;
        let file = match self.open.get(name) {
            Some(file) => file,
            None => {
                opened = fs::File::open(self.path.join(name))?;
                &opened
            }
        };
        let mut bytes = vec![0; length];
        let mut n_read = 0;
        while n_read < length {
            match file.read_at(&mut bytes[n_read..], offset + n_read as u64)? {
                0 => break,
                more => n_read += more,
            }
        }
        bytes.truncate(n_read);
        Ok(bytes)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(name)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let file = self.file(name)?;
        file.set_len(length)?;
        file.sync_data()
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut draft = self.shelf.draft()?;
        draft.write(bytes)?;
        draft.keep(name)
    }

    /// Carried out beside, in order: to free a gigabyte takes a file system longer than a write may wait.
    fn remove(&mut self, name: &str) -> io::Result<()> {
        let open = self.open.remove(name);
        let path = self.path.join(name);
        match &self.janitor {
            Some(janitor) => janitor.queue.send((path, open)).map_err(|_| io::Error::other("nobody removes files")),
            None => fs::remove_file(path),
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn archive(&self) -> Arc<dyn Archive> {
        self.shelf.clone()
    }
}

struct Shelf {
    path: PathBuf,
    n_drafts: AtomicU64,
}

impl Archive for Shelf {
    fn draft(&self) -> io::Result<Box<dyn Draft>> {
        let number = self.n_drafts.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number}{DRAFT}"));
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        Ok(Box::new(FileDraft { file, path: Some(path), directory: self.path.clone(), dirty: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let file = fs::File::open(self.path.join(name))?;
        // Held until it is closed: see `free`.
        file.try_lock_shared()?;
        Ok(Box::new(file))
    }
}

struct FileDraft {
    file: fs::File,
    /// `None` once it is kept.
    path: Option<PathBuf>,
    directory: PathBuf,
    dirty: usize,
}

impl Draft for FileDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(DRAFT_DIRTY_MAX) {
            self.file.write_all(piece)?;
            self.dirty += piece.len();
            if self.dirty >= DRAFT_DIRTY_MAX {
                self.sync()?;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.dirty = 0;
        self.file.sync_data()
    }

    fn keep(mut self: Box<Self>, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(path) = self.path.take()
            && let Err(error) = fs::rename(&path, self.directory.join(name))
        {
            self.path = Some(path);
            return Err(error);
        }
        fs::File::open(&self.directory)?.sync_all()
    }
}

impl Drop for FileDraft {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_on_the_machine_reads_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Directory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_draft_is_there_once_it_is_kept_and_leaves_nothing_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let archive = directory.archive();
        let mut kept = archive.draft().unwrap();
        let mut dropped = archive.draft().unwrap();
        kept.write(b"whole").unwrap();
        dropped.write(b"half").unwrap();
        assert!(directory.read("a").is_err());
        kept.keep("a").unwrap();
        drop(dropped);
        assert_eq!(directory.list().unwrap(), ["a"]);
        assert_eq!(directory.read_at("a", 1, 9).unwrap(), b"hole");
    }

    #[test]
    fn a_file_that_somebody_reads_is_removed_and_still_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut directory = Directory::open(dir.path()).unwrap();
        let length = 3 * FREED_BYTES as usize;
        for name in ["read", "unread"] {
            directory.replace(name, &vec![1; length]).unwrap();
        }
        let mut reader = directory.archive().open("read").unwrap();
        directory.remove("unread").unwrap();
        directory.remove("read").unwrap();
        drop(directory);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut content = Vec::new();
        assert_eq!(reader.read_to_end(&mut content).unwrap(), length);
    }

    #[test]
    fn a_file_without_a_name_is_freed_step_by_step_unless_somebody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = fs::File::create(&path).unwrap();
        file.set_len(3 * FREED_BYTES + 1).unwrap();
        let reader = fs::File::open(&path).unwrap();
        reader.try_lock_shared().unwrap();
        free(&file, &AtomicBool::new(false));
        assert_eq!(file.metadata().unwrap().len(), 3 * FREED_BYTES + 1);
        drop(reader);
        free(&file, &AtomicBool::new(false));
        assert_eq!(file.metadata().unwrap().len(), 1);
    }

    #[test]
    fn what_a_crash_left_half_written_goes() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        fs::write(dir.path().join("7.new"), "half").unwrap();
        directory.clean().unwrap();
        assert!(directory.list().unwrap().is_empty());
    }
}
