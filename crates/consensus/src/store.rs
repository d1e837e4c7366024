//! The log on disk, in a sled database. No other file names sled, so that it can be replaced.
//!
//! Three things about sled 0.34 shape this file. Its `flush` only starts write-back (`sync_file_range`), so durable
//! means `sync_data` on a handle of our own. A page that outgrows a quarter of a segment goes to a file which is never
//! synced, so values stay small. And it takes a damaged tail for the end of its log, so the last acknowledged batch
//! is also noted elsewhere.

use crate::durable::{Inconsistent, Recovered, SnapshotWrite, WriteBatch};
use crate::loaded::{FORMAT, Head, Loaded, encode_carrier, encode_snapshot};
use crate::record::{CHUNK_BYTES, Key, seal};
use crate::snapshot_files::{SnapshotFile, SnapshotFiles, sync_dir};
use crate::watermark::{Found, Watermark};
use prost_011::Message as _;
use raft::eraftpb::{Entry, HardState};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// With 2 MiB a page may hold 512 KiB, and some twenty chunks of 16 KiB never fill one.
const SEGMENT_BYTES: usize = 2 << 20;
/// The log is read once, at start.
const CACHE_BYTES: u64 = 16 << 20;
/// Rounds of collection that a leftover lock is given to go away; a handful is enough unless a thread is stuck.
const COLLECTIONS_MAX: usize = 10_000;

/// A store of one member's log. One process at a time has it open.
pub struct Store {
    database: sled::Db,
    /// Our own handle of sled's file, for the sync that sled leaves out.
    synced: File,
    snapshots: SnapshotFiles,
    watermark: Watermark,
    head: Head,
    /// As last written.
    hard_state: HardState,
    counters: Arc<Counters>,
    failed: bool,
    /// Held as long as the store lives.
    _lock: File,
}

/// A store that does not open. Where [`OpenError::is_lost`], the member must not come back under its id: a vote or an
/// acknowledged entry may be lost.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, where one was made before.
    #[error("the store at {0} is gone")]
    Missing(PathBuf),
    /// Another process, or another part of this one, has it open.
    #[error("the store at {0} is open elsewhere")]
    Locked(PathBuf),
    /// It was written by a version that this one does not know.
    #[error("the store has format {found}, this version knows {FORMAT}")]
    UnknownFormat {
        /// What the store says.
        found: u64,
    },
    /// Something in it is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Batches that were acknowledged are not in it.
    #[error("the store ends with batch {found}, but batch {acknowledged} was acknowledged")]
    Truncated {
        /// The last batch it has.
        found: u64,
        /// The last batch that was durable once.
        acknowledged: u64,
    },
    /// Every record is as it was written, yet together they make no sense.
    #[error("the store contradicts itself")]
    Inconsistent(#[from] Inconsistent),
    /// The operating system said no.
    #[error("the store can not be read")]
    Io(#[from] io::Error),
}

impl OpenError {
    /// The store will never open again as it was. Otherwise it may: once nobody else has it open, the disk can be read
    /// again, or a version that knows it reads it.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Damaged(_) | Self::Truncated { .. } | Self::Inconsistent(_) => true,
            Self::Io(error) => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData),
            Self::Locked(_) | Self::UnknownFormat { .. } => false,
        }
    }
}

/// A write that may or may not be durable. The store takes no further one: after a failed sync nobody knows what the
/// disk holds.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(String),
    /// The operating system said no.
    #[error("the log can not be made durable")]
    Io(#[from] io::Error),
    /// An earlier write failed.
    #[error("an earlier write failed")]
    FailedBefore,
}

/// What a store has done since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    batches: AtomicU64,
    flushes: AtomicU64,
    log_syncs: AtomicU64,
    other_syncs: AtomicU64,
    bytes: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterReadings {
    /// Batches made durable.
    pub batches: u64,
    /// Groups of batches flushed together.
    pub flushes: u64,
    /// `fdatasync` calls on the log: one for each flush.
    pub log_syncs: u64,
    /// Syncs of the acknowledged-batch file and of snapshot files.
    pub other_syncs: u64,
    /// Bytes of records and snapshots handed to the disk, before the database's own overhead.
    pub bytes: u64,
}

