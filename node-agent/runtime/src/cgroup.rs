//! Reading and removing cgroups, of both versions. Making them is libcgroups' work.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const ROOT: &str = "/sys/fs/cgroup";

/// Processes of a cgroup that have just been killed may hold it for a moment.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The directories of a cgroup path: one with version 2, one a controller with version 1.
pub fn directories(path: &str) -> Vec<PathBuf> {
    directories_in(Path::new(ROOT), path)
}

fn directories_in(root: &Path, path: &str) -> Vec<PathBuf> {
    let path = path.trim_start_matches('/');
    if root.join("cgroup.controllers").exists() {
        return Some(root.join(path)).filter(|directory| directory.is_dir()).into_iter().collect();
    }
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    hierarchies.map(|entry| entry.path().join(path)).filter(|directory| directory.is_dir()).collect()
}

/// How often the kernel killed something here for its memory.
pub fn oom_kills(path: &str) -> u64 {
    let count = |directory: &Path, file: &str| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        field(&text, "oom_kill")
    };
    directories(path)
        .iter()
        .filter_map(|directory| count(directory, "memory.events").or_else(|| count(directory, "memory.oom_control")))
        .max()
        .unwrap_or(0)
}

/// Memory in use without what the kernel may drop at once, in bytes, and CPU time in nanoseconds.
pub fn usage(path: &str) -> (u64, u64) {
    let read = |directory: &Path, file: &str| fs::read_to_string(directory.join(file)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let (mut memory, mut cpu) = (0, 0);
    for directory in directories(path) {
        let used = read(&directory, "memory.current").or_else(|| read(&directory, "memory.usage_in_bytes"));
        if let Some(used) = used.and_then(number) {
            let stat = read(&directory, "memory.stat").unwrap_or_default();
            let inactive = field(&stat, "total_inactive_file").or_else(|| field(&stat, "inactive_file")).unwrap_or(0);
            memory = used.saturating_sub(inactive);
        }
        let nanoseconds = read(&directory, "cpuacct.usage").and_then(number).or_else(|| {
            let stat = read(&directory, "cpu.stat")?;
            field(&stat, "usage_usec").map(|microseconds| microseconds * 1000)
        });
        cpu = nanoseconds.unwrap_or(cpu);
    }
    (memory, cpu)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Every process in a cgroup and below it.
pub fn processes(path: &str) -> Vec<i32> {
    directories(path).iter().flat_map(|directory| processes_below(directory)).collect()
}

fn processes_below(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(directory) {
        found.extend(processes_below(&child));
    }
    found
}

/// Removes a cgroup with all below it; its processes have been killed.
pub fn remove(path: &str) -> io::Result<()> {
    directories(path).iter().try_for_each(|directory| remove_directory(directory))
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    for child in children(directory) {
        remove_directory(&child)?;
    }
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            outcome => return outcome,
        }
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_found() {
        let root = tempfile::tempdir().unwrap();
        for controller in ["cpu", "memory"] {
            fs::create_dir_all(root.path().join(controller).join("copepod/n1/pod")).unwrap();
        }
        assert_eq!(directories_in(root.path(), "copepod/n1/pod").len(), 2);
        fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
        assert!(directories_in(root.path(), "copepod/n1/pod").is_empty());
        fs::create_dir_all(root.path().join("copepod/n1/pod")).unwrap();
        assert_eq!(directories_in(root.path(), "/copepod/n1/pod"), [root.path().join("copepod/n1/pod")]);
    }

    #[test]
    fn fields_are_read_by_their_whole_name() {
        let text = "oom 1\noom_kill 3\noom_kill_group 0\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
    }
}
