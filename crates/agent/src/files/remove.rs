//! Taking a tree away, without ever following a link.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::agent::agent_frame::Frame;
use proto::agent::{Done, Remove};

use crate::files::{absolute, at};
use crate::refusal::Refusal;
use crate::sys::{self, c_path, check};

/// Directories open at once. What lies deeper is moved up to the top first: depth costs neither descriptors nor stack.
const DEPTH_MAX: usize = 128;

/// Name of what was moved up.
const MOVED_PREFIX: &str = ".warren-remove-";

/// Removes a file, a link or a tree. What is not there is removed already.
pub fn run(request: &Remove) -> Result<Frame, Refusal> {
    let path = absolute(&request.path)?;
    // `/`, and whatever ends in `..`: a trailing slash is harmless and taken off by this.
    let Some(name) = path.file_name() else {
        return Err(Refusal::invalid("path", "can not be removed"));
    };
    match remove(path.parent().unwrap_or(Path::new("/")), name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(at(path))?,
    }
    Ok(Frame::Done(Done::default()))
}

fn remove(parent: &Path, name: &OsStr) -> io::Result<()> {
    let parent = c_path(parent.as_os_str().as_bytes())?;
    let parent = sys::openat(libc::AT_FDCWD, &parent, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let name = c_path(name.as_bytes())?;
    let Some(top) = unlink_or_open(parent.as_raw_fd(), &name)? else { return Ok(()) };
    empty(top)?;
    sys::unlinkat(parent.as_raw_fd(), &name, libc::AT_REMOVEDIR)
}

/// Removes a name that is no directory, or an empty one; opens a directory that is not empty.
fn unlink_or_open(parent: RawFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    match sys::unlinkat(parent, name, 0) {
        Ok(()) => return Ok(None),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EPERM)) => {}
        Err(error) => return Err(error),
    }
    match sys::unlinkat(parent, name, libc::AT_REMOVEDIR) {
        Ok(()) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => {}
        Err(error) => return Err(error),
    }
    sys::openat(parent, name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0).map(Some)
}

/// An open directory on the way down, and its name in the one above.
struct Level {
    directory: OwnedFd,
    name: CString,
    /// Some of the names in it; when they are gone it is looked at again.
    left: Vec<CString>,
}

/// Removes what is below `top`.
fn empty(top: OwnedFd) -> io::Result<()> {
    let mut moved = 0;
    let mut levels = vec![Level { directory: top, name: CString::default(), left: Vec::new() }];
    while let Some(level) = levels.last_mut() {
        if level.left.is_empty() {
            level.left = some_names(&level.directory)?;
        }
        let directory = level.directory.as_raw_fd();
        let Some(name) = level.left.pop() else {
            // This directory is empty.
            let done = levels.pop();
            if let (Some(above), Some(done)) = (levels.last(), done) {
                gone_is_fine(sys::unlinkat(above.directory.as_raw_fd(), &done.name, libc::AT_REMOVEDIR))?;
            }
            continue;
        };
        let opened = match unlink_or_open(directory, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => other?,
        };
        match opened {
            None => {}
            Some(directory) if levels.len() < DEPTH_MAX => levels.push(Level { directory, name, left: Vec::new() }),
            Some(_) => {
                moved += 1;
                let to = CString::new(format!("{MOVED_PREFIX}{}-{moved}", std::process::id()))?;
                let top = levels[0].directory.as_raw_fd();
                // SAFETY: both are valid C strings, both descriptors are open.
                check(unsafe { libc::renameat(directory, name.as_ptr(), top, to.as_ptr()) })?;
            }
        }
    }
    Ok(())
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Some of the names in a directory; none if it is empty. Read through its descriptor: its path may mean something
/// else by now. Never all at once, since there may be millions.
fn some_names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut buffer = vec![0u8; DIRENT_BYTES];
    let fd = directory.as_raw_fd();
    // SAFETY: plain integers.
    check(unsafe { libc::lseek(fd, 0, libc::SEEK_SET) } as libc::c_int)?;
    loop {
        // SAFETY: the buffer is valid for its own length.
        let length = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut names = Vec::new();
        let mut rest = &buffer[..length];
        while let Some((name, after)) = split_dirent(rest) {
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
            rest = after;
        }
        if length == 0 || !names.is_empty() {
            return Ok(names);
        }
    }
}

/// Bytes of entries asked for in one go.
const DIRENT_BYTES: usize = 32 << 10;

/// Where the record's length and its name are in the kernel's `struct linux_dirent64`.
const DIRENT_LENGTH_AT: usize = 16;
const DIRENT_NAME_AT: usize = 19;

fn split_dirent(bytes: &[u8]) -> Option<(&CStr, &[u8])> {
    let length = bytes.get(DIRENT_LENGTH_AT..)?.first_chunk::<2>()?;
    let (record, rest) = bytes.split_at_checked(usize::from(u16::from_ne_bytes(*length)))?;
    Some((CStr::from_bytes_until_nul(record.get(DIRENT_NAME_AT..)?).ok()?, rest))
}