impl Counters {
    /// The numbers now.
    pub fn read(&self) -> CounterReadings {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterReadings {
            batches: read(&self.batches),
            flushes: read(&self.flushes),
            log_syncs: read(&self.log_syncs),
            other_syncs: read(&self.other_syncs),
            bytes: read(&self.bytes),
        }
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Store {
    /// Opens the store in `dir`, which was made before, and reads all of it.
    pub fn open_existing(dir: &Path) -> Result<(Store, Recovered), OpenError> {
        // Nothing is made in its place: an empty store has forgotten its votes.
        if !Watermark::is_there(dir)? {
            return Err(OpenError::Missing(dir.to_owned()));
        }
        Self::open(dir)
    }

    /// Opens the store in `dir`, which is made if it is missing, and reads all of it.
    pub fn open(dir: &Path) -> Result<(Store, Recovered), OpenError> {
        let is_new = !dir.exists();
        fs::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let log_dir = dir.join("log");
        let snapshots = SnapshotFiles::open(dir.join("snapshots"))?;
        let (watermark, acknowledged) = match Watermark::open(dir)? {
            Found::At(watermark, number) => (Some(watermark), number),
            Found::Missing => (None, 0),
            Found::Damaged => return Err(OpenError::Damaged("the acknowledged-batch file can not be read".to_owned())),
        };
        // What an abrupt end leaves behind can make the database panic rather than refuse.
        let (database, loaded) = catch_unwind(AssertUnwindSafe(|| open_database(dir, &log_dir)))
            .map_err(|panic| OpenError::Damaged(format!("the database panicked: {}", panic_text(&*panic))))??;

        let (watermark, loaded) = match (watermark, loaded.is_blank()) {
            (Some(_), true) if acknowledged > 0 => return Err(OpenError::Truncated { found: 0, acknowledged }),
            (None, false) => return Err(OpenError::Damaged("the acknowledged-batch file is missing".to_owned())),
            (_, true) => (create(dir, &log_dir, is_new, &database)?, Loaded::default()),
            (Some(watermark), false) => (watermark, loaded),
        };
        let format = loaded.format();
        let (head, recovered) = loaded.assemble(&snapshots)?;
        if head.batch < acknowledged {
            return Err(OpenError::Truncated { found: head.batch, acknowledged });
        }
        recovered.check()?;
        let synced = File::open(log_dir.join("db"))?;
        if format.is_some_and(|format| format != FORMAT) {
            // Before anything is written that only this layout has.
            put_format(dir, &database)?;
            synced.sync_data()?;
        }
        let (hard_state, counters) = (recovered.hard_state.clone(), Arc::default());
        let failed = false;
        let store = Store { database, synced, snapshots, watermark, head, hard_state, counters, failed, _lock: lock };
        Ok((store, recovered))
    }

    /// Makes these batches durable, all with one flush and one sync: either all of them or none.
    ///
    /// # Panics
    ///
    /// If a batch does not follow the one before it.
    pub fn write(&mut self, batches: &[WriteBatch]) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::FailedBefore);
        }
        let result = self.write_all(batches);
        self.failed = result.is_err();
        result
    }

    /// What it has done since it was opened.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    fn write_all(&mut self, batches: &[WriteBatch]) -> Result<(), WriteError> {
        let hard_state = batches.iter().rev().find_map(|batch| batch.hard_state.as_ref()).unwrap_or(&self.hard_state);
        let hard_state = hard_state.clone();
        let (head, snapshot_file) = match self.put_alone(batches, &hard_state)? {
            Some(head) => (head, None),
            None => self.put_staged(batches, &hard_state)?,
        };
        self.database.flush().map_err(database_failed)?;
        count(&self.counters.flushes, 1);
        self.synced.sync_data()?;
        count(&self.counters.log_syncs, 1);
        self.head = head;
        self.hard_state = hard_state;
        if self.watermark.advance(head.batch)? {
            count(&self.counters.other_syncs, 1);
        }
        if let Some(file) = snapshot_file {
            self.snapshots.keep_only(file)?;
        }
        count(&self.counters.batches, batches.len() as u64);
        Ok(())
    }

    /// Puts what is no more than one short entry at the log's end as one record; none if it is anything else.
    fn put_alone(&self, batches: &[WriteBatch], hard_state: &HardState) -> Result<Option<Head>, WriteError> {
        let [batch] = batches else { return Ok(None) };
        let [entry] = &batch.entries[..] else { return Ok(None) };
        if batch.snapshot.is_some() || entry.index != self.head.last_index + 1 {
            return Ok(None);
        }
        let bytes = entry.encode_to_vec();
        if bytes.len() > CHUNK_BYTES {
            return Ok(None);
        }
        assert_eq!(batch.number, self.head.batch + 1, "batches are written in order, each once");
        let head = Head { batch: batch.number, last_index: entry.index, ..self.head };
        let key = Key::Entry { index: entry.index, chunk: 0 }.encode();
        let value = seal(&key, &[&encode_carrier(&head, hard_state, &bytes)]);
        count(&self.counters.bytes, (key.len() + value.len()) as u64);
        self.database.insert(key, value).map_err(database_failed)?;
        Ok(Some(head))
    }

    /// Puts anything, as one batch of the database.
    fn put_staged(
        &self,
        batches: &[WriteBatch],
        hard_state: &HardState,
    ) -> Result<(Head, Option<SnapshotFile>), WriteError> {
        let mut staged = Staged::new(&self.database, self.head);
        let mut newest_snapshot = None;
        for batch in batches {
            staged.stage(batch)?;
            newest_snapshot = batch.snapshot.as_ref().map(|write| (batch.number, write.snapshot())).or(newest_snapshot);
        }
        // Always: an entry may have carried the last one, and its head is older than this one.
        staged.put(Key::HardState, &[&hard_state.encode_to_vec()]);
        let snapshot_file = match newest_snapshot {
            None => None,
            Some((batch, snapshot)) => {
                let file = SnapshotFile::of(batch, &snapshot.data);
                self.snapshots.write(file, &snapshot.data)?;
                count(&self.counters.other_syncs, 2);
                count(&self.counters.bytes, file.bytes);
                staged.put(Key::Snapshot, &[&encode_snapshot(snapshot, file)]);
                Some(file)
            }
        };
        let head = staged.finish();
        count(&self.counters.bytes, staged.bytes());
        self.database.apply_batch(staged.into_batch()).map_err(database_failed)?;
        Ok((head, snapshot_file))
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let lock = File::options().write(true).create(true).truncate(false).open(dir.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn open_database(dir: &Path, log_dir: &Path) -> Result<(sled::Db, Loaded), OpenError> {
    let settings = sled::Config::new()
        .path(log_dir)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        // We flush what we write; a second flusher would only add syncs.
        .flush_every_ms(None);
    let mut opened = settings.open();
    // We hold our own lock, so sled's can only be a leftover of a store that this process has closed: sled frees it
    // with memory that it hands to the collector.
    for _ in 0..COLLECTIONS_MAX {
        if !matches!(&opened, Err(sled::Error::Io(error)) if is_locked(error)) {
            break;
        }
        crossbeam_epoch::pin().flush();
        std::thread::yield_now();
        opened = settings.open();
    }
    let database = opened.map_err(|error| open_failed(dir, error))?;
    let mut loaded = Loaded::default();
    for record in database.iter() {
        let (key, value) = record.map_err(|error| open_failed(dir, error))?;
        loaded.take(&key, &value)?;
    }
    Ok((database, loaded))
}

/// A store that was never acknowledged to exist: anything that a crash left half made is made again.
fn create(dir: &Path, log_dir: &Path, is_new: bool, database: &sled::Db) -> Result<Watermark, OpenError> {
    let watermark = Watermark::create(dir)?;
    let mut staged = Staged::new(database, Head::default());
    staged.put(Key::Format, &[&FORMAT.to_be_bytes()]);
    staged.finish();
    database.apply_batch(staged.into_batch()).map_err(|error| open_failed(dir, error))?;
    database.flush().map_err(|error| open_failed(dir, error))?;
    for file in fs::read_dir(log_dir)? {
        File::open(file?.path())?.sync_all()?;
    }
    sync_dir(log_dir)?;
    sync_dir(dir)?;
    if is_new && let Some(parent) = dir.canonicalize()?.parent() {
        sync_dir(parent)?;
    }
    Ok(watermark)
}

fn put_format(dir: &Path, database: &sled::Db) -> Result<(), OpenError> {
    let key = Key::Format.encode();
    let value = seal(&key, &[&FORMAT.to_be_bytes()]);
    database.insert(key, value).map_err(|error| open_failed(dir, error))?;
    database.flush().map_err(|error| open_failed(dir, error))?;
    Ok(())
}

/// What one write puts and removes.
struct Staged<'a> {
    database: &'a sled::Db,
    head: Head,
    records: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Staged<'a> {
    fn new(database: &'a sled::Db, head: Head) -> Self {
        Self { database, head, records: BTreeMap::new() }
    }

    fn put(&mut self, key: Key, payload: &[&[u8]]) {
        let key = key.encode();
        let value = seal(&key, payload);
        self.records.insert(key, Some(value));
    }

    fn stage(&mut self, batch: &WriteBatch) -> Result<(), WriteError> {
        assert_eq!(batch.number, self.head.batch + 1, "batches are written in order, each once");
        self.head.batch = batch.number;
        match &batch.snapshot {
            None => {}
            Some(SnapshotWrite::Install(snapshot)) => {
                self.remove_entries(0, u64::MAX)?;
                self.head.base = snapshot.at;
                self.head.last_index = snapshot.at.index;
            }
            Some(SnapshotWrite::Compact { base, .. }) => {
                self.remove_entries(0, base.index)?;
                self.head.base = *base;
            }
        }
        if let Some(first) = batch.entries.first() {
            if first.index <= self.head.last_index {
                self.remove_entries(first.index, u64::MAX)?;
            }
            batch.entries.iter().for_each(|entry| self.put_entry(entry));
            self.head.last_index = first.index + batch.entries.len() as u64 - 1;
        }
        Ok(())
    }

    fn put_entry(&mut self, entry: &Entry) {
        let bytes = entry.encode_to_vec();
        let chunks = bytes.chunks(CHUNK_BYTES);
        let total = u16::try_from(chunks.len()).expect("an entry is far below a gigabyte");
        for (chunk, part) in (0..).zip(chunks) {
            self.put(Key::Entry { index: entry.index, chunk }, &[&total.to_be_bytes(), part]);
        }
    }

    fn remove_entries(&mut self, from: u64, to: u64) -> Result<(), WriteError> {
        let from = Key::Entry { index: from, chunk: 0 }.encode();
        let to = Key::Entry { index: to, chunk: u16::MAX }.encode();
        let stored: Result<Vec<_>, _> = self.database.range(from.clone()..=to.clone()).keys().collect();
        for key in stored.map_err(database_failed)? {
            self.records.insert(key.to_vec(), None);
        }
        self.records.range_mut(from..=to).for_each(|(_, value)| *value = None);
        Ok(())
    }

    fn finish(&mut self) -> Head {
        self.put(Key::Head, &[&self.head.encode()]);
        self.head
    }

    fn bytes(&self) -> u64 {
        let bytes = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.records.iter().map(bytes).sum::<usize>() as u64
    }

    fn into_batch(self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in self.records {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }
}

fn database_failed(error: sled::Error) -> WriteError {
    match error {
        sled::Error::Io(error) => WriteError::Io(error),
        other => WriteError::Database(other.to_string()),
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn open_failed(dir: &Path, error: sled::Error) -> OpenError {
    match error {
        sled::Error::Io(error) if is_locked(&error) => OpenError::Locked(dir.to_owned()),
        sled::Error::Io(error) => OpenError::Io(error),
        other => OpenError::Damaged(other.to_string()),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}
