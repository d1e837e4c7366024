//! The number of the last batch that was acknowledged, in a small file of its own.
//!
//! The database takes a damaged tail for the end of its log and opens without it, silently. This number is what tells
//! an acknowledged batch that is gone from one that never was.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const FILE: &str = "acknowledged";
const MAGIC: [u8; 4] = *b"Wack";
const VERSION: u32 = 1;
/// Two slots are written by turns, so that a torn write leaves the older one. Apart by a disk's sector.
const SLOT_APART_BYTES: u64 = 4_096;
const SLOT_BYTES: usize = 20;
/// The file is synced once in so many batches. A process that dies loses nothing of it; after a power cut it may lag
/// by this much, which only narrows what damage is seen, and costs no second sync for each batch.
pub(crate) const WRITES_PER_SYNC: u64 = 64;

pub(crate) struct Watermark {
    file: File,
    slot: u64,
    unsynced: u64,
}

/// What the file says.
pub(crate) enum Found {
    /// There is none.
    Missing,
    /// It holds no readable number.
    Damaged,
    /// The last batch that was acknowledged.
    At(Watermark, u64),
}

impl Watermark {
    pub(crate) fn open(dir: &Path) -> io::Result<Found> {
        let file = match OpenOptions::new().read(true).write(true).open(dir.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(error),
        };
        let mut newest = None;
        for slot in 0..2 {
            newest = newest.max(read_slot(&file, slot)?.map(|number| (number, slot)));
        }
        Ok(match newest {
            Some((number, slot)) => Found::At(Self { file, slot, unsynced: 0 }, number),
            None => Found::Damaged,
        })
    }

    pub(crate) fn is_there(dir: &Path) -> io::Result<bool> {
        dir.join(FILE).try_exists()
    }

    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(dir.join(FILE))?;
        let mut created = Self { file, slot: 1, unsynced: 0 };
        created.write(0)?;
        created.file.sync_all()?;
        Ok(created)
    }

    /// Returns whether it was synced.
    pub(crate) fn advance(&mut self, number: u64) -> io::Result<bool> {
        self.write(number)?;
        self.unsynced += 1;
        let due = self.unsynced >= WRITES_PER_SYNC;
        if due {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(due)
    }

    fn write(&mut self, number: u64) -> io::Result<()> {
        self.slot = 1 - self.slot;
        let mut bytes = [0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&VERSION.to_be_bytes());
        bytes[8..16].copy_from_slice(&number.to_be_bytes());
        let sum = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&sum.to_be_bytes());
        self.file.write_all_at(&bytes, self.slot * SLOT_APART_BYTES)
    }
}

fn read_slot(file: &File, slot: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_APART_BYTES) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (content, sum) = bytes.split_at(16);
    let sound = content[..4] == MAGIC
        && content[4..8] == VERSION.to_be_bytes()
        && crc32fast::hash(content).to_be_bytes() == *sum;
    Ok(sound.then(|| crate::record::Reader(&content[8..]).number()).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(dir: &Path) -> Option<u64> {
        match Watermark::open(dir).unwrap() {
            Found::At(_, number) => Some(number),
            Found::Missing | Found::Damaged => None,
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_number_before() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Watermark::open(dir.path()).unwrap(), Found::Missing));
        let mut watermark = Watermark::create(dir.path()).unwrap();
        assert_eq!(reopened(dir.path()), Some(0));
        for number in 1..=3 {
            watermark.advance(number).unwrap();
        }
        assert_eq!(reopened(dir.path()), Some(3));
        let torn = watermark.slot * SLOT_APART_BYTES;
        watermark.file.write_all_at(&[0xff; 7], torn + 8).unwrap();
        assert_eq!(reopened(dir.path()), Some(2));
        watermark.file.write_all_at(&[0xff; 7], SLOT_APART_BYTES - torn + 8).unwrap();
        assert!(matches!(Watermark::open(dir.path()).unwrap(), Found::Damaged));
    }
}
