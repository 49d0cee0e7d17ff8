//! Takes images out of files: an OCI layout as a directory or archive, or what `docker save` writes; plain or compressed.
//!
//! An archive is read once, from front to end, so it may come through a pipe: every file in it is kept aside under its
//! digest, and when the table of contents is known, what belongs to an image is renamed into the store.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::json;
use tar::{Archive, EntryType};

use crate::{
    Digest, Image, ImageError, Platform, Reference, Store,
    document::{Configuration, Descriptor, Document, INDEX_DEPTH_MAX, OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST, parse},
    layer::decompress,
    store::{Ingest, read_bounded},
};

/// Under which names the tools note how an image was called, the whole name first.
const NAME_ANNOTATIONS: &[&str] = &["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Ten images with a hundred layers each. More is the archive of something else, of a root file system mostly, and better
/// refused after a second than after an hour.
const FILES_MAX: usize = 4096;

impl Store {
    /// Imports all images of a file or directory. `name` is for a single image, and wins over the name it has there.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Reference>, ImageError> {
        let what = path.display().to_string();
        if path.is_dir() {
            let _shared = self.shared()?;
            return Import { store: self, what, name: parse_name(name)?, source: Source::Layout(path.to_owned()) }
                .layout();
        }
        let file = File::open(path).map_err(ImageError::io(what.clone()))?;
        self.import_from(&mut BufReader::with_capacity(128 << 10, file), &what, name)
    }

    /// Imports from a stream; `what` is what to call it in messages.
    pub fn import_from(
        &self,
        reader: &mut dyn Read,
        what: &str,
        name: Option<&str>,
    ) -> Result<Vec<Reference>, ImageError> {
        let name = parse_name(name)?;
        let _shared = self.shared()?;
        let files = read_archive(self, reader, what)?;
        let is_layout = files.by_path.contains_key("index.json");
        let is_saved = files.by_path.contains_key("manifest.json");
        let mut import = Import { store: self, what: what.to_owned(), name, source: Source::Archive(files) };
        match (is_layout, is_saved) {
            // Docker writes both since version 25, and the old table has the plainer names.
            (true, true) => import.saved_as_layout(),
            (true, false) => import.layout(),
            (false, true) => import.saved(),
            (false, false) => Err(ImageError::Malformed(format!(
                "{what} is no image: it has neither index.json (OCI) nor manifest.json (docker save)"
            ))),
        }
    }
}

fn parse_name(name: Option<&str>) -> Result<Option<Reference>, ImageError> {
    name.map(str::parse).transpose()
}

struct Import<'a> {
    store: &'a Store,
    what: String,
    name: Option<Reference>,
    source: Source,
}

enum Source {
    /// A directory in OCI layout.
    Layout(PathBuf),
    Archive(Files),
}

/// The files of an archive, kept aside.
#[derive(Default)]
struct Files {
    by_path: BTreeMap<String, Digest>,
    content: BTreeMap<Digest, Ingest>,
}

