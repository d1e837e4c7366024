//! Snapshots, each in a file of its own: too large for the database, whose big values go unsynced.
//!
//! A file is whole and durable before the record that names it is written, and goes only after another is named.

use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub(crate) struct SnapshotFiles {
    dir: PathBuf,
}

/// Names a file and says what must be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    /// The batch that brought it: so a file is never written twice.
    pub(crate) batch: u64,
    pub(crate) bytes: u64,
    pub(crate) checksum: u32,
}

impl SnapshotFile {
    pub(crate) fn of(batch: u64, data: &[u8]) -> Self {
        Self { batch, bytes: data.len() as u64, checksum: crc32fast::hash(data) }
    }

    fn name(self) -> String {
        format!("{:020}.snapshot", self.batch)
    }
}

impl SnapshotFiles {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Durable when it returns.
    pub(crate) fn write(&self, file: SnapshotFile, data: &[u8]) -> io::Result<()> {
        let unfinished = self.dir.join("unfinished");
        let mut handle = File::create(&unfinished)?;
        handle.write_all(data)?;
        handle.sync_all()?;
        fs::rename(&unfinished, self.dir.join(file.name()))?;
        sync_dir(&self.dir)
    }

    /// None if it is missing or not what it should be.
    pub(crate) fn read(&self, file: SnapshotFile) -> io::Result<Option<Bytes>> {
        let data = match fs::read(self.dir.join(file.name())) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((SnapshotFile::of(file.batch, &data) == file).then(|| data.into()))
    }

    /// Removes all others.
    pub(crate) fn keep_only(&self, file: SnapshotFile) -> io::Result<()> {
        for found in fs::read_dir(&self.dir)? {
            let found = found?;
            if found.file_name() != *file.name() {
                fs::remove_file(found.path())?;
            }
        }
        Ok(())
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
