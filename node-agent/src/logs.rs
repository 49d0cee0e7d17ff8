//! Logs of containers, as the runtime writes them: one line a record, `time stream F text`.
//!
//! A run's log is `<attempt>.log`; when it grows too long the runtime moves it to `<attempt>.log.<time>` and begins anew.
//! Reading joins these again. A line longer than the runtime's buffer is written in parts (`P`), the last marked `F`; so is
//! what was said without an end of line when the stream ended, but for the mark.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_proto::nodes::LogRequest;

/// How much of a crash is told in the pod's status without being asked for: enough for a panic and its cause.
pub const LAST_LINES: usize = 10;

/// What `FallbackToLogsOnError` promises.
pub const LAST_LINES_ASKED: usize = 80;

/// …and at most so many bytes.
const LAST_BYTES: usize = 2048;

/// How often a followed log is looked at. People read along; faster than this they cannot.
pub const FOLLOW: Duration = Duration::from_millis(100);

/// A record longer than this is cut: the runtime writes parts of 16 KiB, so something else has written the file.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// How much is read at once, so that a long log neither fills memory nor blocks other pods.
const BATCH_BYTES: usize = 64 << 10;

/// Reads one run's log from some place on.
pub struct Reader {
    path: PathBuf,
    /// Rotated parts still to be read, the oldest first, then the log itself.
    parts: VecDeque<PathBuf>,
    current: Option<BufReader<fs::File>>,
    timestamps: bool,
    since: Option<Timestamp>,
    left_bytes: Option<u64>,
    /// The next record begins a line, so it may carry a time.
    at_line_start: bool,
    /// A record that was not written to its end when it was read.
    unfinished: Vec<u8>,
}

struct Record<'a> {
    at: &'a str,
    whole: bool,
    text: &'a [u8],
}

impl Reader {
    /// Opens a log for what is asked.
    pub fn open(path: &Path, asked: &LogRequest, now: Timestamp) -> io::Result<Reader> {
        let mut parts: VecDeque<PathBuf> = rotated(path)?.into();
        parts.push_back(path.to_path_buf());
        let since = match (&asked.since_time, asked.since_seconds) {
            (Some(text), _) => text.parse::<Timestamp>().ok(),
            (None, Some(seconds)) => now.checked_sub(copepod_api::time::SignedDuration::from_secs(seconds)).ok(),
            (None, None) => None,
        };
        let mut reader = Reader {
            path: path.to_path_buf(),
            parts,
            current: None,
            timestamps: asked.timestamps,
            since,
            left_bytes: asked.limit_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            at_line_start: true,
            unfinished: Vec::new(),
        };
        if let Some(lines) = asked.tail_lines {
            reader.skip_to_last(usize::try_from(lines).unwrap_or(0))?;
        }
        Ok(reader)
    }

    /// Moves to where the last `lines` lines begin.
    fn skip_to_last(&mut self, lines: usize) -> io::Result<()> {
        let mut begins: VecDeque<(usize, u64)> = VecDeque::new();
        let mut fresh = true;
        for (index, part) in self.parts.iter().enumerate() {
            let Ok(file) = fs::File::open(part) else { continue };
            let mut file = BufReader::new(file);
            let mut offset = 0;
            let mut line = Vec::new();
            loop {
                line.clear();
                let n_bytes = file.read_until(b'\n', &mut line)?;
                if n_bytes == 0 {
                    break;
                }
                if fresh {
                    begins.push_back((index, offset));
                    if begins.len() > lines {
                        begins.pop_front();
                    }
                }
                fresh = parse(&line).is_none_or(|record| record.whole);
                offset += n_bytes as u64;
            }
        }
        match begins.front() {
            Some((index, offset)) => {
                self.parts.drain(..*index);
                let Some(part) = self.parts.pop_front() else { return Ok(()) };
                let mut file = fs::File::open(part)?;
                file.seek(SeekFrom::Start(*offset))?;
                self.current = Some(BufReader::new(file));
            }
            None => {
                // Nothing of what is there: only what comes.
                let Some(last) = self.parts.pop_back() else { return Ok(()) };
                self.parts.clear();
                if let Ok(mut file) = fs::File::open(last) {
                    file.seek(SeekFrom::End(0))?;
                    self.current = Some(BufReader::new(file));
                }
            }
        }
        Ok(())
    }

