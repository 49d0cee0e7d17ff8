//! What is measured, and how it is printed.

use std::{fs, time::Duration};

use serde_json::json;

/// Bytes of each process of this lab with this first argument, in the sense of `read`.
fn processes(word: &str, read: impl Fn(u32) -> Option<u64>) -> Vec<u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.split('\0').nth(1) == Some(word) && line.contains("/copepod/bench")
        })
        .filter_map(read)
        .collect()
}

fn field(path: String, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

pub fn rss(word: &str) -> f64 {
    mean(processes(word, |pid| field(format!("/proc/{pid}/status"), "VmRSS")))
}

pub fn shim_pss() -> f64 {
    mean(processes("shim", |pid| field(format!("/proc/{pid}/smaps_rollup"), "Pss")))
}

/// The sum over the processes of a kind would hide how many there are.
fn mean(values: Vec<u64>) -> f64 {
    values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
}

/// The milliseconds that this part of all did not exceed.
fn at(durations: &mut [Duration], part: f64) -> f64 {
    durations.sort();
    let place = (durations.len().saturating_sub(1) as f64 * part).round() as usize;
    durations.get(place).map_or(0.0, |duration| duration.as_secs_f64() * 1000.0)
}

/// Where figures go: rows to read, or lines of JSON to compare.
pub struct Report {
    is_json: bool,
}

impl Report {
    pub fn begin(is_json: bool) -> Report {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = field("/proc/meminfo".to_owned(), "MemTotal").unwrap_or(0) >> 30;
        let kernel = read("/proc/sys/kernel/osrelease");
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        eprintln!("{cores} cores, {memory} GiB, Linux {}, {profile} build", kernel.trim());
        Report { is_json }
    }

    fn figure(&self, what: &str, value: f64, unit: &str) {
        if self.is_json {
            return println!("{}", json!({"what": what, "value": value, "unit": unit}));
        }
        let places = if value.abs() < 100.0 { 2 } else { 0 };
        println!("{what:<56} {value:>10.places$} {unit}");
    }

    pub fn seconds(&self, what: &str, took: Duration) {
        self.figure(what, took.as_secs_f64(), "s");
    }

    /// What one of many took.
    pub fn microseconds(&self, what: &str, took: Duration) {
        self.figure(what, took.as_secs_f64() * 1e6, "µs each");
    }

    pub fn memory(&self, what: &str, bytes: f64) {
        self.figure(what, bytes / 1024.0 / 1024.0, "MiB");
    }

    pub fn rate(&self, what: &str, n: usize, took: Duration) {
        self.figure(what, n as f64 / took.as_secs_f64(), "/s");
    }

    /// The middle and the slow end of many.
    pub fn spread(&self, what: &str, durations: &mut [Duration]) {
        for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
            self.figure(&format!("{what}, {name}"), at(durations, part), "ms");
        }
    }
}
