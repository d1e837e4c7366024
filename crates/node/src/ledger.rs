//! Which sandboxes were handed their environment, on this node's own disk.
//!
//! It tells a create that was cut off before its container was made (finish it) from a container
//! that was removed behind our back (its files are lost, and saying so is all that is left).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use types::SandboxId;

/// A directory with one empty file for each activated sandbox. A mark is not flushed: it has to
/// outlive a killed process, and after a power cut the container is as old as the mark.
pub struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// Opens or makes the ledger.
    ///
    /// # Errors
    /// The directory can not be made.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("activated");
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// All marks.
    ///
    /// # Errors
    /// The directory can not be read.
    pub fn read(&self) -> io::Result<BTreeSet<SandboxId>> {
        let mut marks = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                marks.insert(id);
            }
        }
        Ok(marks)
    }

    /// Marks a sandbox, before its agent is told anything.
    ///
    /// # Errors
    /// The file can not be made.
    pub fn mark(&self, id: SandboxId) -> io::Result<()> {
        fs::File::create(self.dir.join(id.as_str())).map(drop)
    }

    /// Takes a mark away; it need not be there.
    ///
    /// # Errors
    /// The file can not be removed.
    pub fn unmark(&self, id: SandboxId) -> io::Result<()> {
        match fs::remove_file(self.dir.join(id.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
