//! What a sandbox has on the host beside its container: `<run_dir>/sandboxes/<id>` with the tmpfs of
//! the agent's socket and the files that stand in for those Podman would make.
//!
//! Podman's own `/etc/hosts` and `/run/.containerenv` are writable binds from the host's memory:
//! root of the namespace could fill that past every limit. Ours are read-only.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use types::SandboxId;

/// First id of the host that the sandboxes' ids are mapped to. One mapping for all, so that an
/// image's layers are remapped once.
pub(crate) const HOST_ID_FIRST: u32 = 1_000_000;

/// Ids mapped.
pub(crate) const HOST_ID_COUNT: u32 = 65_536;

/// The agent's uid and gid in the sandbox's user namespace: neither the user's nor root's.
pub(crate) const AGENT_ID: u32 = 65_000;

/// The files of ours and where they are seen inside.
pub(crate) const FILES: [(&str, &str); 4] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
    ("containerenv", "/run/.containerenv"),
];

/// One sandbox's directory.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    root: PathBuf,
    id: SandboxId,
}

/// The directory that holds one directory for each sandbox.
pub(crate) fn sandboxes(run_dir: &Path) -> PathBuf {
    run_dir.join("sandboxes")
}

impl RunDir {
    pub(crate) fn new(run_dir: &Path, id: SandboxId) -> Self {
        Self { root: sandboxes(run_dir).join(id.as_str()), id }
    }

    /// Where the agent's socket is.
    pub(crate) fn sock(&self) -> PathBuf {
        self.root.join("sock")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.root.symlink_metadata().is_ok()
    }

    /// Makes all of it; what is there already stays, so that it serves a first start and one after
    /// a reboot alike.
    pub(crate) fn make(&self) -> io::Result<()> {
        let id = self.id;
        // Searchable: the container's runtime may look these paths up as the sandbox's root.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.root)?;
        self.write("hosts", &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {id}\n"))?;
        self.write("hostname", &format!("{id}\n"))?;
        self.write("resolv.conf", "# This sandbox has no network.\n")?;
        self.write("containerenv", "engine=\"warren\"\n")?;
        let sock = self.sock();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&sock)?;
        if !is_mount_point(&sock)? {
            let owner = HOST_ID_FIRST + AGENT_ID;
            let options = format!("size=64k,nr_inodes=16,mode=0700,uid={owner},gid={owner}");
            let options = std::ffi::CString::new(options).expect("the options hold no zero byte");
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("warren", &sock, "tmpfs", flags, Some(options.as_c_str()))?;
        }
        Ok(())
    }

    /// Removes all of it. Every mount is taken off; nothing below a mount is touched.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let sock = self.sock();
        while is_mount_point(&sock)? {
            match rustix::mount::unmount(&sock, UnmountFlags::NOFOLLOW) {
                // Somebody still has the socket open: let go of the name, the rest follows.
                Err(Errno::BUSY) => {
                    rustix::mount::unmount(&sock, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
                }
                Err(error) => return Err(error.into()),
                Ok(()) => {}
            }
        }
        gone(fs::remove_dir(&sock))?;
        for (name, _) in FILES {
            gone(fs::remove_file(self.root.join(name)))?;
        }
        gone(fs::remove_dir(&self.root))
    }

    fn write(&self, name: &str, content: &str) -> io::Result<()> {
        let path = self.root.join(name);
        // In place: a new file would not be seen through a bind that holds the old one.
        if fs::read(&path).is_ok_and(|now| now == content.as_bytes()) {
            return Ok(());
        }
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o444)))
            .map_err(|error| io::Error::new(error.kind(), format!("{} of {}: {error}", name, self.id)))
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether something is mounted exactly here.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let here = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let parent = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(fs::symlink_metadata(parent)?.dev() != here.dev())
}
