//! The directory that holds images.
//!
//! ```text
//! blobs/sha256/<hex>    content as registries know it: manifests, configurations, compressed layers
//! references/<hex>      one small file a name: which manifest it means here
//! layers/<hex>/diff     a layer unpacked; <hex> is the digest of its uncompressed archive
//! leases/<hex>          one small file a mounted container: which layers it stands on
//! ingest/               what is being written
//! locks/                a lock a blob or layer, and `store` for the whole
//! ```

use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher as _, RandomState},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    Digest, ImageError, Platform, Reference,
    digest::Hasher,
    document::{Configuration, DOCUMENT_BYTES_MAX, Document, Manifest},
    layer,
};

/// A store of images. Cheap to clone; any number of processes may open one directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: Arc<PathBuf>,
}

/// An image that is whole in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of the configuration: what `docker images` calls the image's id.
    pub id: Digest,
    pub manifest: Digest,
    /// From the bottom.
    pub layers: Vec<Layer>,
    pub config: Config,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// As the registry keeps it, mostly compressed.
    pub blob: Digest,
    pub size: u64,
    /// Of the archive itself.
    pub diff_id: Digest,
}

/// How the image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: Option<String>,
}

/// A name in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub reference: String,
    pub id: Digest,
    pub manifest: Digest,
    /// What its blobs take, in bytes.
    pub size: u64,
}

/// What a name means in this store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Record {
    pub reference: String,
    pub manifest: Digest,
    pub config: Digest,
    /// The index in which the manifest was found, if there was one: a name with that digest means this image too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
}

/// Held while content is added or mounted, so that nothing of it is collected meanwhile.
#[derive(Debug)]
pub(crate) struct Shared {
    _file: File,
}

/// What a file has to outlive; a disk asks milliseconds for the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    Processes,
    PowerCuts,
}

const DIRECTORIES: &[&str] = &["blobs", "blobs/sha256", "references", "layers", "leases", "ingest", "locks"];

