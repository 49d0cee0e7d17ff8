//! `copepod cp`: files to and from a container, with the container's own `tar`.

use std::{
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use tokio::sync::mpsc;

use super::{
    remote::{QUEUE, Remote, Said},
    resource::encode,
};
use crate::{
    client::Client,
    failure::{Doing, Failure, Outcome},
};

/// How much is sent at once.
const PART_BYTES: usize = 32 << 10;

/// Pieces of an archive that wait to be unpacked.
const PIECES_MAX: usize = 16;

#[derive(Args)]
pub struct Cp {
    /// A path here, or POD:PATH, or NAMESPACE/POD:PATH
    from: String,
    /// A path here, or POD:PATH, or NAMESPACE/POD:PATH
    to: String,
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
}

/// A path in a pod.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    namespace: Option<String>,
    pod: String,
    path: String,
}

/// None for a path here: those may have a colon after a slash only.
fn place(text: &str) -> Option<Place> {
    let (pod, path) = text.split_once(':')?;
    let (namespace, pod) = match pod.split_once('/') {
        Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
        None => (None, pod),
    };
    let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '.']);
    let is_place = is_name(pod) && namespace.as_deref().is_none_or(is_name);
    is_place.then(|| Place { namespace, pod: pod.to_owned(), path: path.to_owned() })
}

pub async fn run(cp: Cp, client: &Client, namespace: &str) -> Outcome {
    let there = |place: &Place, command: &[&str], stdin: bool| {
        let namespace = place.namespace.as_deref().unwrap_or(namespace);
        let mut path =
            format!("/api/v1/namespaces/{namespace}/pods/{}/exec?stdin={stdin}&stdout=true&stderr=true", place.pod);
        path.extend(command.iter().map(|word| format!("&command={}", encode(word))));
        path.extend(cp.container.iter().map(|container| format!("&container={}", encode(container))));
        path
    };
    match (place(&cp.from), place(&cp.to)) {
        (None, Some(to)) => {
            let (directory, name) = parent_and_name(&to.path)?;
            let is_directory = remote_is_directory(client, &there(&to, &["test", "-d", &to.path], false)).await?;
            let own = Path::new(&cp.from).file_name().map(|name| name.to_string_lossy().into_owned());
            let (directory, name) = match (is_directory, own) {
                (true, Some(own)) => (to.path.clone(), own),
                _ => (directory, name),
            };
            upload(client, &there(&to, &["tar", "-xmf", "-", "-C", &directory], true), PathBuf::from(&cp.from), name)
                .await
        }
        (Some(from), None) => {
            let (directory, name) = parent_and_name(&from.path)?;
            let command = ["tar", "-cf", "-", "-C", &directory, &name];
            download(client, &there(&from, &command, false), &name, PathBuf::from(&cp.to)).await
        }
        _ => Err(Failure::new("one of the two must be a path here, and the other POD:PATH")),
    }
}

fn parent_and_name(path: &str) -> Outcome<(String, String)> {
    let trimmed = path.trim_end_matches('/');
    let (directory, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
    match name {
        "" | "." | ".." => Err(Failure::new(format!("{path:?} does not name a file or directory"))),
        name => Ok((if directory.is_empty() { "/" } else { directory }.to_owned(), name.to_owned())),
    }
}

async fn remote_is_directory(client: &Client, path: &str) -> Outcome<bool> {
    let (_said, to_say) = mpsc::channel(1);
    let code = Remote::open(client, path).await?.carry(to_say, io::sink(), io::sink()).await?;
    Ok(code == 0)
}

async fn upload(client: &Client, path: &str, from: PathBuf, name: String) -> Outcome {
    let about = from.display().to_string();
    let is_directory = std::fs::metadata(&from).doing(&about)?.is_dir();
    let remote = Remote::open(client, path).await?;
    let (said, to_say) = mpsc::channel(QUEUE);
    let packing = std::thread::spawn(move || -> io::Result<()> {
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PART_BYTES, Sender(said.clone())));
        archive.follow_symlinks(false);
        match is_directory {
            true => archive.append_dir_all(&name, &from)?,
            false => archive.append_path_with_name(&from, &name)?,
        }
        archive.into_inner()?.flush()?;
        said.blocking_send(Said::StdinEnds).map_err(io::Error::other)
    });
    let mut errors = Vec::new();
    let code = remote.carry(to_say, io::sink(), &mut errors).await?;
    ended(code, &errors)?;
    packing.join().map_err(|_| Failure::new("packing failed"))?.doing(about)
}

