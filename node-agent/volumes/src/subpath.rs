//! What of a volume is mounted: all of it, or a path inside.
//!
//! A container may have written into the volume before, so a path inside it is not to be trusted: a symbolic link in it
//! could name any file of the machine. The path is therefore resolved as if the volume were the root of everything, by
//! the kernel (`openat2`, RESOLVE_IN_ROOT would follow links to other places inside; RESOLVE_BENEATH refuses to leave).

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::VolumeMount;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

use crate::{VolumeError, Volumes, place};

/// The path on this machine to mount for `mount`. `sub_path` is its subPath or expanded subPathExpr.
pub fn mount_source(volumes: &Volumes, mount: &VolumeMount, sub_path: Option<&str>) -> Result<PathBuf, VolumeError> {
    let volume = &mount.name;
    let invalid = |what: String| VolumeError::Invalid { volume: volume.clone(), what };
    let made =
        volumes.get(volume).ok_or_else(|| invalid("a container mounts it, and the pod does not have it".into()))?;
    let Some(sub_path) = sub_path.filter(|path| !path.is_empty()) else { return Ok(made.path.clone()) };
    let relative = Path::new(sub_path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(invalid(format!("subPath {sub_path:?} must be relative and without `..`")));
    }
    inside(volume, &made.path, relative)
}

/// Resolves, and if need be makes, a directory inside the volume.
fn inside(volume: &str, root: &Path, relative: &Path) -> Result<PathBuf, VolumeError> {
    let io = |error: Errno| place::io(volume, &root.join(relative), error.into());
    let dir = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(io)?;
    let how = || OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH);
    let found = match openat2(&dir, relative, how()) {
        Err(Errno::ENOENT) => {
            make_missing(volume, root, relative)?;
            openat2(&dir, relative, how())
        }
        other => other,
    };
    let found = match found {
        Err(Errno::EXDEV | Errno::ELOOP) => {
            let what = format!("subPath {:?} leaves the volume through a symbolic link", relative.display());
            return Err(VolumeError::Invalid { volume: volume.into(), what });
        }
        other => other.map_err(io)?,
    };
    // The name the kernel gives what was opened has no links left in it.
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    fs::read_link(&path).map_err(|error| place::io(volume, root, error))
}

/// Makes the directories that are missing, one by one and never through a link that leaves the volume.
fn make_missing(volume: &str, root: &Path, relative: &Path) -> Result<(), VolumeError> {
    let mut done = PathBuf::new();
    for part in relative.components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = if done.as_os_str().is_empty() { root.to_path_buf() } else { inside(volume, root, &done)? };
        let path = parent.join(part);
        match fs::create_dir(&path) {
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
                .map_err(|error| place::io(volume, &path, error))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(place::io(volume, &path, error)),
        }
        done.push(part);
    }
    Ok(())
}