/// A table of contents of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Import<'_> {
    fn layout(&mut self) -> Result<Vec<Reference>, ImageError> {
        let entries = self.index_entries()?;
        let mut imported = Vec::new();
        for entry in &entries {
            let reference = self.reference_of(entry, entries.len())?;
            let (image, index) = self.resolve(entry)?;
            self.store.name(&reference, &image, index)?;
            imported.push(reference);
        }
        Ok(imported)
    }

    fn index_entries(&mut self) -> Result<Vec<Descriptor>, ImageError> {
        let what = format!("index.json of {}", self.what);
        let bytes = self.named("index.json")?;
        match Document::parse(&bytes, &what)? {
            Document::Index(entries) if entries.is_empty() => {
                Err(ImageError::Malformed(format!("{what} lists no image")))
            }
            Document::Index(entries) => Ok(entries),
            Document::Manifest(_) => Err(ImageError::Malformed(format!("{what} is no index"))),
        }
    }

    fn reference_of(&self, entry: &Descriptor, n_entries: usize) -> Result<Reference, ImageError> {
        if let Some(name) = &self.name {
            return match n_entries {
                1 => Ok(name.clone()),
                n => Err(ImageError::InvalidName(format!(
                    "{} holds {n} images, which cannot all be called {name}",
                    self.what
                ))),
            };
        }
        let annotations = entry.annotations.iter().flatten().collect::<BTreeMap<_, _>>();
        let noted = NAME_ANNOTATIONS.iter().find_map(|key| annotations.get(&(*key).to_owned()));
        match noted {
            // `latest` alone is a tag, and would be taken for an image of Docker Hub.
            Some(name) if name.contains(['/', ':']) => name.parse(),
            Some(tag) => Err(ImageError::InvalidName(format!(
                "{} calls its image only {tag:?}, which is a tag and no name; say how it is to be called",
                self.what
            ))),
            None => Err(ImageError::InvalidName(format!(
                "{} has no name for its image; say how it is to be called",
                self.what
            ))),
        }
    }

    /// Brings an image into the store; with the digest of the index it was found in, if any.
    fn resolve(&mut self, entry: &Descriptor) -> Result<(Image, Option<Digest>), ImageError> {
        let mut entry = entry.clone();
        let mut index = None;
        for _ in 0..INDEX_DEPTH_MAX {
            self.take(&entry.digest)?;
            let what = format!("{} in {}", entry.digest, self.what);
            match Document::parse(&self.store.read_document(&entry.digest)?, &what)? {
                Document::Index(entries) => {
                    index.get_or_insert(entry.digest.clone());
                    entry = Platform::here().choose(&entries, &what)?.clone();
                }
                Document::Manifest(manifest) => {
                    self.take(&manifest.config.digest)?;
                    manifest.layers.iter().try_for_each(|layer| self.take(&layer.digest))?;
                    return Ok((self.store.image_for_here(&entry.digest, &what)?, index));
                }
            }
        }
        Err(ImageError::Malformed(format!("{} nests an index more than {INDEX_DEPTH_MAX} times", self.what)))
    }

    fn saved_as_layout(&mut self) -> Result<Vec<Reference>, ImageError> {
        let named = self.saved_table()?.iter().any(|saved| saved.repo_tags.iter().flatten().next().is_some());
        if named { self.saved() } else { self.layout() }
    }

    fn saved_table(&mut self) -> Result<Vec<Saved>, ImageError> {
        let what = format!("manifest.json of {}", self.what);
        parse(&self.named("manifest.json")?, &what)
    }

    fn saved(&mut self) -> Result<Vec<Reference>, ImageError> {
        let table = self.saved_table()?;
        let n_images = table.len();
        let mut imported = Vec::new();
        for saved in table {
            let references = match (&self.name, saved.repo_tags.as_deref().unwrap_or_default()) {
                (Some(name), _) if n_images == 1 => vec![name.clone()],
                (Some(name), _) => {
                    return Err(ImageError::InvalidName(format!(
                        "{} holds {n_images} images, which cannot all be called {name}",
                        self.what
                    )));
                }
                (None, []) => {
                    return Err(ImageError::InvalidName(format!(
                        "{} has no name for its image; say how it is to be called",
                        self.what
                    )));
                }
                (None, tags) => tags.iter().map(|tag| tag.parse()).collect::<Result<Vec<Reference>, _>>()?,
            };
            let image = self.saved_image(&saved)?;
            for reference in references {
                self.store.name(&reference, &image, None)?;
                imported.push(reference);
            }
        }
        Ok(imported)
    }

    /// Writes the manifest that the archive does not have.
    fn saved_image(&mut self, saved: &Saved) -> Result<Image, ImageError> {
        let config = self.digest_of(&saved.config)?;
        self.take(&config)?;
        let configuration = self.store.read_document(&config)?;
        Configuration::parse(&configuration, &format!("{} in {}", saved.config, self.what))?;
        let mut layers = Vec::new();
        for path in &saved.layers {
            let digest = self.digest_of(path)?;
            self.take(&digest)?;
            let blob = self.store.blob_path(&digest);
            let size = blob.metadata().map_err(ImageError::io(blob.display().to_string()))?.len();
            layers.push(json!({ "mediaType": OCI_LAYER_TAR, "digest": digest, "size": size }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": config, "size": configuration.len() },
            "layers": layers,
        });
        let manifest = self.store.put(manifest.to_string().as_bytes())?;
        self.store.image_for_here(&manifest, &format!("{} in {}", saved.config, self.what))
    }

    fn digest_of(&self, path: &str) -> Result<Digest, ImageError> {
        let found = match &self.source {
            Source::Archive(files) => files.by_path.get(path).cloned(),
            Source::Layout(_) => None,
        };
        found.ok_or_else(|| self.lacks(path))
    }

    fn named(&mut self, path: &str) -> Result<Vec<u8>, ImageError> {
        match &self.source {
            Source::Layout(dir) => {
                let path = dir.join(path);
                let mut file = File::open(&path).map_err(ImageError::io(path.display().to_string()))?;
                read_bounded(&mut file, &path.display().to_string())
            }
            Source::Archive(files) => {
                let kept = files.by_path.get(path).and_then(|digest| files.content.get(digest));
                let mut file = File::open(kept.ok_or_else(|| self.lacks(path))?.path())
                    .map_err(ImageError::io(format!("{path} in {}", self.what)))?;
                read_bounded(&mut file, &format!("{path} in {}", self.what))
            }
        }
    }

    /// Makes sure that a blob is in the store.
    fn take(&mut self, digest: &Digest) -> Result<(), ImageError> {
        if self.store.has_blob(digest) {
            return Ok(());
        }
        match &mut self.source {
            Source::Layout(dir) => {
                let path = dir.join("blobs/sha256").join(digest.hex());
                let mut file = File::open(&path).map_err(ImageError::io(path.display().to_string()))?;
                self.store.ingest_all(&mut file)?.finish(Some(digest)).map(drop)
            }
            Source::Archive(files) => match files.content.remove(digest) {
                Some(ingest) => ingest.finish(Some(digest)).map(drop),
                None => Err(self.lacks(&digest.to_string())),
            },
        }
    }

    fn lacks(&self, path: &str) -> ImageError {
        ImageError::Malformed(format!("{} lacks {path}, which it says belongs to an image", self.what))
    }
}

