//! Unpacks the archive of a layer into a directory, in the form that overlayfs wants.
//!
//! The archive was written by a stranger and is unpacked by root, so where a name leads is decided by the kernel: every
//! parent directory is opened with `RESOLVE_IN_ROOT`, which makes the layer's directory the root of all `..` and all
//! absolute links, and the last part of a name is never followed. There is no moment in which a path is checked and
//! another in which it is used.
//!
//! A layer says "this is gone" with empty files, `.wh.<name>` for one entry and `.wh..wh..opq` for all that lower layers
//! have in a directory; overlayfs says it with a device node 0:0 and an attribute of the directory. Both only speak about
//! lower layers: what the same archive holds, stays.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::{
        stat::{
            FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, makedev, mkdirat, mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use tar::{Archive, Entry, EntryType};

use crate::ImageError;

/// A layer with more entries than this is not an image but an attack on inodes; the largest images known to us have a
/// tenth of it.
const ENTRIES_MAX: usize = 10_000_000;

/// A few kilobytes of gzip make gigabytes of zeros. No layer we know of comes near this, and a disk survives it.
const LAYER_BYTES_MAX: u64 = 256 << 30;

const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
const AUFS_WHITEOUT: &[u8] = b".wh..wh.";

/// Unpacks `archive` into the empty directory `root`.
pub(crate) fn unpack(archive: &mut dyn Read, root: &Path) -> Result<(), ImageError> {
    let io = |error: io::Error| ImageError::Io { what: root.display().to_string(), source: error };
    let root_fd = OwnedFd::from(File::open(root).map_err(io)?);
    fchmod(&root_fd, Mode::from_bits_truncate(0o755)).map_err(|error| io(error.into()))?;
    let mut layer = Unpacking { root: root_fd, parent: None, modified: BTreeMap::new(), bytes: 0 };
    let whole_at = Cell::new(0);
    let mut padded = Padded { archive, n_bytes: 0, whole_at: &whole_at };
    let mut archive = Archive::new(&mut padded as &mut dyn Read);
    for (n, entry) in archive.entries().map_err(damaged)?.enumerate() {
        if n == ENTRIES_MAX {
            return Err(ImageError::Malformed(format!("the layer has more than {ENTRIES_MAX} entries")));
        }
        let mut entry = entry.map_err(damaged)?;
        whole_at.set(entry.raw_file_position() + entry.header().entry_size().map_err(damaged)?);
        let path = entry.path_bytes().into_owned();
        layer.entry(&mut entry, &path).map_err(|problem| problem.about(&path))?;
    }
    layer.settle_directories()
}

/// An archive whose last block is filled up: some builders end a layer with the last byte of its last file, which other
/// runtimes read.
struct Padded<'a> {
    archive: &'a mut dyn Read,
    n_bytes: u64,
    /// Where the file ends that is being read: before that, nothing may be missing.
    whole_at: &'a Cell<u64>,
}

const BLOCK_BYTES: u64 = 512;

impl Read for Padded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = self.archive.read(buffer)?;
        if n == 0 && self.n_bytes >= self.whole_at.get() {
            let missing = (BLOCK_BYTES - self.n_bytes % BLOCK_BYTES) % BLOCK_BYTES;
            n = buffer.len().min(missing as usize);
            buffer[..n].fill(0);
        }
        self.n_bytes += n as u64;
        Ok(n)
    }
}

fn damaged(error: io::Error) -> ImageError {
    ImageError::Malformed(format!("the archive is damaged: {error}"))
}

