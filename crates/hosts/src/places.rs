//! Names, and where on the machine things of that name are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One directory per machine is in here: on a real file system, since Podman's overlays stand on it.
pub(crate) const MACHINES: &str = "/var/lib/warren-hosts";
/// The kernel holds links' names to 15 characters.
const NAME_LENGTH_MAX: usize = 15 - LINK_PREFIX.len();
/// A machine's link is named by this and the machine: what has such a name is ours to remove.
const LINK_PREFIX: &str = "wh-";
/// Cgroups are named by this, the machine and the host.
const CGROUP_PREFIX: &str = "warren-hosts";
/// Held while a machine takes or leaves what all share: a subnet, and the directory of all.
const TURN_LOCK: &str = "/run/warren-hosts.lock";
/// In a machine's directory; locked for as long as it lives.
const LOCK: &str = "lock";
/// In a machine's directory, when it is to be found again.
const KEEP: &str = "keep";

/// Names are parts of paths, links and cgroups.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.chars().all(good) {
        bail!("{name:?} is no name: 1 to {NAME_LENGTH_MAX} small letters and digits");
    }
    Ok(())
}

/// The link by which a machine is reached from outside.
pub(crate) fn link(machine: &str) -> String {
    format!("{LINK_PREFIX}{machine}")
}

/// The cgroup of a host, below each hierarchy's root. Without a host, what those of a machine start with.
pub(crate) fn cgroup(machine: &str, host: &str) -> String {
    format!("{CGROUP_PREFIX}.{machine}.{host}")
}

/// Waits for its turn among the machines; given back when the file is closed. Not to be asked for twice.
pub(crate) fn turn() -> Result<File> {
    let file = File::create(TURN_LOCK).with_context(|| format!("cannot write {TURN_LOCK}"))?;
    file.lock().with_context(|| format!("cannot lock {TURN_LOCK}"))?;
    Ok(file)
}

/// A machine's directory, locked.
pub(crate) struct Place {
    path: PathBuf,
    lock: File,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Closing alone does not free it while a child that another thread has forked has not come to its exec.
        if let Err(error) = self.lock.unlock() {
            eprintln!("error: {} stays locked: {error}", self.path.display());
        }
    }
}

impl Place {
    /// Takes the directory for itself, makes it where it is not there, empties it unless it was kept.
    pub(crate) fn take(machine: &str) -> Result<Place> {
        let path = Path::new(MACHINES).join(machine);
        let _turn = turn()?;
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let Some(place) = Place::lock(path)? else { bail!("the machine {machine} is there already") };
        if !place.path.join(KEEP).exists() {
            place.empty()?;
        }
        Ok(place)
    }

    /// The directory of a machine that is there no more; none if it is, or if there is nothing of it.
    pub(crate) fn take_over(path: PathBuf) -> Result<Option<Place>> {
        let _turn = turn()?;
        if path.is_dir() { Place::lock(path) } else { Ok(None) }
    }

    fn lock(path: PathBuf) -> Result<Option<Place>> {
        let name = path.join(LOCK);
        let lock = File::create(&name).with_context(|| format!("cannot write {}", name.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Place { path, lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", name.display()))
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it outlives the machine.
    pub(crate) fn keep(&self) -> Result<()> {
        fs::write(self.path.join(KEEP), "").context("cannot mark the disks as kept")
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.path.join(KEEP).exists()
    }

    /// Removes the directory and everything in it.
    pub(crate) fn remove(&self) -> Result<()> {
        let _turn = turn()?;
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        // Gone when it was the last one.
        match fs::remove_dir(MACHINES) {
            Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
                Err(error).with_context(|| format!("cannot remove {MACHINES}"))
            }
            _ => Ok(()),
        }
    }

    fn empty(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_link_a_path_and_a_cgroup() {
        for good in ["w", "w7f3", "123456789012"] {
            check_name(good).unwrap();
        }
        for bad in ["", "1234567890123", "a-b", "a.b", "../a", "A", "ä", "a b"] {
            assert!(check_name(bad).is_err(), "{bad:?} was taken");
        }
    }
}