fn read_archive(store: &Store, reader: &mut dyn Read, what: &str) -> Result<Files, ImageError> {
    let damaged = |error: std::io::Error| ImageError::Malformed(format!("{what} is no archive of an image: {error}"));
    let mut files = Files::default();
    let mut links: Vec<(String, String)> = Vec::new();
    let mut archive = Archive::new(decompress(reader).map_err(damaged)?);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = normal(&String::from_utf8_lossy(&entry.path_bytes()), "");
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                if files.by_path.len() == FILES_MAX {
                    return Err(ImageError::Malformed(format!(
                        "{what} is no archive of an image: it has more than {FILES_MAX} files"
                    )));
                }
                let mut ingest = store.ingest_all(&mut entry)?;
                ingest.close()?;
                let digest = ingest.digest();
                files.by_path.insert(path, digest.clone());
                files.content.insert(digest, ingest);
            }
            // Old versions of Docker write a layer once and link to it.
            EntryType::Symlink | EntryType::Link => {
                let Some(target) = entry.link_name_bytes() else { continue };
                let target = String::from_utf8_lossy(&target);
                let base = if entry.header().entry_type() == EntryType::Symlink { parent(&path) } else { "" };
                links.push((normal(&target, base), path));
            }
            _ => (),
        }
    }
    for (target, path) in links {
        if let Some(digest) = files.by_path.get(&target).cloned() {
            files.by_path.insert(path, digest);
        }
    }
    Ok(files)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map(|(parent, _)| parent).unwrap_or_default()
}

/// A path in an archive without `.` and `..`. It only serves to look things up.
fn normal(path: &str, base: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => (),
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
