//! Small files, one a pod, that are there whole or not at all.

use std::{fs, io, io::Write, path::Path};

/// How a file is called while it is written.
const NEW: &str = ".new";

/// All of a directory, which is made if it is not there.
pub fn read(directory: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    fs::create_dir_all(directory)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().into_string().ok().filter(|name| !name.ends_with(NEW)) {
            files.push((name, fs::read(entry.path())?));
        }
    }
    Ok(files)
}

pub fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = directory.join(format!("{name}{NEW}"));
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, directory.join(name))
}

/// Gone already is as good.
pub fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