impl Store {
    /// Opens the store in `dir`, and makes it if it is not there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Store, ImageError> {
        let dir = dir.into();
        let dir = std::path::absolute(&dir).map_err(ImageError::io(format!("the image store {}", dir.display())))?;
        for name in [""].iter().chain(DIRECTORIES) {
            let path = dir.join(name);
            // Layers hold set-user-id programs of strangers: nobody but the owner may reach them.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(ImageError::io(format!("the image store {}", path.display())))?;
        }
        Ok(Store { dir: Arc::new(dir) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a name means here, if it is here whole.
    pub fn find(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        match self.record(reference)? {
            Some(record) => self.image_if_whole(&record.manifest),
            None => Ok(None),
        }
    }

    /// All names, in order.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let mut listed = Vec::new();
        for record in self.records()? {
            let Some(image) = self.image_if_whole(&record.manifest)? else { continue };
            let size = image.layers.iter().map(|layer| layer.size).sum();
            listed.push(Listed { reference: record.reference, id: image.id, manifest: image.manifest, size });
        }
        Ok(listed)
    }

    /// Takes a name away; says whether it was there. Content stays until garbage is collected.
    pub fn remove(&self, reference: &Reference) -> Result<bool, ImageError> {
        let path = self.record_path(&reference.to_string());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ImageError::io(format!("the name {reference}"))(error)),
        }
    }

    /// Gives an image another name.
    pub fn tag(&self, image: &Image, reference: &Reference) -> Result<(), ImageError> {
        self.name(reference, image, None)
    }

    /// Unpacks those layers of an image that nobody has unpacked yet.
    pub fn unpack(&self, image: &Image) -> Result<(), ImageError> {
        let _shared = self.shared()?;
        image.layers.iter().try_for_each(|layer| layer::unpack_once(self, layer))
    }

    /// The image whose configuration has this digest.
    pub(crate) fn image_by_id(&self, id: &Digest) -> Result<Option<Image>, ImageError> {
        match self.records()?.into_iter().find(|record| record.config == *id) {
            Some(record) => self.image_if_whole(&record.manifest),
            None => Ok(None),
        }
    }

    pub(crate) fn image_if_whole(&self, manifest: &Digest) -> Result<Option<Image>, ImageError> {
        match self.image(manifest) {
            Ok(image) if image.layers.iter().all(|layer| self.has_blob(&layer.blob)) => Ok(Some(image)),
            Ok(_) | Err(ImageError::Missing(_)) => Ok(None),
            Err(ImageError::Malformed(reason)) => {
                tracing::warn!(%manifest, reason, "a damaged image counts as missing");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads manifest and configuration; layers may be missing.
    pub(crate) fn image(&self, digest: &Digest) -> Result<Image, ImageError> {
        let what = format!("the manifest {digest}");
        let Document::Manifest(manifest) = Document::parse(&self.read_document(digest)?, &what)? else {
            return Err(ImageError::Malformed(format!("{what} is an index")));
        };
        let configuration = self.configuration(&manifest.config.digest)?;
        assemble(digest.clone(), manifest, configuration)
    }

    /// As [`Store::image`], if this machine can run it.
    pub(crate) fn image_for_here(&self, digest: &Digest, what: &str) -> Result<Image, ImageError> {
        let image = self.image(digest)?;
        let configuration = self.configuration(&image.id)?;
        let here = Platform::here().architecture;
        let os = configuration.os.filter(|os| !os.is_empty()).unwrap_or_else(|| "linux".into());
        let architecture = configuration.architecture.filter(|text| !text.is_empty()).unwrap_or_else(|| here.clone());
        if (os.as_str(), architecture.as_str()) != ("linux", here.as_str()) {
            return Err(ImageError::Missing(format!(
                "{what} is for {os}/{architecture}, and this machine is linux/{here}"
            )));
        }
        Ok(image)
    }

    pub(crate) fn configuration(&self, digest: &Digest) -> Result<Configuration, ImageError> {
        Configuration::parse(&self.read_document(digest)?, &format!("the configuration {digest}"))
    }

    // --- blobs

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Reads a small blob and makes sure that it still is what its name says.
    pub(crate) fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ImageError::Missing(format!("{digest} is not in the image store")),
            _ => ImageError::io(path.display().to_string())(error),
        })?;
        let bytes = read_bounded(&mut file, &digest.to_string())?;
        if Digest::of(&bytes) != *digest {
            // A damaged document would be refused for ever; without it, the next pull or import brings a good one.
            let _ = fs::remove_file(&path);
            return Err(ImageError::Malformed(format!(
                "{} was damaged and is removed; fetch or import the image again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest) {
            let mut ingest = self.ingest()?;
            ingest.write(bytes)?;
            ingest.finish(Some(&digest))?;
        }
        Ok(digest)
    }

    pub(crate) fn ingest(&self) -> Result<Ingest, ImageError> {
        let path = self.fresh("blob");
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(ImageError::io(path.display().to_string()))?;
        Ok(Ingest { store: self.clone(), file: Some(file), hasher: Hasher::default(), path, finished: false })
    }

    /// Copies everything that `reader` has into a blob.
    pub(crate) fn ingest_all(&self, reader: &mut dyn Read) -> Result<Ingest, ImageError> {
        let mut ingest = self.ingest()?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(ingest),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImageError::io("reading the content of an image")(error)),
            };
            ingest.write(&buffer[..n])?;
        }
    }

    /// A path in `ingest` that nobody else uses.
    pub(crate) fn fresh(&self, what: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
        // Not the process id: two processes in two namespaces may have the same.
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.dir.join("ingest").join(format!("{what}-{:016x}-{n}", *PROCESS))
    }

    // --- names

    pub(crate) fn name(&self, reference: &Reference, image: &Image, index: Option<Digest>) -> Result<(), ImageError> {
        let record = Record {
            reference: reference.to_string(),
            manifest: image.manifest.clone(),
            config: image.id.clone(),
            index,
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| ImageError::Malformed(error.to_string()))?;
        self.write_file(&self.record_path(&record.reference), &bytes, Survives::PowerCuts)
    }

    pub(crate) fn record(&self, reference: &Reference) -> Result<Option<Record>, ImageError> {
        if let Some(record) = read_record(&self.record_path(&reference.to_string()))? {
            return Ok(Some(record));
        }
        // Asked by digest: any name of the repository under which that content came here will do.
        let Some(digest) = reference.digest() else { return Ok(None) };
        Ok(self.records()?.into_iter().find(|record| {
            (record.manifest == *digest || record.index.as_ref() == Some(digest))
                && record.reference.parse::<Reference>().is_ok_and(|other| other.same_repository(reference))
        }))
    }

    pub(crate) fn records(&self) -> Result<Vec<Record>, ImageError> {
        let mut records = Vec::new();
        for path in self.entries("references")? {
            records.extend(read_record(&path)?);
        }
        records.sort_by(|left, right| left.reference.cmp(&right.reference));
        Ok(records)
    }

    fn record_path(&self, reference: &str) -> PathBuf {
        self.dir.join("references").join(Digest::of(reference.as_bytes()).hex())
    }

    // --- files and locks

    pub(crate) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    pub(crate) fn entries(&self, directory: &str) -> Result<Vec<PathBuf>, ImageError> {
        let dir = self.dir.join(directory);
        let read = || fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>();
        let mut entries = read().map_err(ImageError::io(dir.display().to_string()))?;
        entries.sort();
        Ok(entries)
    }

    /// Writes a small file so that readers see the old or the new one.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8], survives: Survives) -> Result<(), ImageError> {
        let fresh = self.fresh("file");
        let write = || {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            match survives {
                Survives::Processes => fs::rename(&fresh, path),
                Survives::PowerCuts => {
                    file.sync_all()?;
                    fs::rename(&fresh, path)?;
                    sync_parent(path)
                }
            }
        };
        write().map_err(ImageError::io(path.display().to_string()))
    }

    pub(crate) fn shared(&self) -> Result<Shared, ImageError> {
        let file = self.lock_file("store")?;
        file.lock_shared().map_err(ImageError::io("the lock of the image store"))?;
        Ok(Shared { _file: file })
    }

    /// Keeps other processes, and other threads of this one, from the same work. Given back when dropped.
    pub(crate) fn exclusive(&self, what: &str, digest: &Digest) -> Result<File, ImageError> {
        let file = self.lock_file(&format!("{what}-{}", digest.hex()))?;
        file.lock().map_err(ImageError::io(format!("the lock of {what} {digest}")))?;
        Ok(file)
    }

    pub(crate) fn lock_file(&self, name: &str) -> Result<File, ImageError> {
        let path = self.dir.join("locks").join(name);
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(ImageError::io(path.display().to_string()))
    }
}

