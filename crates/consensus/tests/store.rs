//! The store on a real disk: what comes back, what is refused, and what each write costs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use consensus::raft_types::{ConfState, Entry, HardState};
use consensus::{LogPosition, LogWriter, OpenError, Recovered, Snapshot, SnapshotWrite, Store, WriteBatch, WriteError};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use tempfile::TempDir;

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { index, term, data: vec![(index + term) as u8; bytes], context: vec![1; 25], ..Entry::default() }
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term, 100)).collect()
}

fn snapshot(index: u64, term: u64, data: &[u8]) -> Snapshot {
    let members = ConfState { voters: vec![1, 2], ..ConfState::default() };
    Snapshot { at: LogPosition { index, term }, members, data: Bytes::copy_from_slice(data) }
}

fn hard_state(term: u64, commit: u64) -> Option<HardState> {
    Some(HardState { term, vote: 1, commit })
}

fn first() -> WriteBatch {
    let install = SnapshotWrite::Install(snapshot(1, 1, b""));
    WriteBatch { number: 1, snapshot: Some(install), entries: entries(2..=6, 2), hard_state: hard_state(2, 2) }
}

fn then(number: u64, entries: Vec<Entry>) -> WriteBatch {
    let hard_state = hard_state(entries[0].term, entries[0].index - 1);
    WriteBatch { number, entries, hard_state, snapshot: None }
}

fn compact(number: u64, index: u64, term: u64, base: u64, data: &[u8]) -> WriteBatch {
    let base = LogPosition { index: base, term };
    let write = SnapshotWrite::Compact { snapshot: snapshot(index, term, data), base };
    WriteBatch { number, snapshot: Some(write), hard_state: hard_state(term, index), ..WriteBatch::default() }
}

/// What a fresh store is after these batches, by the rule that the core and the simulation go by.
fn folded(batches: &[WriteBatch]) -> Recovered {
    let mut disk = Recovered::default();
    batches.iter().for_each(|batch| disk.apply(batch));
    disk
}

/// The files as a process that is killed now would leave them: all that was written, whether flushed or not.
fn killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        fs::create_dir_all(copy.path().join(&folder)).unwrap();
        for found in fs::read_dir(dir.join(&folder)).unwrap() {
            let name = folder.join(found.unwrap().file_name());
            if dir.join(&name).is_dir() {
                folders.push(name);
            } else {
                fs::copy(dir.join(&name), copy.path().join(&name)).unwrap();
            }
        }
    }
    copy
}

fn written(batches: &[WriteBatch]) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, recovered) = Store::open(dir.path()).unwrap();
    assert_eq!(recovered, Recovered::default());
    store.write(batches).unwrap();
    (dir, store)
}

fn reopened(dir: &Path) -> Recovered {
    Store::open(dir).unwrap().1
}

