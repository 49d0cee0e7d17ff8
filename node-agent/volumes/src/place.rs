//! Where volumes stand, and how they are taken away again.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};

use crate::VolumeError;

/// The directory of a volume, made if need be.
pub(crate) fn dir(pod_dir: &Path, plugin: &str, volume: &str) -> Result<PathBuf, VolumeError> {
    // Names of volumes are DNS labels; the API server sees to it, and this agent does not depend on it.
    if volume.is_empty() || volume.contains('/') || volume.starts_with('.') {
        let what = "its name must be a DNS label, like `data`".to_owned();
        return Err(VolumeError::Invalid { volume: volume.into(), what });
    }
    let path = pod_dir.join("volumes").join(plugin).join(volume);
    fs::create_dir_all(&path).map_err(|error| io(volume, &path, error))?;
    // The directories above are the agent's own: a container's user must only be able to walk through its mount.
    let closed = fs::Permissions::from_mode(0o750);
    fs::set_permissions(pod_dir, closed).map_err(|error| self::io(volume, pod_dir, error))?;
    Ok(path)
}

pub(crate) fn io(volume: &str, path: &Path, source: io::Error) -> VolumeError {
    VolumeError::Io { volume: volume.into(), path: path.into(), source }
}

/// Everything mounted at or below `root`, the deepest first.
fn mounts_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(root))
        .collect();
    found.reverse();
    Ok(found)
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mount(path: &Path) -> io::Result<bool> {
    Ok(mounts_below(path)?.iter().any(|mount| mount == path))
}

pub(crate) fn unmount_below(root: &Path) -> io::Result<()> {
    let root = match root.canonicalize() {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for mount in mounts_below(&root)? {
        // Detached at once even if a process still stands in it: its pod is gone, and nothing may hold the rest back.
        umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from)?;
    }
    if mounts_below(&root)?.is_empty() { Ok(()) } else { Err(io::Error::other("something is still mounted there")) }
}

/// The kernel writes white space and backslashes of paths as octal numbers.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