/// Why one entry cannot be unpacked.
enum Problem {
    Refused(String),
    System(&'static str, io::Error),
}

impl Problem {
    fn about(self, path: &[u8]) -> ImageError {
        let path = String::from_utf8_lossy(path);
        match self {
            Problem::Refused(reason) => ImageError::Malformed(format!("{path:?} {reason}")),
            Problem::System(what, source) => ImageError::Io { what: format!("{what} {path:?}"), source },
        }
    }
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::System(what, error.into())
}

struct Unpacking {
    root: OwnedFd,
    /// The directory of the entry before: most entries have the same.
    parent: Option<(PathBuf, OwnedFd)>,
    /// When directories were modified; set at the end, because filling them modifies them.
    modified: BTreeMap<PathBuf, TimeSpec>,
    bytes: u64,
}

/// What becomes of an entry once it is there.
struct Attributes {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    modified: TimeSpec,
    extended: Vec<(OsString, Vec<u8>)>,
}

impl Unpacking {
    fn entry(&mut self, entry: &mut Entry<'_, &mut dyn Read>, path: &[u8]) -> Result<(), Problem> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let attributes = attributes(entry)?;
        let Some((parent_path, name)) = split(path)? else {
            // The root of the image itself.
            let root = self.root.try_clone().map_err(system("opening"))?;
            self.modified.insert(PathBuf::new(), attributes.modified);
            return apply(root.as_fd(), OsStr::new("."), EntryType::Directory, &attributes);
        };
        let full = parent_path.join(&name);
        let parent = self.directory(&parent_path)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&parent, &name);
        }
        match kind {
            EntryType::Directory => self.make_directory(&parent, &name)?,
            _ => self.clear(&parent, &name)?,
        }
        match kind {
            EntryType::Directory => {
                self.modified.insert(full, attributes.modified);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.bytes = self.bytes.saturating_add(entry.size());
                if self.bytes > LAYER_BYTES_MAX {
                    return Err(Problem::Refused(format!(
                        "brings the layer above {} GiB, more than any image is given",
                        LAYER_BYTES_MAX >> 30
                    )));
                }
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(&parent, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
                    .map_err(system("creating"))?;
                io::copy(entry, &mut File::from(file)).map_err(system("writing"))?;
            }
            EntryType::Symlink => {
                let target = link_name(entry)?;
                symlinkat(OsStr::from_bytes(&target), &parent, name.as_os_str()).map_err(system("linking"))?;
            }
            // It is the same file: what its first name was given holds for this one.
            EntryType::Link => return self.hard_link(&link_name(entry)?, &parent, &name),
            EntryType::Char | EntryType::Block | EntryType::Fifo => make_node(entry, kind, &parent, &name)?,
            other => {
                return Err(Problem::Refused(format!("is of a kind that images do not have ({:?})", other.as_byte())));
            }
        }
        apply(parent.as_fd(), &name, kind, &attributes)
    }

