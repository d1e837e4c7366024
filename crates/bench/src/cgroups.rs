//! The cgroup that an engine's containers live under: the engine makes it and never removes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::processes::wait_for;

const ROOT: &str = "/sys/fs/cgroup";

/// Removes a cgroup that has no process left, in every hierarchy. What can not be removed is said.
pub fn remove(name: &str) {
    let mut roots = vec![PathBuf::from(ROOT)];
    roots.extend(fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path()));
    // Podman puts its conmons into a cgroup of their own below it.
    let both = |root: PathBuf| [root.join(name).join("conmon"), root.join(name)];
    for cgroup in roots.into_iter().flat_map(both) {
        // The kernel still holds a cgroup for a moment after its last process.
        let removed = wait_for("a cgroup to be free", || match remove_tree(&cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(true),
        });
        if let Err(error) = removed {
            eprintln!("error: cannot remove {}: {error:#}", cgroup.display());
        }
    }
}

/// Its files are the kernel's and go with it; only directories are removed.
fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for child in fs::read_dir(cgroup)? {
        let child = child?;
        if child.file_type()?.is_dir() {
            remove_tree(&child.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