#[test]
fn a_killed_process_finds_all_that_it_wrote() {
    let scripts = [
        ("entries", vec![first()]),
        ("a conflicting tail is replaced", vec![first(), then(2, entries(4..=5, 3))]),
        ("and by a longer one", vec![first(), then(2, entries(4..=30, 3))]),
        (
            "long entries, shortened",
            vec![first(), then(2, vec![entry(4, 2, 1 << 20)]), then(3, vec![entry(4, 3, 40_000)])],
        ),
        ("compacted with a tail", vec![first(), compact(2, 5, 2, 3, b"state")]),
        ("compacted to the end", vec![first(), compact(2, 6, 2, 6, b"state"), then(3, entries(7..=9, 2))]),
        ("an installed snapshot replaces the log", {
            let install = SnapshotWrite::Install(snapshot(90, 5, b"installed"));
            let batch =
                WriteBatch { number: 2, snapshot: Some(install), hard_state: hard_state(5, 90), entries: vec![] };
            vec![first(), batch, then(3, entries(91..=92, 5))]
        }),
        ("entries one by one", vec![first(), then(2, entries(7..=7, 2)), then(3, entries(8..=8, 3))]),
        (
            "one by one, then a vote alone",
            vec![
                first(),
                then(2, entries(7..=7, 2)),
                WriteBatch { number: 3, hard_state: hard_state(9, 6), ..WriteBatch::default() },
            ],
        ),
        (
            "a vote alone, then one without",
            vec![
                first(),
                WriteBatch { number: 2, hard_state: hard_state(9, 6), ..WriteBatch::default() },
                WriteBatch { number: 3, entries: entries(7..=7, 9), hard_state: hard_state(9, 7), snapshot: None },
                WriteBatch { number: 4, entries: entries(8..=9, 9), ..WriteBatch::default() },
            ],
        ),
        (
            "one by one, replaced by several, and one by one again",
            vec![
                first(),
                then(2, entries(7..=7, 2)),
                then(3, entries(8..=8, 2)),
                then(4, entries(7..=7, 3)),
                then(5, entries(8..=8, 3)),
            ],
        ),
        (
            "one by one, compacted without the last",
            vec![first(), then(2, entries(7..=7, 2)), then(3, entries(8..=8, 2)), compact(4, 7, 2, 7, b"state")],
        ),
        (
            "one by one, compacted to the end",
            vec![first(), then(2, entries(7..=7, 2)), compact(3, 7, 2, 7, b"state"), then(4, entries(8..=8, 2))],
        ),
        ("one that is too long for one record", vec![first(), then(2, vec![entry(7, 2, 40_000)])]),
        ("two snapshots", vec![first(), compact(2, 4, 2, 4, b"older"), compact(3, 5, 2, 5, b"newer")]),
    ];
    for (name, batches) in scripts {
        // In one write, and in one for each batch: on disk it must come to the same.
        for group in [batches.len(), 1] {
            let dir = tempfile::tempdir().unwrap();
            let (mut store, _) = Store::open(dir.path()).unwrap();
            for part in batches.chunks(group) {
                store.write(part).unwrap();
            }
            assert_eq!(reopened(killed(dir.path()).path()), folded(&batches), "{name}, killed");
            drop(store);
            assert_eq!(reopened(dir.path()), folded(&batches), "{name}, closed");
        }
    }
}

#[test]
fn a_reopened_store_goes_on_where_it_was() {
    let mut batches = vec![first()];
    let (dir, store) = written(&batches);
    drop(store);
    for life in 2..8 {
        let (mut store, recovered) = Store::open(dir.path()).unwrap();
        assert_eq!(recovered, folded(&batches));
        batches.push(then(life, entries(life + 2..=life + 5, life)));
        store.write(&batches[batches.len() - 1..]).unwrap();
    }
    assert_eq!(reopened(dir.path()), folded(&batches));
}

#[test]
fn large_entries_never_go_where_the_database_does_not_sync() {
    let (dir, mut store) = written(&[first()]);
    for number in 2..20 {
        store.write(&[then(number, vec![entry(number + 5, 2, 1 << 20)])]).unwrap();
    }
    let unsynced: Vec<_> = fs::read_dir(dir.path().join("log/blobs")).unwrap().collect();
    assert!(unsynced.is_empty(), "{unsynced:?}");
}

#[test]
fn each_write_costs_one_flush_and_one_sync_however_many_batches_it_holds() {
    let (_dir, mut store) = written(&[first()]);
    let counters = store.counters();
    let before = counters.read();
    let group: Vec<_> = (2..12).map(|number| then(number, entries(number + 5..=number + 5, 2))).collect();
    store.write(&group).unwrap();
    let after = counters.read();
    assert_eq!(after.batches - before.batches, 10);
    assert_eq!(after.flushes - before.flushes, 1);
    assert_eq!(after.log_syncs - before.log_syncs, 1);
    assert!(after.bytes - before.bytes > 10 * 125, "{after:?}");
}

#[test]
fn a_second_opener_is_told_that_it_is_second() {
    let (dir, store) = written(&[first()]);
    assert!(matches!(Store::open(dir.path()), Err(OpenError::Locked(path)) if path == dir.path()));
    drop(store);
    assert_eq!(reopened(dir.path()), folded(&[first()]));
}

#[test]
fn lost_acknowledged_batches_are_not_taken_for_a_shorter_log() {
    let (dir, mut store) = written(&[first()]);
    let older = killed(dir.path());
    store.write(&[then(2, entries(7..=8, 2))]).unwrap();
    drop(store);
    fs::copy(dir.path().join("acknowledged"), older.path().join("acknowledged")).unwrap();
    let refused = Store::open(older.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Truncated { found: 1, acknowledged: 2 }), "{refused:?}");

    fs::remove_dir_all(older.path().join("log")).unwrap();
    let refused = Store::open(older.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Truncated { found: 0, acknowledged: 2 }), "{refused:?}");

    fs::remove_file(dir.path().join("acknowledged")).unwrap();
    let refused = Store::open(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged(_)), "{refused:?}");
}

