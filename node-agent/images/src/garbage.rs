//! Which content nobody needs, and taking it away.
//!
//! Kept is what a name leads to and what a container stands on. Mounts cannot be counted, since each agent may have a
//! mount namespace of its own; so who mounts leaves a lease, and a lease holds as long as the container's directory
//! exists. An agent whose directory was deleted as a whole therefore holds nothing back.

use std::{
    collections::BTreeSet,
    fs::{self, TryLockError},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{Digest, ImageError, Store, layer::remove_tree, store::Survives};

/// How long collection waits for pulls and mounts to end. Those are many and short, or few and long; after this it is
/// the latter, and the user should know.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: usize,
    pub layers: usize,
    /// Of the blobs; layers are not counted through.
    pub bytes: u64,
}

impl Store {
    /// Removes every blob and layer that no name leads to and no container stands on.
    pub fn collect_garbage(&self) -> Result<Collected, ImageError> {
        let lock = self.lock_file("store")?;
        let begun = Instant::now();
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::WouldBlock if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
                TryLockError::WouldBlock => {
                    return Err(ImageError::Busy(
                        "images are being fetched or mounted; collect garbage when that has ended".into(),
                    ));
                }
                TryLockError::Error(error) => return Err(ImageError::io("the lock of the image store")(error)),
            }
        }
        let mut blobs: BTreeSet<String> = BTreeSet::new();
        let mut layers: BTreeSet<String> = BTreeSet::new();
        for record in self.records()? {
            blobs.insert(record.manifest.hex().to_owned());
            blobs.insert(record.config.hex().to_owned());
            blobs.extend(record.index.iter().map(|index| index.hex().to_owned()));
            let image = match self.image(&record.manifest) {
                Ok(image) => image,
                // It cannot be run as it is, so there is nothing to keep for it.
                Err(ImageError::Missing(_) | ImageError::Malformed(_)) => continue,
                Err(error) => return Err(error),
            };
            blobs.extend(image.layers.iter().map(|layer| layer.blob.hex().to_owned()));
            layers.extend(image.layers.iter().map(|layer| layer.diff_id.hex().to_owned()));
        }
        for path in self.entries("leases")? {
            match Lease::read(&path)? {
                Some(lease) if lease.container.exists() => {
                    layers.extend(lease.layers.iter().map(|diff_id| diff_id.hex().to_owned()));
                }
                _ => remove_file(&path)?,
            }
        }
        let mut collected = Collected::default();
        for path in self.entries("blobs/sha256")? {
            if !blobs.contains(&name(&path)) {
                collected.bytes += path.metadata().map(|metadata| metadata.len()).unwrap_or(0);
                collected.blobs += 1;
                remove_file(&path)?;
            }
        }
        for path in self.entries("layers")? {
            if !layers.contains(&name(&path)) {
                // Renamed first: a layer that stands in its place is whole, also if this is interrupted.
                let leaving = self.fresh("layer");
                fs::rename(&path, &leaving).map_err(ImageError::io(path.display().to_string()))?;
                collected.layers += 1;
            }
        }
        // Nobody writes now, so whatever lies here was left by somebody who was killed.
        for path in self.entries("ingest")? {
            if path.is_dir() { remove_tree(&path)? } else { remove_file(&path)? }
        }
        // The locks of blobs and layers may go as well: to hold one means to hold the store's.
        for path in self.entries("locks")? {
            if name(&path) != "store" {
                remove_file(&path)?;
            }
        }
        Ok(collected)
    }
}

/// Says that a container stands on layers.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Lease {
    /// Holds as long as this directory exists.
    pub container: PathBuf,
    pub layers: Vec<Digest>,
    /// The life of the machine in which it was mounted. No mount outlives it.
    #[serde(default)]
    pub boot: String,
}

impl Lease {
    pub fn write(&self, store: &Store) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(self).map_err(|error| ImageError::Malformed(error.to_string()))?;
        // Mounts do not survive a power cut either.
        store.write_file(&path(store, &self.container), &bytes, Survives::Processes)
    }

    pub fn remove(store: &Store, container: &Path) -> Result<(), ImageError> {
        remove_file(&path(store, container))
    }

    /// The lease of a container, if it has one that can be read.
    pub fn of(store: &Store, container: &Path) -> Result<Option<Lease>, ImageError> {
        Lease::read(&path(store, container))
    }

    fn read(path: &Path) -> Result<Option<Lease>, ImageError> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io(path.display().to_string())(error)),
        }
    }
}

/// What the kernel calls this life of the machine.
pub(crate) fn this_boot() -> Result<String, ImageError> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).map_err(ImageError::io(path))?.trim().to_owned())
}

fn path(store: &Store, container: &Path) -> PathBuf {
    store.dir().join("leases").join(Digest::of(container.as_os_str().as_bytes()).hex())
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn remove_file(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io(path.display().to_string())(error)),
        _ => Ok(()),
    }
}
