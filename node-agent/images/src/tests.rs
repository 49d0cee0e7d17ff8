//! Stores, images written as a line of text, and what a container then sees.

mod collect;
mod import;
mod mount;
mod pull;
mod registry;
mod scripted;
mod tls;
mod together;
mod unpack;

use std::{
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::{Digest, Image, Snapshots, Store};

/// A store and the containers of an agent. Leaves no mounts.
pub(crate) struct World {
    pub dir: TempDir,
    pub store: Store,
    pub containers: Snapshots,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        let containers = Snapshots::new(store.clone(), dir.path().join("containers")).unwrap();
        World { dir, store, containers }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts an image of such layers into the store.
    pub fn image(&self, name: &str, layers: &[&str]) -> Image {
        let layout = self.path(&format!("layout-{}", name.replace(['/', ':'], "-")));
        write_layout(&layout, name, layers);
        let references = self.store.import(&layout, None).unwrap();
        self.store.find(&references[0]).unwrap().unwrap()
    }

    /// Mounts an image and says what a container sees.
    pub fn seen(&self, image: &Image, container: &str) -> String {
        tree(&self.containers.rootfs(&image.id, container).unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for container in self.containers.list().unwrap_or_default() {
            let _ = self.containers.release(&container);
        }
    }
}

/// An OCI layout with one image.
pub(crate) fn write_layout(dir: &Path, name: &str, layers: &[&str]) {
    let archives: Vec<Vec<u8>> = layers.iter().map(|layer| archive(layer)).collect();
    write_layout_of(dir, name, &archives, &archives.iter().map(|archive| Digest::of(archive)).collect::<Vec<_>>());
}

/// With layers as they are, and what they are said to unpack to.
pub(crate) fn write_layout_of(dir: &Path, name: &str, layers: &[Vec<u8>], diff_ids: &[Digest]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8], media_type: &str| -> Value {
        let digest = Digest::of(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let layers: Vec<Value> = layers.iter().map(|layer| blob(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
    let configuration = json!({
        "architecture": crate::Platform::here().architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/bin/app"], "Env": ["A=1"], "Cmd": null },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(configuration.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers });
    let mut entry = blob(manifest.to_string().as_bytes(), manifest_type);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A layer: `dir etc | file etc/motd hello | link bin usr/bin | hard a b | gone etc/old | opaque etc | node null 1:3`.
pub(crate) fn archive(text: &str) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for entry in text.split('|').map(str::trim).filter(|entry| !entry.is_empty()) {
        let words: Vec<&str> = entry.split_whitespace().collect();
        let header = |kind: EntryType, mode: u32| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_700_000_000);
            header.set_size(0);
            header
        };
        match words[..] {
            ["dir", path] => append(&mut archive, header(EntryType::Directory, 0o755), path, "", ""),
            ["file", path, content] => append(&mut archive, header(EntryType::Regular, 0o644), path, "", content),
            ["suid", path, uid] => {
                let mut header = header(EntryType::Regular, 0o4755);
                header.set_uid(uid.parse().unwrap());
                append(&mut archive, header, path, "", "");
            }
            ["link", path, target] => append(&mut archive, header(EntryType::Symlink, 0o777), path, target, ""),
            ["hard", path, target] => append(&mut archive, header(EntryType::Link, 0o644), path, target, ""),
            ["gone", path] => {
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
                let path = format!("{parent}/.wh.{name}");
                append(&mut archive, header(EntryType::Regular, 0o644), &path, "", "");
            }
            ["opaque", path] => {
                append(&mut archive, header(EntryType::Regular, 0o644), &format!("{path}/.wh..wh..opq"), "", "");
            }
            ["node", path, numbers] => {
                let (major, minor) = numbers.split_once(':').unwrap();
                let mut header = header(EntryType::Char, 0o666);
                header.set_device_major(major.parse().unwrap()).unwrap();
                header.set_device_minor(minor.parse().unwrap()).unwrap();
                append(&mut archive, header, path, "", "");
            }
            ["xattr", path, name, value] => {
                let key = format!("SCHILY.xattr.{name}");
                archive.append_pax_extensions([(key.as_str(), value.as_bytes())]).unwrap();
                append(&mut archive, header(EntryType::Directory, 0o755), path, "", "");
            }
            _ => panic!("no such entry: {entry}"),
        }
    }
    archive.into_inner().unwrap()
}

/// Writes names as they are: the crate that makes archives refuses those that a test of malice needs.
fn append(archive: &mut Builder<Vec<u8>>, mut header: Header, path: &str, link: &str, content: &str) {
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content.as_bytes()).unwrap();
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Everything below a directory, one entry a line.
pub(crate) fn tree(root: &Path) -> String {
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.join("\n")
}

fn walk(root: &Path, dir: &Path, lines: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root).unwrap().display();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            lines.push(format!("{name}/"));
            walk(root, &path, lines);
        } else if metadata.is_symlink() {
            lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
        } else if metadata.file_type().is_char_device() {
            let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
            lines.push(format!("{name} device {major}:{minor}"));
        } else {
            lines.push(format!("{name} {}", fs::read_to_string(&path).unwrap()).trim_end().to_owned());
        }
    }
}
