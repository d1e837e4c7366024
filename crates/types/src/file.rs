//! An entry of a sandbox's file system.

use crate::time::Timestamp;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// An entry of a sandbox's file system. Names inside are bytes; they are shown as UTF-8 with
/// replacement characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Last component.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last change of the content.
    pub modified: Timestamp,
    /// What it is; links are not followed.
    pub kind: FileKind,
    /// Where a link points.
    pub symlink_target: Option<String>,
    /// Owner inside the sandbox.
    pub uid: u32,
    /// Group inside the sandbox.
    pub gid: u32,
}