async fn download(client: &Client, path: &str, name: &str, to: PathBuf) -> Outcome {
    let about = to.display().to_string();
    let remote = Remote::open(client, path).await?;
    let (_said, to_say) = mpsc::channel(1);
    let (pieces, received) = std::sync::mpsc::sync_channel(PIECES_MAX);
    let name = name.to_owned();
    let unpacking = std::thread::spawn(move || unpack(Receiver { pieces: received, held: Bytes::new() }, &name, &to));
    let mut errors = Vec::new();
    let code = remote.carry(to_say, Pieces(pieces), &mut errors).await;
    let unpacked = unpacking.join().map_err(|_| Failure::new("unpacking failed"))?;
    ended(code?, &errors)?;
    unpacked.doing(about)
}

fn ended(code: i32, errors: &[u8]) -> Outcome {
    match code {
        0 => Ok(()),
        code => Err(Failure::new(format!(
            "tar in the container: {} (exit code {code})",
            String::from_utf8_lossy(errors).trim()
        ))),
    }
}

/// Unpacks what is below `name` to `to`, or into it where it is a directory. The container's archive is not trusted:
/// nothing is written anywhere else, and links are left out, as kubectl leaves them out.
fn unpack(archive: impl Read, name: &str, to: &Path) -> io::Result<()> {
    let root = if to.is_dir() { to.join(name) } else { to.to_owned() };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(rest) = path.strip_prefix(name) else { continue };
        if !rest.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!("the archive names a path outside of it: {}", path.display())));
        }
        let target = if rest.as_os_str().is_empty() { root.clone() } else { root.join(rest) };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            std::fs::create_dir_all(&target)?;
        } else if kind.is_file() {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            entry.unpack(&target)?;
        } else {
            eprintln!("left out, because it is neither a file nor a directory: {}", path.display());
        }
    }
    Ok(())
}

struct Sender(mpsc::Sender<Said>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Said::Stdin(Bytes::copy_from_slice(bytes))).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pieces(std::sync::mpsc::SyncSender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Waits for the disk: nothing else is to be done meanwhile.
        self.0.send(Bytes::copy_from_slice(bytes)).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Receiver {
    pieces: std::sync::mpsc::Receiver<Bytes>,
    held: Bytes,
}

impl Read for Receiver {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() {
            self.held = self.pieces.recv().unwrap_or_default();
        }
        let n_bytes = self.held.len().min(out.len());
        out[..n_bytes].copy_from_slice(&self.held.split_to(n_bytes));
        Ok(n_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_pods_are_told_from_paths_here() {
        let (pod, path) = ("web-1".to_owned(), "/tmp/a:b".to_owned());
        assert_eq!(place("web-1:/tmp/a:b"), Some(Place { namespace: None, pod: pod.clone(), path: path.clone() }));
        assert_eq!(place("n/web-1:/tmp/a:b"), Some(Place { namespace: Some("n".to_owned()), pod, path }));
        for here in ["file", "./a:b", "/a:b", "../x/y:z", ":x"] {
            assert_eq!(place(here), None, "{here}");
        }
    }

    #[test]
    fn an_archive_cannot_write_outside() {
        let directory = std::env::temp_dir().join(format!("copepod-cp-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let archive = |path: &str| {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(1);
            header.set_mode(0o644);
            header.set_cksum();
            let mut builder = tar::Builder::new(Vec::new());
            builder.append(&header, b"x".as_slice()).unwrap();
            builder.into_inner().unwrap()
        };
        assert!(unpack(archive("a/../../escaped").as_slice(), "a", &directory).is_err());
        assert!(!directory.with_file_name("escaped").exists());
        unpack(archive("a/b/c").as_slice(), "a", &directory).unwrap();
        assert_eq!(std::fs::read(directory.join("a/b/c")).unwrap(), b"x");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
