//! Container output in the form that log collectors read (the CRI log format): a time, a stream, a tag, the text.
//!
//! `2026-01-02T03:04:05.000000006Z stdout F the line`; a line too long for one entry is cut into entries tagged `P`, of
//! which the last is tagged `F`. What ends without an end of line is tagged `P` too.

use std::{
    fs::{File, OpenOptions, rename},
    io::{self, Write},
    path::{Path, PathBuf},
};

use copepod_api::Timestamp;

/// The longest text of one entry.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// A log file is set aside when it has grown so large, and the oldest of those set aside goes.
const FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;
const FILES_MAX: usize = 5;

pub struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    pub fn open(path: &Path) -> io::Result<Log> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Log { path: path.to_owned(), file, bytes })
    }

    fn write(&mut self, entries: &[u8]) -> io::Result<()> {
        self.file.write_all(entries)?;
        self.bytes += entries.len() as u64;
        if self.bytes >= FILE_BYTES_MAX {
            // Named by the time, so that the order of names is the order of what they hold.
            let aside = format!("{}.{}", self.path.display(), Timestamp::now().strftime("%Y%m%d-%H%M%S%.9f"));
            rename(&self.path, aside)?;
            self.forget_oldest();
            *self = Log::open(&self.path)?;
        }
        Ok(())
    }
}

impl Log {
    fn forget_oldest(&self) {
        let Some((directory, name)) = self.path.parent().zip(self.path.file_name().and_then(|name| name.to_str()))
        else {
            return;
        };
        let prefix = format!("{name}.");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut aside: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
            .map(|entry| entry.path())
            .collect();
        aside.sort();
        let surplus = (aside.len() + 1).saturating_sub(FILES_MAX);
        for path in aside.into_iter().take(surplus) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One stream of one container: what has come of its current line.
pub struct Stream {
    pub name: &'static str,
    held: Vec<u8>,
}

impl Stream {
    pub fn new(name: &'static str) -> Stream {
        Stream { name, held: Vec::new() }
    }

    /// Takes what was read; writes the lines that are whole.
    pub fn take(&mut self, mut bytes: &[u8], now: Timestamp, log: &mut Log) -> io::Result<()> {
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.held.extend_from_slice(&bytes[..end]);
            self.cut(now, &mut entries);
            entry(&mut entries, now, self.name, "F", &self.held);
            self.held.clear();
            bytes = &bytes[end + 1..];
        }
        self.held.extend_from_slice(bytes);
        self.cut(now, &mut entries);
        if entries.is_empty() { Ok(()) } else { log.write(&entries) }
    }

    /// The stream has ended, perhaps in the middle of a line: then nobody who reads it shall see a line's end.
    pub fn end(&mut self, now: Timestamp, log: &mut Log) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::new();
        entry(&mut entries, now, self.name, "P", &std::mem::take(&mut self.held));
        log.write(&entries)
    }

    fn cut(&mut self, now: Timestamp, entries: &mut Vec<u8>) {
        while self.held.len() > LINE_BYTES_MAX {
            let rest = self.held.split_off(LINE_BYTES_MAX);
            entry(entries, now, self.name, "P", &self.held);
            self.held = rest;
        }
    }
}

fn entry(out: &mut Vec<u8>, now: Timestamp, stream: &str, tag: &str, text: &[u8]) {
    out.extend_from_slice(format!("{now:.9} {stream} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        let mut stream = Stream::new("stdout");
        let now = Timestamp::new(1, 5).unwrap();
        for piece in pieces {
            stream.take(piece.as_bytes(), now, &mut log).unwrap();
        }
        stream.end(now, &mut log).unwrap();
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_come_whole_however_they_were_read() {
        let expected = ["1970-01-01T00:00:01.000000005Z stdout F one", "1970-01-01T00:00:01.000000005Z stdout F two"];
        assert_eq!(written(&["on", "e\ntw", "o\n"]), expected);
        let unfinished = ["1970-01-01T00:00:01.000000005Z stdout F one", "1970-01-01T00:00:01.000000005Z stdout P two"];
        assert_eq!(written(&["one\ntwo"]), unfinished);
    }

    #[test]
    fn a_long_line_is_cut_into_parts() {
        let lines = written(&[&"x".repeat(LINE_BYTES_MAX + 1), "\n"]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(" stdout P xxx") && lines[1].ends_with(" stdout F x"));
    }

    #[test]
    fn old_files_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        let mut stream = Stream::new("stderr");
        let line = format!("{}\n", "x".repeat(10_000));
        for _ in 0..(6 * FILE_BYTES_MAX / 10_000) {
            stream.take(line.as_bytes(), Timestamp::UNIX_EPOCH, &mut log).unwrap();
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), FILES_MAX);
    }
}
