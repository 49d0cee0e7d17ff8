//! Gives back code that a daemon has mapped and no longer runs.
//!
//! The kernel maps code in windows of 64 KiB around whatever is called, and what was called once at the start stays
//! mapped for as long as the process lives: that was nine tenths of an idle agent's RSS. What is given back stays in the
//! page cache, from where a call maps it again without reading the disk; until then the kernel may use the memory for
//! others (it spares code that is mapped).

use std::{fs, ops::Range, time::Duration};

use nix::libc;

/// An agent with one pod takes a hundred page faults after it, and a server that nobody asks anything eighty; none of them
/// reads the disk.
pub const EVERY: Duration = Duration::from_secs(10);

/// Does it for as long as the process lives. To be called at its start: what is mapped then, the program and the libraries that it
/// is linked with, stays where it is.
pub fn give_back() {
    let code = code(&fs::read_to_string("/proc/self/maps").unwrap_or_default());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            code.iter().for_each(unmap);
        }
    });
}

fn unmap(code: &Range<usize>) {
    // SAFETY: this is code that is mapped for as long as the process lives. The kernel says that it is a private mapping of a
    // file which cannot be written; nothing is relocated within it. So its pages are those of the file, and whoever calls
    // what lies there is given them again. Only breakpoints of a debugger are lost.
    let _ = unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
}

/// Ranges of addresses where files are mapped to be executed, by a text as /proc/PID/maps has it (proc(5)). What may be
/// read only is left as it is: the loader wrote there, and what it wrote is not in the file.
fn code(maps: &str) -> Vec<Range<usize>> {
    let lines = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (addresses, access, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
        let (start, end) = addresses.split_once('-')?;
        let address = |digits| usize::from_str_radix(digits, 16).ok();
        (access == "r-xp" && inode != "0").then_some(address(start)?..address(end)?)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn only_code_of_files_is_given_back() {
        let maps = "\
00200000-00c89000 r--p 00000000 fe:00 5311932                            /usr/bin/copepod
00c89000-0343b000 r-xp 00a88000 fe:00 5311932                            /usr/bin/copepod (deleted)
0343b000-035c0000 r--p 03239000 fe:00 5311932                            /usr/bin/copepod (deleted)
035ca000-035d2000 rw-p 00000000 00:00 0
2aee1400000-2af21400000 rwxp 00000000 00:00 0
7f4ec02c6000-7f4ec033a000 r-xp 00010000 fe:00 326603                     /usr/lib/x86_64-linux-gnu/libm.so.6
7fffb21b8000-7fffb21d9000 rw-p 00000000 00:00 0                          [stack]
7f4ec05c9000-7f4ec05cb000 r-xp 00000000 00:00 0                          [vdso]
";
        assert_eq!(code(maps), [0xc89000..0x343b000, 0x7f4ec02c6000..0x7f4ec033a000]);
        assert!(code("what a kernel of another day says\n").is_empty());
    }

    #[test]
    fn what_is_given_back_is_no_longer_resident_and_still_runs() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        // Calls that nothing after them needs.
        Cli::command().debug_assert();
        let before = resident();
        code(&fs::read_to_string("/proc/self/maps").unwrap()).iter().for_each(unmap);
        assert!(resident() < before, "{before} kB before");
        Cli::command().debug_assert();
    }
}
