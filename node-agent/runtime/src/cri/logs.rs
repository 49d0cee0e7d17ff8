//! Keeping logs short. The runtime writes them and the agent moves them away: so the interface divides it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use copepod_api::Timestamp;

/// A log is set aside when it has grown so large, and the oldest of those set aside goes; as with the embedded runtime.
const FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;
const FILES_MAX: usize = 5;

pub fn is_long(log: &Path) -> bool {
    fs::metadata(log).is_ok_and(|log| log.len() >= FILE_BYTES_MAX)
}

/// Moves a log away, under a name that ends in the time so that names sort by age; gives the name.
pub fn set_aside(log: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let aside = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S")));
    fs::rename(log, &aside)?;
    Ok(aside)
}

/// Removes the oldest logs that were set aside, beyond the number kept.
pub fn forget_oldest(log: &Path) -> io::Result<()> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let mut aside = Vec::new();
    for entry in fs::read_dir(directory)? {
        let other = entry?.file_name().to_string_lossy().into_owned();
        if other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
            aside.push(other);
        }
    }
    aside.sort();
    let excess = (aside.len() + 1).saturating_sub(FILES_MAX);
    aside.iter().take(excess).try_for_each(|name| fs::remove_file(directory.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_logs_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        for second in 0..7 {
            fs::write(&log, second.to_string()).unwrap();
            set_aside(&log, Timestamp::from_second(second).unwrap()).unwrap();
            forget_oldest(&log).unwrap();
        }
        fs::write(directory.path().join("1.log"), "another").unwrap();
        let mut names: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let aside = ["03", "04", "05", "06"].map(|second| format!("0.log.19700101-0000{second}"));
        assert_eq!(names[..4], aside);
        assert_eq!(names[4..], ["1.log"]);
    }
}