/// A blob being written. Dropped before it is finished, it leaves nothing.
pub(crate) struct Ingest {
    store: Store,
    /// Closed when it is kept aside: an archive may hold more files than a process may open.
    file: Option<File>,
    hasher: Hasher,
    path: PathBuf,
    finished: bool,
}

impl Ingest {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.hasher.update(bytes);
        let Some(file) = &mut self.file else {
            return Err(ImageError::Busy(format!("{} is written no more", self.path.display())));
        };
        file.write_all(bytes).map_err(ImageError::io(self.path.display().to_string()))
    }

    pub fn bytes(&self) -> u64 {
        self.hasher.bytes
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn digest(&self) -> Digest {
        self.hasher.clone().digest()
    }

    /// Ends the writing, with all of it on the disk.
    pub fn close(&mut self) -> Result<(), ImageError> {
        match self.file.take() {
            Some(file) => file.sync_all().map_err(ImageError::io(self.path.display().to_string())),
            None => Ok(()),
        }
    }

    /// Puts the blob in its place, if it is what was expected.
    pub fn finish(mut self, expected: Option<&Digest>) -> Result<Digest, ImageError> {
        let digest = self.digest();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(ImageError::Malformed(format!(
                "content of {} bytes should be {expected} and is {digest}",
                self.bytes()
            )));
        }
        self.close()?;
        publish(&self.path, &self.store.blob_path(&digest))?;
        self.finished = true;
        Ok(digest)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames finished content to its name.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::rename(from, to).and_then(|()| sync_parent(to)).map_err(ImageError::io(to.display().to_string()))
}

pub(crate) fn assemble(digest: Digest, manifest: Manifest, configuration: Configuration) -> Result<Image, ImageError> {
    let diff_ids = configuration.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::Malformed(format!(
            "the manifest {digest} has {} layers and its configuration {} has {}",
            manifest.layers.len(),
            manifest.config.digest,
            diff_ids.len()
        )));
    }
    let layers = manifest.layers.into_iter().zip(diff_ids);
    let layers = layers.map(|(layer, diff_id)| Layer { blob: layer.digest, size: layer.size, diff_id }).collect();
    let run = configuration.config.unwrap_or_default();
    let config = Config {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        user: run.user.unwrap_or_default(),
        stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
    };
    Ok(Image { id: manifest.config.digest, manifest: digest, layers, config })
}

pub(crate) fn read_bounded(reader: &mut dyn Read, what: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    reader.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ImageError::io(what.to_owned()))?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(ImageError::Malformed(format!(
            "{what} is larger than {} MiB, too large for a document",
            DOCUMENT_BYTES_MAX >> 20
        )));
    }
    Ok(bytes)
}

fn read_record(path: &Path) -> Result<Option<Record>, ImageError> {
    match fs::read(path) {
        // A name whose file is damaged is a name that is not here: it is given again by the next pull or import.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "the name of an image is unreadable"))
            .ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io(path.display().to_string())(error)),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
