//! Unpacks a layer once for everybody.
//!
//! A layer is found under the digest of its uncompressed archive, so one that came from two registries in two
//! compressions is unpacked once. It is unpacked beside its place and renamed when it is whole and on disk: what stands
//! in its place needs no check.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
};

use nix::unistd::syncfs;

use crate::{ImageError, Layer, Store, digest::HashingReader, store::publish, unpack::unpack};

pub(crate) fn unpack_once(store: &Store, layer: &Layer) -> Result<(), ImageError> {
    let dir = store.layer_dir(&layer.diff_id);
    if dir.exists() {
        return Ok(());
    }
    let _lock = store.exclusive("layer", &layer.diff_id)?;
    if dir.exists() {
        return Ok(());
    }
    let unfinished = dir.with_extension("unfinished");
    remove_tree(&unfinished)?;
    let diff = unfinished.join("diff");
    fs::create_dir_all(&diff).map_err(ImageError::io(diff.display().to_string()))?;
    let unpacked = unpack_verified(store, layer, &diff).and_then(|()| publish(&unfinished, &dir));
    if let Err(error) = &unpacked {
        remove_tree(&unfinished)?;
        if matches!(error, ImageError::Malformed(_)) {
            discard_if_damaged(store, layer)?;
        }
    }
    unpacked
}

fn unpack_verified(store: &Store, layer: &Layer, diff: &std::path::Path) -> Result<(), ImageError> {
    let path = store.blob_path(&layer.blob);
    let what = || format!("unpacking layer {}", layer.blob);
    let file = File::open(&path).map_err(ImageError::io(what()))?;
    let mut archive =
        HashingReader::new(decompress(BufReader::with_capacity(128 << 10, file)).map_err(ImageError::io(what()))?);
    unpack(&mut archive, diff).map_err(|error| match error {
        ImageError::Malformed(reason) => ImageError::Malformed(format!("{}: {reason}", what())),
        ImageError::Io { what: path, source } => ImageError::Io { what: format!("{}: {path}", what()), source },
        other => other,
    })?;
    // The archive ends before its padding does, and the digest covers both.
    io::copy(&mut archive, &mut io::sink()).map_err(ImageError::io(what()))?;
    let found = archive.hasher.digest();
    if found != layer.diff_id {
        return Err(ImageError::Malformed(format!(
            "layer {} should unpack to {} and unpacks to {found}",
            layer.blob, layer.diff_id
        )));
    }
    // One call for the whole layer; after a power cut a half-written file would otherwise stand in a finished layer.
    let dir = File::open(diff).map_err(ImageError::io(what()))?;
    syncfs(&dir).map_err(ImageError::io(what()))
}

/// A blob that the disk damaged is taken away, so that the next pull or import brings a good one; one that was made wrong
/// comes back the same, and stays.
fn discard_if_damaged(store: &Store, layer: &Layer) -> Result<(), ImageError> {
    let path = store.blob_path(&layer.blob);
    let what = || path.display().to_string();
    let mut blob = HashingReader::new(File::open(&path).map_err(ImageError::io(what()))?);
    io::copy(&mut blob, &mut io::sink()).map_err(ImageError::io(what()))?;
    if blob.hasher.digest() != layer.blob {
        tracing::warn!(path = %path.display(), "a damaged layer is removed");
        fs::remove_file(&path).map_err(ImageError::io(what()))?;
    }
    Ok(())
}

/// Tar, gzip or zstd, by what it begins with: media types are often wrong about it.
pub(crate) fn decompress<'a, R: Read + 'a>(mut reader: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let mut n = 0;
    while n < magic.len() {
        match reader.read(&mut magic[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    let whole = io::Cursor::new(magic).take(n as u64).chain(reader);
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

pub(crate) fn remove_tree(path: &std::path::Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ImageError::io(path.display().to_string())(error)),
    }
}