    /// The next bytes to show; empty at the end of what is written so far.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < BATCH_BYTES && self.left_bytes != Some(0) {
            if self.current.is_none() {
                let Some(part) = self.parts.pop_front() else { break };
                match fs::File::open(&part) {
                    Ok(file) => self.current = Some(BufReader::new(file)),
                    // Written when the container says its first word.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        if self.parts.is_empty() {
                            self.parts.push_back(part);
                        }
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(file) = &mut self.current else { break };
            let mut line = std::mem::take(&mut self.unfinished);
            let n_bytes = io::Read::take(&mut *file, RECORD_MAX_BYTES).read_until(b'\n', &mut line)?;
            if n_bytes == 0 || (!line.ends_with(b"\n") && line.len() < RECORD_MAX_BYTES as usize) {
                self.unfinished = line;
                if !self.next_part()? {
                    break;
                }
                continue;
            }
            self.show(&line, &mut out);
        }
        Ok(out)
    }

    /// At the end of one file: goes on with the next part, or with a new file under the same name.
    fn next_part(&mut self) -> io::Result<bool> {
        if !self.parts.is_empty() {
            self.current = None;
            return Ok(true);
        }
        let Some(file) = &self.current else { return Ok(false) };
        let replaced = match fs::metadata(&self.path) {
            Ok(now) => {
                use std::os::unix::fs::MetadataExt;
                let read = file.get_ref().metadata()?;
                now.ino() != read.ino() && now.len() > 0
            }
            Err(_) => false,
        };
        if replaced {
            self.current = None;
            self.unfinished.clear();
            self.parts.push_back(self.path.clone());
        }
        Ok(replaced)
    }

    /// Nothing more is to be shown, whatever is written.
    pub fn is_exhausted(&self) -> bool {
        self.left_bytes == Some(0)
    }

    fn show(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = parse(line) else { return };
        if let (Some(since), Ok(at)) = (self.since, record.at.parse::<Timestamp>())
            && at < since
        {
            return;
        }
        let from = out.len();
        if self.timestamps && self.at_line_start {
            out.extend_from_slice(record.at.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if record.whole {
            out.push(b'\n');
        }
        self.at_line_start = record.whole;
        if let Some(left) = &mut self.left_bytes {
            let added = (out.len() - from) as u64;
            if added > *left {
                out.truncate(from + *left as usize);
            }
            *left = left.saturating_sub(added);
        }
    }
}

/// `2026-11-23T11:02:41.000000123Z stdout F text`
fn parse(line: &[u8]) -> Option<Record<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(words.next()?).ok()?;
    let _stream = words.next()?;
    let tags = words.next()?;
    Some(Record { at, whole: !tags.starts_with(b"P"), text: words.next().unwrap_or_default() })
}

/// The parts of a log that were moved away, the oldest first: their names end in times.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let other = entry?.file_name().to_string_lossy().into_owned();
        if other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && !rest.ends_with(".gz")) {
            found.push(dir.join(other));
        }
    }
    found.sort();
    Ok(found)
}

/// The last lines of a log, for people.
pub fn tail(path: &Path, lines: usize) -> String {
    let asked = LogRequest { tail_lines: Some(lines as i64), ..LogRequest::default() };
    let Ok(mut reader) = Reader::open(path, &asked, Timestamp::UNIX_EPOCH) else { return String::new() };
    let mut all = Vec::new();
    while let Ok(part) = reader.read() {
        if part.is_empty() {
            break;
        }
        all.extend(part);
        let excess = all.len().saturating_sub(LAST_BYTES);
        all.drain(..excess);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n\
                       2026-01-01T00:00:02Z stderr P tw\n\
                       2026-01-01T00:00:02Z stderr F o\n\
                       2026-01-01T00:00:03Z stdout F three\n";

    fn read(asked: &LogRequest) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(dir.path().join("0.log.20260101-000000"), "2026-01-01T00:00:00Z stdout F zero\n").unwrap();
        fs::write(&path, LOG).unwrap();
        let now = "2026-01-01T00:00:04Z".parse().unwrap();
        String::from_utf8(Reader::open(&path, asked, now).unwrap().read().unwrap()).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_shown() {
        let none = LogRequest::default();
        let cases = [
            (none.clone(), "zero\none\ntwo\nthree\n"),
            (LogRequest { tail_lines: Some(2), ..none.clone() }, "two\nthree\n"),
            (LogRequest { tail_lines: Some(9), ..none.clone() }, "zero\none\ntwo\nthree\n"),
            (LogRequest { tail_lines: Some(0), ..none.clone() }, ""),
            (LogRequest { since_seconds: Some(2), ..none.clone() }, "two\nthree\n"),
            (LogRequest { since_time: Some("2026-01-01T00:00:03Z".into()), ..none.clone() }, "three\n"),
            (LogRequest { limit_bytes: Some(7), ..none.clone() }, "zero\non"),
            (
                LogRequest { timestamps: true, tail_lines: Some(2), ..none },
                "2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n",
            ),
        ];
        for (asked, expected) in cases {
            assert_eq!(read(&asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_log_is_followed_through_half_lines_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut reader = Reader::open(&path, &LogRequest::default(), Timestamp::UNIX_EPOCH).unwrap();
        assert!(reader.read().unwrap().is_empty(), "not written yet");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:01Z stdout F a\n2026-01-01T00:").unwrap();
        assert_eq!(reader.read().unwrap(), b"a\n");
        file.write_all(b"00:02Z stdout F b\n").unwrap();
        assert_eq!(reader.read().unwrap(), b"b\n");
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        fs::write(&path, "2026-01-01T00:00:03Z stdout F c\n").unwrap();
        assert_eq!(reader.read().unwrap(), b"c\n");
        assert!(reader.read().unwrap().is_empty());
    }

    #[test]
    fn the_end_of_a_log_is_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text: String =
            (0..500).map(|n| format!("2026-01-01T00:00:01Z stdout F line {n} {}\n", "x".repeat(90))).collect();
        fs::write(&path, text).unwrap();
        let said = tail(&path, LAST_LINES_ASKED);
        assert!(said.len() <= LAST_BYTES && said.contains("line 499"));
        assert_eq!(tail(&path, 2).lines().count(), 2);
        assert_eq!(tail(&dir.path().join("none"), 2), "");
    }
}
