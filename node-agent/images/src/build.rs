//! Makes an image of files: one layer, no base, nothing executed.
//!
//! The same files give the same digest on every machine and day: entries are sorted, belong to root and date from the
//! epoch. The layer is not compressed, since it goes nowhere but into this store.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::{
    Config, Image, ImageError, Platform, Reference, Store,
    document::{OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST},
    store::Ingest,
};

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct BuildSpec {
    pub reference: String,
    /// Later ones replace what earlier ones put at the same place.
    pub contents: Vec<Content>,
    pub config: Config,
    /// `8080/tcp`
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// A file, or a directory with all that is in it, and where it goes in the image.
#[derive(Clone, Debug)]
pub struct Content {
    pub source: PathBuf,
    /// `/` for a directory that is the whole image.
    pub target: PathBuf,
}

impl Store {
    pub fn build(&self, spec: &BuildSpec) -> Result<Image, ImageError> {
        let reference: Reference = spec.reference.parse()?;
        if reference.digest().is_some() {
            return Err(ImageError::InvalidName(format!(
                "{reference} names a digest, which only the result decides; name a tag"
            )));
        }
        let _shared = self.shared()?;
        let mut entries = BTreeMap::new();
        for content in &spec.contents {
            collect(content, &mut entries)?;
        }
        let ingest = write_archive(self.ingest()?, entries)?;
        let size = ingest.bytes();
        let layer = ingest.finish(None)?;
        let Config { entrypoint, cmd, env, working_dir, user, stop_signal } = &spec.config;
        let exposed: BTreeMap<&str, serde_json::Value> =
            spec.exposed_ports.iter().map(|port| (port.as_str(), json!({}))).collect();
        let configuration = json!({
            "architecture": Platform::here().architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": entrypoint,
                "Cmd": cmd,
                "Env": env,
                "WorkingDir": working_dir,
                "User": user,
                "StopSignal": stop_signal,
                "ExposedPorts": exposed,
                "Labels": spec.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [&layer] },
        });
        let configuration = configuration.to_string().into_bytes();
        let config = self.put(&configuration)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": config, "size": configuration.len() },
            "layers": [{ "mediaType": OCI_LAYER_TAR, "digest": &layer, "size": size }],
        });
        let manifest = self.put(manifest.to_string().as_bytes())?;
        let image = self.image(&manifest)?;
        self.name(&reference, &image, None)?;
        Ok(image)
    }
}

enum Source {
    /// A directory on the way to something, which nobody gave.
    Implied,
    Given(PathBuf, fs::Metadata),
}

fn collect(content: &Content, entries: &mut BTreeMap<PathBuf, Source>) -> Result<(), ImageError> {
    let target = inside(&content.target)?;
    let metadata =
        fs::metadata(&content.source).map_err(ImageError::io(format!("the file {}", content.source.display())))?;
    for parent in target.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        entries.entry(parent.to_owned()).or_insert(Source::Implied);
    }
    if metadata.is_dir() {
        return collect_directory(&content.source, &target, metadata, entries);
    }
    if target.as_os_str().is_empty() {
        return Err(ImageError::Malformed(format!(
            "{} is a file and cannot be the root of an image; name a place for it",
            content.source.display()
        )));
    }
    entries.insert(target, Source::Given(content.source.clone(), metadata));
    Ok(())
}

fn collect_directory(
    source: &Path,
    target: &Path,
    metadata: fs::Metadata,
    entries: &mut BTreeMap<PathBuf, Source>,
) -> Result<(), ImageError> {
    let what = || source.display().to_string();
    if !target.as_os_str().is_empty() {
        entries.insert(target.to_owned(), Source::Given(source.to_owned(), metadata));
    }
    for entry in fs::read_dir(source).map_err(ImageError::io(what()))? {
        let entry = entry.map_err(ImageError::io(what()))?;
        let (source, target) = (entry.path(), target.join(entry.file_name()));
        let metadata = entry.metadata().map_err(ImageError::io(source.display().to_string()))?;
        if metadata.is_dir() {
            collect_directory(&source, &target, metadata, entries)?;
        } else if metadata.is_file() || metadata.is_symlink() {
            entries.insert(target, Source::Given(source, metadata));
        } else {
            return Err(ImageError::Malformed(format!(
                "{} is a device, a pipe or a socket; an image is built of files, directories and links",
                source.display()
            )));
        }
    }
    Ok(())
}

fn write_archive(ingest: Ingest, entries: BTreeMap<PathBuf, Source>) -> Result<Ingest, ImageError> {
    let mut archive = Builder::new(ingest);
    for (target, source) in entries {
        let what = match &source {
            Source::Implied => target.display().to_string(),
            Source::Given(source, _) => source.display().to_string(),
        };
        append(&mut archive, &target, source).map_err(ImageError::io(what))?;
    }
    archive.into_inner().map_err(ImageError::io("the archive of the layer"))
}

fn append(archive: &mut Builder<Ingest>, target: &Path, source: Source) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match source {
        Source::Implied => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            archive.append_data(&mut header, target, io::empty())
        }
        Source::Given(source, metadata) => {
            header.set_mode(metadata.permissions().mode() & 0o7777);
            if metadata.is_dir() {
                header.set_entry_type(EntryType::Directory);
                archive.append_data(&mut header, target, io::empty())
            } else if metadata.is_symlink() {
                header.set_entry_type(EntryType::Symlink);
                archive.append_link(&mut header, target, fs::read_link(&source)?)
            } else {
                let file = File::open(&source)?;
                // Of the open file, and no more than that: it may grow while it is read.
                let size = file.metadata()?.size();
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                archive.append_data(&mut header, target, io::Read::take(file, size))
            }
        }
    }
}

/// The place in the image, relative to its root.
fn inside(target: &Path) -> Result<PathBuf, ImageError> {
    let mut inside = PathBuf::new();
    for component in target.components() {
        match component {
            Component::RootDir | Component::CurDir => (),
            Component::Normal(name) => inside.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ImageError::Malformed(format!("{} leads out of the image", target.display())));
            }
        }
    }
    Ok(inside)
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ingest::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
