//! The home directory of the sandbox's default user, made where the image has none.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::sys::{self, c_path, check};
use crate::users::{AGENT_ID, User};

/// Makes the user's home if nothing is there. An image that does not let it is one where HOME names nothing:
/// commands run all the same.
pub fn make(user: &User) {
    if std::fs::symlink_metadata(&user.home).is_ok() {
        return;
    }
    let _ = make_below_root(user);
}

/// Walks without following links, and gives away only directories that it made itself: user code may race.
fn make_below_root(user: &User) -> io::Result<()> {
    let directory = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let mut names = user.home.split('/').filter(|name| !name.is_empty()).peekable();
    let mut at: OwnedFd = sys::openat(libc::AT_FDCWD, c"/", directory, 0)?;
    while let Some(name) = names.next() {
        if matches!(name, "." | "..") {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let name = c_path(name.as_bytes())?;
        // SAFETY: the name is a valid C string, the descriptor is open.
        let made = match check(unsafe { libc::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o755) }) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        at = sys::openat(at.as_raw_fd(), &name, directory, 0)?;
        if made && std::fs::File::from(at.try_clone()?).metadata()?.uid() == AGENT_ID {
            let (uid, gid) = if names.peek().is_some() { (0, 0) } else { (user.uid, user.gid) };
            std::os::unix::fs::fchown(&at, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}
