//! A file's bytes, received: in its place whole, or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::agent::WriteFile;
use proto::agent::agent_frame::Frame;
use proto::agent::host_frame::Frame as Host;

use crate::conn::Conn;
use crate::files::{MODE_MASK, absolute, at, entry, host_gone, make_parents};
use crate::refusal::Refusal;
use crate::sys::{c_path, check};

/// Permission bits of a new file for which none were asked.
const FILE_MODE: u32 = 0o644;

/// Names of files on their way begin so. They are seen only where the file system has no nameless files, or for the
/// moment between their name and their place.
const TEMPORARY_PREFIX: &str = ".warren-upload-";

/// Names tried before giving up: they are only taken if an agent was killed in the middle of an upload.
const TEMPORARY_TRIES: u32 = 16;

/// A file that is not in its place yet. Dropped before, it is gone.
struct Upload {
    file: File,
    directory: PathBuf,
    /// None while the file has no name at all.
    temporary: Option<PathBuf>,
}

/// Receives the bytes, puts the file in its place, and tells what it is.
pub fn run(conn: &mut Conn, request: &WriteFile) -> Result<(), Refusal> {
    let asked = absolute(&request.path)?;
    let path = target(asked)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_parents(parent).map_err(at(parent))?;
    let mode = match request.mode & MODE_MASK {
        0 => path.metadata().map_or(FILE_MODE, |metadata| metadata.mode() & MODE_MASK),
        mode => mode,
    };
    check_space(parent, request.size_hint).map_err(at(&path))?;

    let mut upload = Upload::begin(parent).map_err(at(&path))?;
    loop {
        match conn.receive() {
            Ok(Some(Host::Data(data))) => upload.file.write_all(&data.data).map_err(at(&path))?,
            Ok(Some(Host::Finish(_))) => break,
            // Given up: what was there stays.
            Ok(Some(Host::Cancel(_)) | None) | Err(_) => return Ok(()),
            Ok(Some(_)) => return Err(Refusal::invalid("frame", "a write takes Data, Finish and Cancel")),
        }
    }
    upload.file.set_permissions(Permissions::from_mode(mode)).map_err(at(&path))?;
    let metadata = upload.file.metadata().map_err(at(&path))?;
    upload.place(&path).map_err(at(&path))?;
    conn.send(Frame::Entry(entry::of(asked, &metadata))).map_err(|error| host_gone(&error))
}

/// The file that is written: where a link leads, so that the link stays one.
fn target(path: &Path) -> Result<PathBuf, Refusal> {
    if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(at(path)(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    let Ok(metadata) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    let target = if metadata.is_symlink() {
        // A link to nothing is replaced.
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    } else {
        path.to_owned()
    };
    match target.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Err(at(path)(io::Error::from_raw_os_error(libc::EISDIR))),
        Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
            Err(Refusal::invalid("path", "not a regular file"))
        }
        _ => Ok(target),
    }
}

/// Says early what would fail late.
fn check_space(directory: &Path, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let path = c_path(directory.as_os_str().as_bytes())?;
    // SAFETY: the path is a valid C string and `space` is valid to write to.
    let space = unsafe {
        let mut space: libc::statvfs = std::mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &mut space))?;
        space
    };
    if space.f_bavail.saturating_mul(space.f_frsize) < bytes {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    Ok(())
}

impl Upload {
    fn begin(directory: &Path) -> io::Result<Self> {
        match Self::nameless(directory) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
                Self::named(directory)
            }
            other => other,
        }
    }

    /// A file without a name is gone with its process, however that ends. Not every file system has them.
    fn nameless(directory: &Path) -> io::Result<Self> {
        let file = options().custom_flags(libc::O_TMPFILE).open(directory)?;
        Ok(Self { file, directory: directory.to_owned(), temporary: None })
    }

    fn named(directory: &Path) -> io::Result<Self> {
        let (file, temporary) = first_free(directory, |temporary| options().create_new(true).open(temporary))?;
        Ok(Self { file, directory: directory.to_owned(), temporary: Some(temporary) })
    }

    /// Puts the file in its place, at once for whoever looks.
    fn place(mut self, path: &Path) -> io::Result<()> {
        if self.temporary.is_none() {
            self.temporary = Some(self.give_name()?);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, path)?;
        }
        self.temporary = None;
        Ok(())
    }

    /// A nameless file can not replace another one: it gets a name first.
    fn give_name(&self) -> io::Result<PathBuf> {
        let from = c_path(format!("/proc/self/fd/{}", self.file.as_raw_fd()).as_bytes())?;
        let linked = first_free(&self.directory, |temporary| {
            let to = c_path(temporary.as_os_str().as_bytes())?;
            // SAFETY: both are valid C strings.
            check(unsafe {
                libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
            })
        });
        linked.map(|(_, temporary)| temporary)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It can only fail where user code took it away, or its directory's rights.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

/// Tries names until one is free. The pid tells apart what runs now, the count what was left by a pid used again.
fn first_free<T>(directory: &Path, take: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    for count in 0..TEMPORARY_TRIES {
        let temporary = directory.join(format!("{TEMPORARY_PREFIX}{}-{count}", std::process::id()));
        match take(&temporary) {
            Ok(taken) => return Ok((taken, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty directory of this test, gone at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("warren-agent-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn named_or_not_an_upload_is_in_its_place_or_gone() {
        for (name, begin) in [("nameless", Upload::nameless as fn(&Path) -> _), ("named", Upload::named)] {
            let scratch = Scratch::new(name);
            let path = scratch.0.join("file");
            std::fs::write(&path, "old").unwrap();

            let mut dropped: Upload = begin(&scratch.0).unwrap();
            dropped.file.write_all(b"half").unwrap();
            assert_eq!(scratch.names().len(), if name == "named" { 2 } else { 1 });
            drop(dropped);
            assert_eq!(scratch.names(), ["file"]);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");

            // A name that an earlier agent left is passed over.
            std::fs::write(scratch.0.join(format!("{TEMPORARY_PREFIX}{}-0", std::process::id())), "").unwrap();
            let mut placed = begin(&scratch.0).unwrap();
            placed.file.write_all(b"new").unwrap();
            placed.place(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
            assert_eq!(scratch.names().len(), 2);
        }
    }
}
