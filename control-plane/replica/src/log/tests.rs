//! The log on a disk that tears, fills up and rots.

use super::*;
use crate::{synced, tests::disk::FakeDisk};

const MIB: usize = 1024 * 1024;

fn entry(index: u64, term: u64, n_bytes: usize) -> Entry {
    Entry { index, term, data: vec![index as u8 ^ term as u8; n_bytes], ..Entry::default() }
}

fn open(disk: &FakeDisk) -> Log<FakeDisk> {
    Log::open(disk.clone(), (0, 0)).unwrap()
}

fn append(log: &mut Log<FakeDisk>, entries: impl IntoIterator<Item = Entry>) {
    log.append(&mut entries.into_iter().collect(), None, true).unwrap();
}

fn all(log: &Log<FakeDisk>) -> Vec<(u64, u64, usize)> {
    let entries = log.entries(log.first_index(), log.last_index() + 1, u64::MAX).unwrap();
    assert!(entries.iter().all(|it| it.data.iter().all(|byte| *byte == it.index as u8 ^ it.term as u8)));
    assert!(entries.iter().all(|it| log.term(it.index) == Some(it.term)));
    entries.into_iter().map(|it| (it.index, it.term, it.data.len())).collect()
}

#[test]
fn a_batch_is_one_append_and_one_sync() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    append(&mut log, [entry(1, 1, 10)]);
    let before = disk.with(|disk| (disk.n_appends, disk.n_syncs));
    append(&mut log, (2..1000).map(|index| entry(index, 1, 10)));
    assert_eq!(disk.with(|disk| (disk.n_appends, disk.n_syncs)), (before.0 + 1, before.1 + 1));
}

#[test]
fn memory_holds_the_newest_and_the_disk_gives_the_rest_back() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    for first in (1..60).step_by(3) {
        append(&mut log, (first..first + 3).map(|index| entry(index, index / 25, MIB)));
    }
    assert_eq!(log.tail_index(), 1, "what is not applied stays");
    log.applied(57);
    assert_eq!(log.tail_index(), 57);
    assert!(log.segments.len() > 3);
    let expected: Vec<_> = (1..=60).map(|index| (index, index / 25, MIB)).collect();
    assert_eq!(all(&log), expected);
    assert_eq!(all(&open(&disk)), expected);
    let some = log.entries(40, 61, 5 * MIB as u64).unwrap();
    assert_eq!(some.iter().map(|it| it.index).collect::<Vec<_>>(), [40, 41, 42, 43]);
    assert_eq!(log.entries(40, 61, 1).unwrap().len(), 1, "one is always had");
}

#[test]
fn an_entry_that_rotted_is_not_handed_out() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    append(&mut log, (1..=12).map(|index| entry(index, 1, MIB)));
    log.applied(12);
    disk.with(|disk| {
        let content = disk.files.values_mut().next().unwrap();
        let middle = content.len() / 12;
        content[middle] ^= 1;
    });
    assert!(matches!(log.entries(1, 4, u64::MAX), Err(LogError::Damaged { .. })));
    assert!(log.entries(5, 13, u64::MAX).is_ok());
}

#[test]
fn a_new_leader_replaces_what_was_not_committed() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    append(&mut log, (1..=9).map(|index| entry(index, 1 + index / 5, 10)));
    append(&mut log, [entry(4, 3, 10), entry(5, 4, 10)]);
    let expected = [(1, 1, 10), (2, 1, 10), (3, 1, 10), (4, 3, 10), (5, 4, 10)];
    assert_eq!(all(&log), expected);
    assert_eq!(log.term(6), None);
    assert_eq!(all(&open(&disk)), expected);
}

#[test]
fn what_a_snapshot_holds_is_forgotten_and_its_files_go() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    for index in 1..=60 {
        append(&mut log, [entry(index, 1 + index / 20, MIB)]);
    }
    log.applied(60);
    let n_files = disk.with(|disk| disk.files.len());
    assert_eq!(log.index_of_last(11 * MIB), 51);
    log.compact(50).unwrap();
    assert_eq!((log.before, log.first_index(), log.term(50), log.term(49)), ((50, 3), 51, Some(3), None));
    assert_eq!(all(&log).len(), 10);
    assert!(disk.with(|disk| disk.files.len()) < n_files);
    let again = Log::open(disk, (50, 3)).unwrap();
    assert_eq!(all(&again), all(&log));
    assert!(again.bytes >= 10 * MIB && again.bytes < 11 * MIB);
}

/// As the log was when it ended, with its last frame changed.
fn rotten_end(disk: &FakeDisk) {
    disk.with(|disk| {
        let content = disk.files.iter_mut().rfind(|(name, _)| name.ends_with(".log")).unwrap().1;
        let place = content.len() - 3;
        content[place] ^= 1;
    });
}

#[test]
fn an_end_that_was_synchronised_is_not_cut_off() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    append(&mut log, [entry(1, 1, 10)]);
    append(&mut log, [entry(2, 1, 10)]);
    rotten_end(&disk);
    let refusal = Log::open(disk.clone(), (0, 0)).err();
    assert!(matches!(refusal, Some(LogError::Damaged { offset, .. }) if offset > 50), "{refusal:?}");

    // Shorter than it was.
    disk.with(|disk| {
        let content = disk.files.iter_mut().rfind(|(name, _)| name.ends_with(".log")).unwrap().1;
        content.truncate(60);
    });
    assert!(matches!(Log::open(disk.clone(), (0, 0)), Err(LogError::Damaged { .. })));
    disk.with(|disk| disk.files.retain(|name, _| !name.ends_with(".log")));
    assert!(matches!(Log::open(disk, (0, 0)), Err(LogError::Damaged { offset: 0, .. })));
}

#[test]
fn an_end_of_which_nobody_knows_that_it_was_synchronised_is_cut_off() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    append(&mut log, [entry(1, 1, 10)]);
    let noted = disk.with(|disk| disk.files[synced::FILE].clone());
    append(&mut log, [entry(2, 1, 10)]);
    rotten_end(&disk);
    disk.with(|disk| disk.files.insert(synced::FILE.to_owned(), noted));
    assert_eq!(all(&open(&disk)), [(1, 1, 10)]);
}

#[test]
fn what_was_not_synchronised_and_is_counted_on_is_made_durable_first() {
    let disk = FakeDisk::default();
    let mut log = open(&disk);
    append(&mut log, [entry(1, 1, 10)]);
    disk.with(|disk| disk.broken = true);
    log.append(&mut vec![entry(2, 1, 10)], None, true).unwrap_err();
    disk.with(|disk| disk.broken = false);
    assert_eq!(all(&open(&disk.tear(0))), [(1, 1, 10)]);
    assert_eq!(all(&open(&disk)), [(1, 1, 10), (2, 1, 10)]);
    assert_eq!(all(&open(&disk.tear(0))), [(1, 1, 10), (2, 1, 10)]);
}
