//! The root file systems of containers: overlays on the layers of images.
//!
//! ```text
//! <containers>/<container id>/rootfs    the mount
//!                             upper     what the container wrote
//!                             work      overlayfs' own
//! ```
//! Mounts outlive the agent, so nothing is remembered: whether a container has its root is asked of the kernel.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use crate::{
    Digest, ImageError, Layer, Store,
    garbage::{Lease, this_boot},
    layer::{remove_tree, unpack_once},
};

/// The kernel takes one page of mount options, with a zero at its end.
const OPTIONS_BYTES_MAX: usize = 4095;

/// The containers of one agent.
#[derive(Clone, Debug)]
pub struct Snapshots {
    store: Store,
    dir: PathBuf,
}

impl Snapshots {
    /// `containers_dir` is this agent's alone, on a file system that overlayfs can write on.
    pub fn new(store: Store, containers_dir: impl Into<PathBuf>) -> Result<Snapshots, ImageError> {
        let dir = containers_dir.into();
        let dir = std::path::absolute(&dir).map_err(ImageError::io(dir.display().to_string()))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(ImageError::io(dir.display().to_string()))?;
        Ok(Snapshots { store, dir })
    }

    /// Mounts the image with this id (the digest of its configuration) for a container, and returns where. A container
    /// that has its root keeps it, with all that was written there.
    pub fn rootfs(&self, image_id: &Digest, container_id: &str) -> Result<PathBuf, ImageError> {
        let dir = self.container_dir(container_id)?;
        let rootfs = dir.join("rootfs");
        if is_mount_point(&rootfs)? {
            return Ok(rootfs);
        }
        let _shared = self.store.shared()?;
        let image = self.store.image_by_id(image_id)?.ok_or_else(|| {
            ImageError::Missing(format!("the image {image_id} of container {container_id} is no longer here"))
        })?;
        image.layers.iter().try_for_each(|layer| unpack_once(&self.store, layer))?;

        // What a machine's crash left has no process any more that could miss it.
        remove_tree(&dir)?;
        for name in ["", "rootfs", "upper", "work"] {
            let path = dir.join(name);
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(ImageError::io(path.display().to_string()))?;
        }
        let layers = distinct(&image.layers);
        let lease = Lease { container: dir.clone(), layers: layers.clone(), boot: this_boot()? };
        lease.write(&self.store)?;
        // The root of the image, not the directory we made, says who may enter and whose it is.
        let lower: Vec<PathBuf> = layers.iter().map(|diff_id| self.store.layer_dir(diff_id).join("diff")).collect();
        match lower.first() {
            Some(top) => copy_root_attributes(top, &dir.join("upper"))?,
            None => fs::set_permissions(dir.join("upper"), Permissions::from_mode(0o755))
                .map_err(ImageError::io(dir.display().to_string()))?,
        }
        mount_overlay(&lower, &dir)
            .map_err(ImageError::io(format!("mounting the root of container {container_id}")))?;
        Ok(rootfs)
    }

    /// Takes a container's root away with all that it wrote. One that is not there is no error.
    pub fn release(&self, container_id: &str) -> Result<(), ImageError> {
        let dir = self.container_dir(container_id)?;
        let rootfs = dir.join("rootfs");
        // Detached, because a process on its last way out may still look at it; what holds it, keeps it alive.
        while is_mount_point(&rootfs)? {
            umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(ImageError::io(format!("unmounting {}", rootfs.display())))?;
        }
        // By itself first: if anything is mounted there against all expectation, nothing in it must be deleted.
        match fs::remove_dir(&rootfs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::io(rootfs.display().to_string())(error));
            }
            _ => (),
        }
        remove_tree(&dir)?;
        Lease::remove(&self.store, &dir)
    }

    /// Takes away what no container can use any more: the roots from before the machine was last started. Whether
    /// something is mounted would not tell, since an agent may come back in a mount namespace that does not show it
    /// what its containers stand on.
    pub fn clean(&self) -> Result<(), ImageError> {
        let boot = this_boot()?;
        for container in self.list()? {
            // What is not the name of a container was not made here.
            let Ok(dir) = self.container_dir(&container) else { continue };
            if Lease::of(&self.store, &dir)?.is_none_or(|lease| lease.boot != boot) {
                self.release(&container)?;
            }
        }
        Ok(())
    }

    /// The containers that have something here, mounted or not.
    pub fn list(&self) -> Result<Vec<String>, ImageError> {
        let read = || {
            fs::read_dir(&self.dir)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<String>>>()
        };
        let mut names = read().map_err(ImageError::io(self.dir.display().to_string()))?;
        names.sort();
        Ok(names)
    }

    fn container_dir(&self, container_id: &str) -> Result<PathBuf, ImageError> {
        let valid = !container_id.is_empty()
            && container_id.len() <= 200
            && !container_id.starts_with('.')
            && container_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !valid {
            return Err(ImageError::InvalidName(format!("{container_id:?} cannot be the id of a container")));
        }
        Ok(self.dir.join(container_id))
    }
}

