//! Who this node is, as its data directory says. The directory belongs to one node at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use types::{ClusterId, HostId, Incarnation};

use crate::seal::SecretsKey;

/// Version of `identity.json`; another one is refused rather than guessed at.
const FORMAT: u32 = 1;

/// Bytes of a host's or cluster's id before it is written in hexadecimal.
const ID_BYTES: usize = 8;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    host: HostId,
    cluster: ClusterId,
    /// Grows at each start, and is on the disk before the start goes on.
    incarnation: u64,
}

/// Who this node is in this life.
pub struct Identity {
    /// Stays for as long as the data directory does.
    pub host: HostId,
    /// The cluster whose containers are ours.
    pub cluster: ClusterId,
    /// This life.
    pub incarnation: Incarnation,
    /// Seals what the log must not show.
    pub secrets_key: SecretsKey,
    /// Held locked for as long as the process lives, so that a second one can not start here.
    _lock: File,
}

impl Identity {
    /// Locks the directory, makes an identity where there is none, and begins a new life.
    ///
    /// # Errors
    /// The directory is another process's, or can not be read or written.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
        let lock = lock(data_dir)?;
        let path = data_dir.join("identity.json");
        let mut stored = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice::<Stored>(&bytes).with_context(|| format!("{} is damaged", path.display()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored {
                format: FORMAT,
                host: HostId::new(fresh_id()?),
                cluster: ClusterId::new(fresh_id()?),
                incarnation: 0,
            },
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if stored.format != FORMAT {
            bail!("{} has format {}, this version knows {FORMAT}", path.display(), stored.format);
        }
        stored.incarnation += 1;
        write_durably(&path, &serde_json::to_vec_pretty(&stored)?, 0o644)?;
        let secrets_key = secrets_key(data_dir)?;
        Ok(Self {
            host: stored.host,
            cluster: stored.cluster,
            incarnation: Incarnation(stored.incarnation),
            secrets_key,
            _lock: lock,
        })
    }
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!("{} is in use by another node process", data_dir.display()),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn secrets_key(data_dir: &Path) -> anyhow::Result<SecretsKey> {
    let path = data_dir.join("secrets.key");
    match fs::read(&path) {
        Ok(bytes) => SecretsKey::from_bytes(&bytes).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; SecretsKey::BYTES];
            getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
            write_durably(&path, &bytes, 0o600)?;
            SecretsKey::from_bytes(&bytes)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn fresh_id() -> anyhow::Result<String> {
    let mut bytes = [0; ID_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Replaces a file so that after a crash it holds the old content or the new one, never a part.
fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn a_second_life_is_the_same_host_with_the_next_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        assert!(Identity::open(dir.path()).is_err(), "two processes in one directory");
        let (host, incarnation) = (first.host.clone(), first.incarnation);
        drop(first);
        let second = Identity::open(dir.path()).unwrap();
        assert_eq!((second.host, second.incarnation), (host, incarnation.next()));
    }
}