#[test]
fn a_lost_entry_that_came_alone_is_seen() {
    let (dir, mut store) = written(&[first()]);
    store.write(&[then(2, entries(7..=7, 2))]).unwrap();
    let older = killed(dir.path());
    store.write(&[then(3, entries(8..=8, 2))]).unwrap();
    drop(store);
    fs::copy(dir.path().join("acknowledged"), older.path().join("acknowledged")).unwrap();
    let refused = Store::open(older.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Truncated { found: 2, acknowledged: 3 }), "{refused:?}");
}

#[test]
fn a_spoilt_snapshot_is_seen() {
    let batches = [first(), compact(2, 5, 2, 5, b"the state of everything")];
    let spoil: [fn(&Path); 3] = [
        |file| fs::write(file, b"the state of everythinG").unwrap(),
        |file| fs::write(file, b"the state of").unwrap(),
        |file| fs::remove_file(file).unwrap(),
    ];
    for spoil in spoil {
        let (dir, store) = written(&batches);
        drop(store);
        let files: Vec<_> = fs::read_dir(dir.path().join("snapshots")).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "the older one is gone");
        spoil(&files[0]);
        assert!(matches!(Store::open(dir.path()), Err(OpenError::Damaged(what)) if what.contains("snapshot")));
    }
}

#[test]
fn a_creation_that_was_cut_off_is_done_again() {
    // What a crash may leave: nothing, the lock, the acknowledged-batch file of a store without a batch.
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    drop(store);
    let cut: [fn(&Path); 2] =
        [|dir| fs::remove_dir_all(dir.join("log")).unwrap(), |dir| fs::remove_dir_all(dir.join("snapshots")).unwrap()];
    for cut in cut {
        let copy = killed(dir.path());
        cut(copy.path());
        let (mut store, recovered) = Store::open(copy.path()).unwrap();
        assert_eq!(recovered, Recovered::default());
        store.write(&[first()]).unwrap();
    }
}

