//! Takes away what a node leaves on its machine: processes, mounts, cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Member;
use crate::failure::{Doing, Failure, Outcome};

/// How long killed processes may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(10);

const CGROUPS: &str = "/sys/fs/cgroup";

/// Kills every container of a node, and the shims that hold them.
pub fn end_containers(member: &Member) -> Outcome {
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let mut remaining = shims(&member.run_directory);
        for directory in cgroups(member) {
            remaining.extend(processes_below(&directory));
        }
        if remaining.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("processes of {} do not end: {remaining:?}", member.name)));
        }
        for pid in remaining {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Shims name their node's run directory in their arguments.
fn shims(run_directory: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let directory = run_directory.as_os_str().as_encoded_bytes();
            arguments.get(1) == Some(&&b"shim"[..])
                && arguments.iter().any(|argument| argument.windows(directory.len()).any(|part| part == directory))
        })
        .collect()
}

/// The node's directory in each hierarchy: one with cgroup v2, one a controller with v1.
fn cgroups(member: &Member) -> Vec<PathBuf> {
    let own = Path::new("copepod").join(&member.cgroup);
    let mut roots = vec![PathBuf::from(CGROUPS)];
    roots.extend(fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path()));
    roots.into_iter().map(|root| root.join(&own)).filter(|directory| directory.is_dir()).collect()
}

fn processes_below(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for child in directories(directory) {
        found.extend(processes_below(&child));
    }
    found
}

fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

pub fn remove_cgroups(member: &Member) -> Outcome {
    for directory in cgroups(member) {
        remove_cgroup(&directory).doing(directory.display())?;
        let _ = directory.parent().map(fs::remove_dir);
    }
    Ok(())
}

/// A cgroup of processes that have just ended may be busy for a moment.
fn remove_cgroup(directory: &Path) -> std::io::Result<()> {
    for child in directories(directory) {
        remove_cgroup(&child)?;
    }
    let deadline = Instant::now() + GONE_MAX;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

/// Unmounts everything below these directories, the last mounted first.
pub fn unmount_below(directories: &[PathBuf]) -> Outcome {
    let table = fs::read_to_string("/proc/self/mountinfo").doing("/proc/self/mountinfo")?;
    let mut targets: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| PathBuf::from(unescape(target)))
        .filter(|target| directories.iter().any(|directory| target.starts_with(directory)))
        .collect();
    targets.reverse();
    for target in targets {
        umount2(&target, MntFlags::MNT_DETACH).doing(format_args!("cannot unmount {}", target.display()))?;
    }
    Ok(())
}

/// Spaces and the like stand as three octal digits in mountinfo (proc(5)).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
