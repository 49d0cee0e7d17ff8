//! Replacing a set of files at once.
//!
//! The files of one version lie in a directory of their own; `..data` is a link to it, and what containers see are links
//! through `..data`. Renaming a new link over `..data` changes all of them in one step, and a reader that holds a file of
//! the old version open keeps it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use crate::payload::Payload;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Shows `payload` in `dir`. `version` names the directory of this version; it must differ between two calls that write.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>, version: &str) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(if group.is_some() { 0o2777 } else { 0o777 }))?;
    let shown = fs::read_link(dir.join(DATA)).ok();
    if let Some(shown) = &shown
        && is_same(&dir.join(shown), payload)?
    {
        return Ok(());
    }
    let name = free_name(dir, version);
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in &payload.files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        let mut mode = file.mode;
        if group.is_some() {
            chown(&path, None, group)?;
            // Its group must be able to read what was meant for the owner.
            mode |= 0o040 | ((mode & 0o100) >> 3);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let next = dir.join(DATA_NEXT);
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    link_entries(dir, payload)?;
    remove_old_versions(dir, &name)
}

/// Takes over from what is shown what the payload is to keep; gives the first of them that is not there.
pub(crate) fn keep(dir: &Path, payload: &mut Payload) -> Option<String> {
    for path in &payload.kept {
        let stands = fs::read(dir.join(DATA).join(path)).ok();
        match (stands, payload.files.get_mut(path)) {
            (Some(bytes), Some(file)) => file.bytes = bytes,
            _ => return Some(path.clone()),
        }
    }
    None
}

fn free_name(dir: &Path, version: &str) -> String {
    let mut name = format!("..{version}");
    while dir.join(&name).exists() {
        name.push('_');
    }
    name
}

/// Links at the top for what is new, and none for what is gone.
fn link_entries(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            continue;
        }
        let _ = fs::remove_file(&link);
        symlink(&target, &link)?;
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(DATA));
        if ours && name.to_str().is_some_and(|name| !wanted.contains(name)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_old_versions(dir: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("..") && name != current && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether the version on disk already says the same.
fn is_same(shown: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    collect(shown, "", &mut found)?;
    if found.len() != payload.files.len() {
        return Ok(false);
    }
    for (path, file) in &payload.files {
        match fs::read(shown.join(path)) {
            Ok(bytes) if bytes == file.bytes => (),
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn collect(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.insert(name);
        }
    }
    Ok(())
}