    /// Opens a directory of the layer, and makes what is missing of it.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Problem> {
        if let Some((known, directory)) = &self.parent
            && known == path
        {
            return directory.try_clone().map_err(system("opening the directory of"));
        }
        let directory = match self.open_directory(path) {
            Err(Errno::ENOENT) => self.make_missing(path)?,
            opened => opened.map_err(system("opening the directory of"))?,
        };
        let copy = directory.try_clone().map_err(system("opening the directory of"))?;
        self.parent = Some((path.to_owned(), copy));
        Ok(directory)
    }

    fn open_directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    fn make_missing(&self, path: &Path) -> Result<OwnedFd, Problem> {
        let mut current = self.open_directory(Path::new("")).map_err(system("opening the root of"))?;
        let mut prefix = PathBuf::new();
        for name in path.components() {
            prefix.push(name);
            current = match self.open_directory(&prefix) {
                Err(Errno::ENOENT) => {
                    mkdirat(&current, name.as_os_str(), Mode::from_bits_truncate(0o755))
                        .map_err(system("making the directory of"))?;
                    let made = self.open_directory(&prefix).map_err(system("opening the directory of"))?;
                    // Whatever mask the process has.
                    fchmod(&made, Mode::from_bits_truncate(0o755))
                        .map_err(system("giving a mode to the directory of"))?;
                    made
                }
                opened => opened.map_err(system("opening the directory of"))?,
            };
        }
        Ok(current)
    }

    fn make_directory(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
        let kind = kind_at(parent, name)?;
        if kind == Some(SFlag::S_IFDIR) {
            return Ok(());
        }
        let hides_lower = kind.is_some() && is_whiteout(parent, name)?;
        self.clear(parent, name)?;
        mkdirat(parent, name, Mode::S_IRWXU).map_err(system("making the directory"))?;
        if hides_lower {
            make_opaque(parent, name)?;
        }
        Ok(())
    }

    /// Takes away what an earlier entry of the same archive left under this name.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
        match kind_at(parent, name)? {
            None => Ok(()),
            Some(SFlag::S_IFDIR) => {
                self.parent = None;
                // The way leads through an open directory and its last step is not followed.
                fs::remove_dir_all(through(parent, name)).map_err(system("replacing the directory"))
            }
            Some(_) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(system("replacing")),
        }
    }

    fn whiteout(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
        let bytes = name.as_bytes();
        if bytes == OPAQUE_WHITEOUT {
            return make_opaque(parent, OsStr::new("."));
        }
        if bytes.starts_with(AUFS_WHITEOUT) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&bytes[WHITEOUT.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(Problem::Refused("hides nothing that could have a name".into()));
        }
        match kind_at(parent, hidden)? {
            None => mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
                .map_err(system("hiding what lower layers have, by")),
            Some(SFlag::S_IFDIR) => make_opaque(parent, hidden),
            Some(_) => Ok(()),
        }
    }

    fn hard_link(&self, target: &[u8], parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
        let Some((target_parent, target_name)) = split(target)? else {
            return Err(Problem::Refused("is a hard link to the root directory".into()));
        };
        let refused = |error: Errno| match error {
            Errno::ENOENT => Problem::Refused(format!(
                "is a hard link to {:?}, which the layer does not have",
                String::from_utf8_lossy(target)
            )),
            error => Problem::System("linking", error.into()),
        };
        let directory = self.open_directory(&target_parent).map_err(refused)?;
        linkat(&directory, target_name.as_os_str(), parent, name, AtFlags::empty()).map_err(refused)
    }

    fn settle_directories(&self) -> Result<(), ImageError> {
        for (path, modified) in &self.modified {
            // A later entry may have put something else there.
            let Ok(directory) = self.open_directory(path) else { continue };
            utimensat(&directory, ".", modified, modified, UtimensatFlags::NoFollowSymlink)
                .map_err(|error| system("dating")(error))
                .map_err(|problem: Problem| problem.about(path.as_os_str().as_bytes()))?;
        }
        Ok(())
    }
}

