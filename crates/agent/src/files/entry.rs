//! What is told of a file.

use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proto::agent::{Entry, EntryKind};

/// Nanoseconds in a second.
const NANOS: i64 = 1_000_000_000;

/// Describes a file. A link that can not be read any more has an empty target.
pub fn of(path: &Path, metadata: &Metadata) -> Entry {
    let file_type = metadata.file_type();
    let kind = match file_type {
        t if t.is_file() => EntryKind::File,
        t if t.is_dir() => EntryKind::Directory,
        t if t.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let symlink_target = match kind {
        EntryKind::Symlink => path.read_link().map(|target| target.into_os_string().into_vec()).unwrap_or_default(),
        _ => Vec::new(),
    };
    Entry {
        name: path.file_name().unwrap_or(path.as_os_str()).as_bytes().to_vec(),
        path: path.as_os_str().as_bytes().to_vec(),
        size: metadata.size(),
        mode: metadata.mode() & super::MODE_MASK,
        mtime_ns: metadata.mtime().saturating_mul(NANOS).saturating_add(metadata.mtime_nsec()),
        kind: kind.into(),
        symlink_target,
        uid: metadata.uid(),
        gid: metadata.gid(),
    }
}