/// Bytes of the database's file that were ever written, as ranges.
fn used_ranges(file: &Path) -> Vec<std::ops::Range<u64>> {
    let bytes = fs::read(file).unwrap();
    let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        let at = at as u64;
        match ranges.last_mut() {
            Some(last) if at < last.end + 64 => last.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

#[test]
fn damage_anywhere_is_refused_or_harmless_but_never_another_state() {
    let batches = [
        first(),
        then(2, entries(4..=20, 3)),
        compact(3, 6, 3, 5, b"state"),
        then(4, entries(21..=24, 3)),
        then(5, entries(25..=25, 3)),
        then(6, entries(26..=26, 3)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path()).unwrap();
    for batch in &batches {
        store.write(std::slice::from_ref(batch)).unwrap();
    }
    let expected = reopened(killed(dir.path()).path());
    assert_eq!(expected.last_index(), 26);

    let database = dir.path().join("log/db");
    let used: Vec<u64> = used_ranges(&database).into_iter().flatten().collect();
    let step = (used.len() / 150).max(1);
    let (mut refused, mut harmless) = (0, 0);
    for &at in used.iter().step_by(step) {
        let copy = killed(dir.path());
        let file = OpenOptions::new().read(true).write(true).open(copy.path().join("log/db")).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        match Store::open(copy.path()) {
            Ok((_, recovered)) => {
                assert_eq!(recovered, expected, "a flip at {at} made another state");
                harmless += 1;
            }
            Err(error) if error.is_lost() => refused += 1,
            Err(error) => panic!("a flip at {at} is misnamed: {error:?}"),
        }
    }
    assert!(refused > 0, "{harmless} flips harmless, none refused");

    let end = *used.last().unwrap() + 1;
    for lost in [1, 10, 100, 1_000, end / 2, end] {
        let copy = killed(dir.path());
        let file = OpenOptions::new().write(true).open(copy.path().join("log/db")).unwrap();
        file.set_len(end.saturating_sub(lost)).unwrap();
        match Store::open(copy.path()) {
            Ok((_, recovered)) => assert_eq!(recovered, expected, "{lost} bytes cut off made another state"),
            Err(OpenError::Truncated { acknowledged: 6, .. } | OpenError::Damaged(_)) => {}
            Err(OpenError::Io(error)) if OpenError::is_lost(&OpenError::Io(error.kind().into())) => {}
            Err(other) => panic!("{lost} bytes cut off: {other:?}"),
        }
    }

    // What the database keeps beside its file.
    for beside in fs::read_dir(dir.path().join("log")).unwrap() {
        let name = PathBuf::from("log").join(beside.unwrap().file_name());
        let bytes = fs::read(dir.path().join(&name)).unwrap_or_default();
        for at in (0..bytes.len()).step_by((bytes.len() / 10).max(1)).filter(|_| !name.ends_with("db")) {
            let copy = killed(dir.path());
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x10;
            fs::write(copy.path().join(&name), spoilt).unwrap();
            match Store::open(copy.path()) {
                Ok((_, recovered)) => assert_eq!(recovered, expected, "a flip at {at} of {name:?} made another state"),
                Err(error) => assert!(error.is_lost(), "a flip at {at} of {name:?}: {error:?}"),
            }
        }
    }
}

#[test]
fn a_store_that_is_gone_is_not_made_again() {
    let (dir, store) = written(&[first()]);
    drop(store);
    assert_eq!(Store::open_existing(dir.path()).map(|(_, recovered)| recovered).unwrap(), folded(&[first()]));
    for gone in ["", "acknowledged"] {
        let copy = killed(dir.path());
        let path = copy.path().join(gone);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        let refused = Store::open_existing(copy.path()).err().unwrap();
        assert!(matches!(refused, OpenError::Missing(_)) && refused.is_lost(), "{refused:?}");
        assert!(!copy.path().join("acknowledged").exists(), "it was made again");
    }
    let (store, _) = Store::open_existing(dir.path()).unwrap();
    assert!(!Store::open_existing(dir.path()).err().unwrap().is_lost(), "it is only open elsewhere");
    drop(store);
}

#[test]
fn the_writer_reports_the_last_batch_of_each_flush_and_closes_clean() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let (report, reports) = channel();
    let writer = LogWriter::spawn(store, move |result| report.send(result).unwrap()).unwrap();
    let mut batches = vec![first()];
    batches.extend((2..=200).map(|number| then(number, entries(number + 5..=number + 5, 2))));
    for batch in &batches {
        writer.write(batch.clone()).unwrap();
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&200) {
        seen.push(reports.recv().unwrap().unwrap());
    }
    assert!(seen.is_sorted());
    let counters = writer.counters().read();
    assert_eq!((counters.batches, counters.log_syncs), (200, seen.len() as u64));
    writer.close();
    assert!(reports.recv().is_err(), "nothing more is reported");
    assert_eq!(reopened(dir.path()), folded(&batches));
}

#[test]
fn closing_the_writer_writes_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let writer = LogWriter::spawn(store, |result| assert!(result.is_ok())).unwrap();
    writer.write(first()).unwrap();
    writer.close();
    assert_eq!(reopened(dir.path()), folded(&[first()]));
}

#[test]
fn a_failed_write_is_reported_once_and_ends_the_writer_and_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    // A file where the directory of snapshots was: a snapshot can not be written, not even by root.
    fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    fs::write(dir.path().join("snapshots"), b"").unwrap();
    let (report, reports) = channel();
    let writer = LogWriter::spawn(store, move |result| report.send(result).unwrap()).unwrap();
    writer.write(first()).unwrap();
    assert!(matches!(reports.recv().unwrap(), Err(WriteError::Io(_))));
    assert!(reports.recv().is_err(), "reported once, and the callback is gone with its thread");
    assert!(writer.write(then(2, entries(7..=7, 2))).is_err());
    writer.close();

    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path()).unwrap();
    fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    assert!(matches!(store.write(&[first()]), Err(WriteError::Io(_))));
    fs::create_dir(dir.path().join("snapshots")).unwrap();
    assert!(matches!(store.write(&[first()]), Err(WriteError::FailedBefore)));
    drop(store);
    assert_eq!(reopened(dir.path()), Recovered::default(), "nothing of it was written");
}
