//! The file in which this node's lease reaches the agents: one for all sandboxes, bound read-only into each.
//!
//! A bind holds the file, not its name, so the file is never replaced: what it says changes in place, in one aligned
//! store of 8 bytes that no reader can see half of.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::lease_layout::{BOOT_ID_BYTES, BOOT_ID_OFFSET, EXPIRES_OFFSET, FILE_BYTES, MAGIC};
use rustix::mm::{MapFlags, ProtFlags};

/// Its name in the run directory.
const NAME: &str = "lease";

/// Readable by every uid of every sandbox, written by nobody but us.
const MODE: u32 = 0o444;

/// Bytes mapped. The kernel maps whole pages; what lies beyond the file is never touched.
const MAP_BYTES: usize = FILE_BYTES;

/// This node's lease as the agents of its sandboxes see it. They act upon it where a sandbox may be placed again.
#[derive(Debug)]
pub struct LeaseFile {
    path: PathBuf,
    map: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone until it is dropped, and is used through atomics only.
unsafe impl Send for LeaseFile {}
// SAFETY: as above.
unsafe impl Sync for LeaseFile {}

impl LeaseFile {
    /// Opens the file of this run directory, or makes it, expired. What an earlier life of the node wrote during this
    /// boot of the host stays: its sandboxes live by it.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(NAME);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)?;
        // Whatever the umask said.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        let boot_id = boot_id()?;
        let mut held = [0; FILE_BYTES];
        let whole = file.metadata()?.len() == FILE_BYTES as u64 && file.read_exact_at(&mut held, 0).is_ok();
        let ours = whole && held.starts_with(&MAGIC) && held[BOOT_ID_OFFSET..].starts_with(&boot_id);
        if !ours {
            // Cut short by a crash, or of a boot whose clock counted from another moment. The magic comes last: without
            // it agents take the lease for expired.
            let mut fresh = [0; FILE_BYTES];
            file.write_all_at(&fresh, 0)?;
            file.set_len(FILE_BYTES as u64)?;
            fresh[BOOT_ID_OFFSET..BOOT_ID_OFFSET + BOOT_ID_BYTES].copy_from_slice(&boot_id);
            file.write_all_at(&fresh, 0)?;
            file.write_all_at(&MAGIC, 0)?;
        }
        // SAFETY: a mapping at an address of the kernel's choice, of a file that has the bytes and that nobody shortens.
        let map = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), MAP_BYTES, protection, MapFlags::SHARED, &file, 0)?
        };
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("the kernel mapped page zero"))?;
        Ok(Self { path, map })
    }

    /// Says until when the lease holds, by the clock that counts suspend (CLOCK_BOOTTIME). 0: it does not. Agents see it
    /// at once: no system call is made.
    pub fn set(&self, expires_boottime_ms: u64) {
        self.expires().store(expires_boottime_ms, Ordering::Release);
    }

    /// Until when the lease holds, as it was last set; also by an earlier life of the node.
    #[must_use]
    pub fn expires_boottime_ms(&self) -> u64 {
        self.expires().load(Ordering::Acquire)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn expires(&self) -> &AtomicU64 {
        // SAFETY: the mapping has these bytes for as long as `self` lives, a page begins aligned and so does the offset,
        // and nobody uses them but atomically.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().add(EXPIRES_OFFSET).cast()) }
    }
}

impl Drop for LeaseFile {
    fn drop(&mut self) {
        // SAFETY: mapped in `open` with this length; no reference into it outlives `self`.
        if let Err(error) = unsafe { rustix::mm::munmap(self.map.as_ptr().cast(), MAP_BYTES) } {
            tracing::error!(%error, "the lease's mapping stays");
        }
    }
}

/// Which boot of the host this is.
fn boot_id() -> io::Result<[u8; BOOT_ID_BYTES]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_outlives_the_process_and_no_boot() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(NAME);
        let first = LeaseFile::open(directory.path()).expect("a file");
        assert_eq!(first.expires_boottime_ms(), 0);
        first.set(0x0123_4567_89ab_cdef);
        let bytes = fs::read(&path).expect("bytes");
        assert_eq!(bytes.len(), FILE_BYTES);
        assert!(bytes.starts_with(&MAGIC));
        assert_eq!(bytes[EXPIRES_OFFSET..EXPIRES_OFFSET + 8], 0x0123_4567_89ab_cdef_u64.to_ne_bytes());
        let metadata = fs::metadata(&path).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, MODE);
        drop(first);

        let second = LeaseFile::open(directory.path()).expect("the same file");
        assert_eq!(second.expires_boottime_ms(), 0x0123_4567_89ab_cdef);
        assert_eq!(fs::metadata(&path).expect("metadata").ino(), metadata.ino(), "binds hold the inode");
        drop(second);

        // Of another boot, cut short, or never written whole.
        let mut other_boot = bytes.clone();
        other_boot[BOOT_ID_OFFSET] ^= 1;
        let mut no_magic = bytes.clone();
        no_magic[0] ^= 1;
        for spoilt in [other_boot, no_magic, bytes[..FILE_BYTES - 1].to_vec(), [&bytes[..], b"more"].concat()] {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("root may");
            file.set_len(0).expect("a length");
            file.write_all_at(&spoilt, 0).expect("bytes");
            let fresh = LeaseFile::open(directory.path()).expect("made anew");
            assert_eq!(fresh.expires_boottime_ms(), 0);
            assert_eq!(fs::metadata(&path).expect("metadata").ino(), metadata.ino(), "binds hold the inode");
            fresh.set(7);
            drop(fresh);
            assert_eq!(LeaseFile::open(directory.path()).expect("whole again").expires_boottime_ms(), 7);
        }
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/dev/null", directory.path().join(NAME)).expect("a link");
        assert!(LeaseFile::open(directory.path()).is_err());
    }
}
