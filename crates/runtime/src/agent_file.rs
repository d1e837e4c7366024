//! The agent's binary as sandboxes get it: a file that never changes, named by its digest.
//!
//! An old agent stays PID 1 for its sandbox's life and its container names the file it was started
//! from, so an upgrade adds a file and replaces none.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// An agent binary in its place.
#[derive(Debug, Clone)]
pub(crate) struct AgentFile {
    pub(crate) path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub(crate) digest: String,
}

impl AgentFile {
    /// Copies the binary to its place unless it is there already.
    pub(crate) fn install(binary: &Path, directory: &Path) -> io::Result<Self> {
        let bytes = fs::read(binary)?;
        let digest = hex(&Sha256::digest(&bytes));
        let path = directory.join(&digest);
        // Searchable by all: the container's runtime may look the file up as the sandbox's root.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
        // A copy that a crash cut short has another name; a file of this name is whole.
        if !path.exists() {
            let partial = directory.join(format!(".{digest}.{}", std::process::id()));
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o555).open(&partial)?;
            file.write_all(&bytes)?;
            // Whatever the umask said: the sandbox's own uid must be able to execute it.
            file.set_permissions(fs::Permissions::from_mode(0o555))?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(Self { path, digest })
    }
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
