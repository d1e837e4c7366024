//! Values as the contract shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use types::{FileEntry, FileKind, Resources, Sandbox, SandboxId, Timestamp};

/// A sandbox. Absent rather than null, except that `expires_at: null` means never.
#[derive(Serialize)]
pub(crate) struct SandboxView<'a> {
    id: &'a SandboxId,
    image: &'a str,
    status: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    node: &'a str,
    generation: u64,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    resources: Resources,
    network_mode: &'a str,
    runtime: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> From<&'a Sandbox> for SandboxView<'a> {
    fn from(sandbox: &'a Sandbox) -> Self {
        Self {
            id: &sandbox.id,
            image: &sandbox.image,
            status: sandbox.status.as_str(),
            created_at: sandbox.created_at,
            expires_at: sandbox.expires_at,
            node: sandbox.node.as_str(),
            generation: sandbox.generation.0,
            labels: &sandbox.labels,
            template: sandbox.template.as_deref(),
            name: sandbox.name.as_deref(),
            resources: sandbox.resources,
            network_mode: sandbox.network_mode.as_str(),
            runtime: &sandbox.runtime,
            error: sandbox.error.as_deref(),
        }
    }
}

/// An entry of a file system.
#[derive(Serialize)]
pub(crate) struct FileView<'a> {
    name: &'a str,
    path: &'a str,
    size: u64,
    mode: String,
    mod_time: Timestamp,
    is_dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<&'a str>,
    uid: u32,
    gid: u32,
}

impl<'a> From<&'a FileEntry> for FileView<'a> {
    fn from(entry: &'a FileEntry) -> Self {
        Self {
            name: &entry.name,
            path: &entry.path,
            size: entry.size,
            mode: mode_text(entry.kind, entry.mode),
            mod_time: entry.modified,
            is_dir: entry.kind == FileKind::Directory,
            symlink_target: entry.symlink_target.as_deref(),
            uid: entry.uid,
            gid: entry.gid,
        }
    }
}

/// Kind and permissions in ten characters, the way `ls -l` writes them: `-rw-r--r--`.
fn mode_text(kind: FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Other => '?',
    });
    for (shift, special, with_x, without_x) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => with_x,
            (false, true) => without_x,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{FileKind, mode_text};

    #[test]
    fn modes_read_as_in_a_listing() {
        for (kind, mode, text) in [
            (FileKind::File, 0o644, "-rw-r--r--"),
            (FileKind::File, 0o4755, "-rwsr-xr-x"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Directory, 0o2750, "drwxr-s---"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
            (FileKind::File, 0o6000, "---S--S---"),
        ] {
            assert_eq!(mode_text(kind, mode), text);
        }
    }
}