/// From the top, as overlayfs wants them, and each once: it refuses a layer that is given twice. Images repeat layers
/// (the empty one above all); the upper of two equals hides all of the lower.
fn distinct(layers: &[Layer]) -> Vec<Digest> {
    let mut distinct: Vec<Digest> = Vec::new();
    for layer in layers.iter().rev() {
        if !distinct.contains(&layer.diff_id) {
            distinct.push(layer.diff_id.clone());
        }
    }
    distinct
}

fn copy_root_attributes(from: &Path, to: &Path) -> Result<(), ImageError> {
    let copy = || {
        let metadata = fs::metadata(from)?;
        std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(to, metadata.permissions())
    };
    copy().map_err(ImageError::io(to.display().to_string()))
}

/// An image without layers still needs something below.
fn empty_layer(dir: &Path) -> io::Result<PathBuf> {
    let empty = dir.join("empty");
    fs::create_dir_all(&empty)?;
    Ok(empty)
}

fn mount_overlay(lower: &[PathBuf], dir: &Path) -> io::Result<()> {
    let mut lower = lower.to_vec();
    if lower.is_empty() {
        lower.push(empty_layer(dir)?);
    }
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    // What a container writes beside its volumes does not outlive it, so nothing of it must reach the disk: `volatile`
    // spares a flush of the whole file system at every unmount. Kernels before 5.10 do not know it.
    let options =
        |paths: &Paths| format!("lowerdir={},upperdir={},workdir={},index=off", paths.lower, paths.upper, paths.work);
    let named = Paths::named(&lower, &upper, &work);
    let short;
    let paths = match named {
        Some(named) if options(&named).len() + ",volatile".len() <= OPTIONS_BYTES_MAX => named,
        _ => {
            short = Short::open(&lower, &upper, &work)?;
            short.paths()
        }
    };
    let options = options(&paths);
    let mounted = mount_with(&dir.join("rootfs"), &format!("{options},volatile"));
    let mounted = match mounted {
        Err(Errno::EINVAL) => mount_with(&dir.join("rootfs"), &options),
        mounted => mounted,
    };
    Ok(mounted?)
}

fn mount_with(target: &Path, options: &str) -> nix::Result<()> {
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options))
}

struct Paths {
    lower: String,
    upper: String,
    work: String,
}

impl Paths {
    /// Plain names, which `mount` then shows to people; nothing if the option syntax has no words for them.
    fn named(lower: &[PathBuf], upper: &Path, work: &Path) -> Option<Paths> {
        let plain = |path: &Path| path.to_str().filter(|path| !path.contains([',', ':', '\\'])).map(str::to_owned);
        let lower = lower.iter().map(|path| plain(path)).collect::<Option<Vec<String>>>()?;
        Some(Paths { lower: lower.join(":"), upper: plain(upper)?, work: plain(work)? })
    }
}

/// Open directories, whose names in `/proc` are short: for images with so many layers that plain names do not fit.
struct Short {
    lower: Vec<File>,
    upper: File,
    work: File,
}

impl Short {
    fn open(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<Short> {
        let open = |path: &Path| {
            let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY).bits();
            OpenOptions::new().read(true).custom_flags(flags).open(path)
        };
        let lower = lower.iter().map(|path| open(path)).collect::<io::Result<Vec<File>>>()?;
        Ok(Short { lower, upper: open(upper)?, work: open(work)? })
    }

    fn paths(&self) -> Paths {
        let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let lower: Vec<String> = self.lower.iter().map(name).collect();
        Paths { lower: lower.join(":"), upper: name(&self.upper), work: name(&self.work) }
    }
}

/// A mount has another device than the directory it stands in.
fn is_mount_point(path: &Path) -> Result<bool, ImageError> {
    let parent = path.parent().unwrap_or(path);
    match (fs::symlink_metadata(path), fs::symlink_metadata(parent)) {
        (Ok(own), Ok(parent)) => Ok(own.dev() != parent.dev()),
        (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(ImageError::io(path.display().to_string())(error)),
    }
}