fn make_node(entry: &Entry<'_, &mut dyn Read>, kind: EntryType, parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
    let number = |number: io::Result<Option<u32>>| {
        number.map(Option::unwrap_or_default).map_err(|error| Problem::Refused(format!("is damaged: {error}")))
    };
    let (major, minor) = (number(entry.header().device_major())?, number(entry.header().device_minor())?);
    let flag = match kind {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    if flag == SFlag::S_IFCHR && (major, minor) == (0, 0) {
        return Err(Problem::Refused(
            "is the device 0:0, which has a meaning of its own here and none elsewhere".into(),
        ));
    }
    mknodat(parent, name, flag, Mode::empty(), makedev(major.into(), minor.into())).map_err(system("making the node"))
}

/// Owner first (it takes set-user-id away), then mode, then the rest (changing the owner takes capabilities away).
fn apply(parent: BorrowedFd<'_>, name: &OsStr, kind: EntryType, attributes: &Attributes) -> Result<(), Problem> {
    let Attributes { mode, uid, gid, modified, extended } = attributes;
    fchownat(parent, name, Some(*uid), Some(*gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(system("giving an owner to"))?;
    if kind != EntryType::Symlink {
        fchmodat(parent, name, *mode, FchmodatFlags::FollowSymlink).map_err(system("giving a mode to"))?;
    }
    for (attribute, value) in extended {
        match xattr::set(through(&parent, name), attribute, value) {
            // A file system without such attributes is no reason to refuse an image; capabilities are, because a
            // program without them fails in ways that nobody understands.
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) && attribute != CAPABILITY => (),
            set => set.map_err(system("giving extended attributes to"))?,
        }
    }
    utimensat(parent, name, modified, modified, UtimensatFlags::NoFollowSymlink).map_err(system("dating"))
}

const CAPABILITY: &str = "security.capability";
const PAX_XATTR: &str = "SCHILY.xattr.";

fn attributes(entry: &mut Entry<'_, &mut dyn Read>) -> Result<Attributes, Problem> {
    let refused = |error: io::Error| Problem::Refused(format!("is damaged: {error}"));
    let id = |id: u64| u32::try_from(id).map_err(|_| Problem::Refused(format!("belongs to {id}, which is no id")));
    let header = entry.header();
    let mode = Mode::from_bits_truncate(header.mode().map_err(refused)? & 0o7777);
    let uid = Uid::from_raw(id(header.uid().map_err(refused)?)?);
    let gid = Gid::from_raw(id(header.gid().map_err(refused)?)?);
    let mut modified = TimeSpec::new(i64::try_from(header.mtime().map_err(refused)?).unwrap_or(0), 0);
    let mut extended = Vec::new();
    if let Some(extensions) = entry.pax_extensions().map_err(refused)? {
        for extension in extensions {
            let extension = extension.map_err(refused)?;
            let Ok(key) = extension.key() else { continue };
            if key == "mtime" {
                modified = extension.value().ok().and_then(time).unwrap_or(modified);
            } else if let Some(name) = key.strip_prefix(PAX_XATTR)
                && is_kept(name)
            {
                extended.push((OsString::from(name), extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(Attributes { mode, uid, gid, modified, extended })
}

/// `trusted.overlay.*` would let a layer redirect the mount to anything below it, and labels of another machine's policy
/// mean nothing here.
fn is_kept(attribute: &str) -> bool {
    attribute == CAPABILITY || (attribute.starts_with("user.") && !attribute.starts_with("user.overlay."))
}

/// `1700000000.25`.
fn time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = nanoseconds.parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    let before_epoch = text.starts_with('-') && nanoseconds > 0;
    Some(if before_epoch {
        TimeSpec::new(seconds - 1, 1_000_000_000 - nanoseconds)
    } else {
        TimeSpec::new(seconds, nanoseconds)
    })
}

fn link_name(entry: &Entry<'_, &mut dyn Read>) -> Result<Vec<u8>, Problem> {
    let name = entry.link_name_bytes().map(|name| name.into_owned()).filter(|name| !name.is_empty());
    name.ok_or_else(|| Problem::Refused("is a link to nothing".into()))
}

/// The directory and the last part of an entry's name; nothing for the root itself.
fn split(path: &[u8]) -> Result<Option<(PathBuf, OsString)>, Problem> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => (),
            b".." => return Err(Problem::Refused("leads out of the image by `..`".into())),
            part if part.contains(&0) => return Err(Problem::Refused("has a zero byte in its name".into())),
            part => parts.push(part),
        }
    }
    let Some(name) = parts.pop() else { return Ok(None) };
    let parent = parts.iter().map(|part| OsStr::from_bytes(part)).collect();
    Ok(Some((parent, OsString::from_vec(name.to_vec()))))
}

fn kind_at(parent: &OwnedFd, name: &OsStr) -> Result<Option<SFlag>, Problem> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(system("looking at")(error)),
    }
}

fn is_whiteout(parent: &OwnedFd, name: &OsStr) -> Result<bool, Problem> {
    let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(system("looking at"))?;
    Ok(stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && stat.st_rdev == 0)
}

fn make_opaque(parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
    xattr::set(through(parent, name), OPAQUE, b"y").map_err(system("hiding what lower layers have, by"))
}

/// A path to an entry of an open directory, for calls that know no directories.
fn through(parent: &impl AsFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(parent.as_fd().as_raw_fd().to_string()).join(name)
}
