//! Reading and removing cgroups, of both versions. Making them is libcgroups' work.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{Resources, oci::CPU_PERIOD};

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

/// Gives the processes of a cgroup other amounts; what is not said stays. Memory already in use is never taken away: the
/// kernel would kill for it, or refuse in the middle.
pub fn resize(path: &str, resources: &Resources) -> io::Result<()> {
    let (used, _) = usage(path);
    if let Some(limit) = resources.memory_limit_bytes.filter(|limit| u64::try_from(*limit).is_ok_and(|l| l < used)) {
        return Err(io::Error::other(format!("{used} bytes of memory are in use, the limit cannot be {limit}")));
    }
    directories(path).iter().try_for_each(|directory| resize_directory(directory, resources))
}

fn resize_directory(directory: &Path, resources: &Resources) -> io::Result<()> {
    // A file that is not there belongs to another controller or the other version.
    let put = |file: &str, text: String| match directory.join(file) {
        path if path.exists() => fs::write(path, text),
        _ => Ok(()),
    };
    if let Some(shares) = resources.cpu_shares {
        put("cpu.shares", shares.to_string())?;
        put("cpu.weight", weight(shares).to_string())?;
    }
    if let Some(quota) = resources.cpu_quota {
        put("cpu.cfs_quota_us", quota.to_string())?;
        put("cpu.max", format!("{quota} {CPU_PERIOD}"))?;
    }
    let Some(limit) = resources.memory_limit_bytes else { return Ok(()) };
    put("memory.max", limit.to_string())?;
    // With version 1 memory may never exceed memory and swap together, so the order depends on the direction.
    let files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
    let now = fs::read_to_string(directory.join(files[0])).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let grows = now.is_some_and(|now| limit > now);
    let ordered = if grows { [files[1], files[0]] } else { files };
    ordered.into_iter().try_for_each(|file| put(file, limit.to_string()))
}

/// Shares of version 1 on the scale of version 2: 2 to 262144 becomes 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
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
    fn amounts_are_written_where_the_controllers_are() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| root.path().join(name);
        for (name, text) in [("cpu.weight", "1"), ("cpu.max", "max 100000"), ("memory.max", "max")] {
            fs::write(file(name), text).unwrap();
        }
        let amounts = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            memory_limit_bytes: Some(1 << 20),
            oom_score_adj: None,
        };
        resize_directory(root.path(), &amounts).unwrap();
        let said = |name: &str| fs::read_to_string(file(name)).unwrap();
        let all = [said("cpu.weight"), said("cpu.max"), said("memory.max")];
        assert_eq!(all, ["39", "50000 100000", "1048576"]);
        assert!(!file("cpu.shares").exists());
    }

    #[test]
    fn fields_are_read_by_their_whole_name() {
        let text = "oom 1\noom_kill 3\noom_kill_group 0\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
    }
}
