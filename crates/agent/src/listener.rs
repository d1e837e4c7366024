//! The socket on which the host calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::sys::{self, check};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// Binds the socket. Its name appears only when it listens, so that its existence means that a call is taken.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    // Left by an agent of this container that ran before a restart.
    for stale in [path, Path::new(&temporary)] {
        match std::fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&temporary)?;
    // SAFETY: listening again with another backlog is allowed and takes plain integers.
    check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })?;
    listener.set_nonblocking(true)?;
    let (from, to) = (CString::new(temporary.as_bytes())?, CString::new(path.as_os_str().as_bytes())?);
    // SAFETY: both are valid C strings.
    check(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) })?;
    Ok(listener)
}

/// Accepts one connection, not blocking and closed on exec.
pub fn accept(listener: RawFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no address is asked for; the new descriptor is owned by nobody else.
    unsafe {
        check(libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags))
            .map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Whether the peer lives outside the sandbox: the kernel has no pid for it here.
pub fn is_host(connection: RawFd) -> bool {
    let mut peer = libc::ucred { pid: -1, uid: 0, gid: 0 };
    let mut length = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `length` are valid to write to and agree in size.
    let result = unsafe {
        let peer = std::ptr::from_mut(&mut peer).cast();
        libc::getsockopt(connection, libc::SOL_SOCKET, libc::SO_PEERCRED, peer, &mut length)
    };
    result == 0 && peer.pid == 0
}

/// A descriptor held back: when there are none left it is given up for a moment, to turn a caller away
/// rather than to be woken for it for ever.
pub fn spare() -> Option<OwnedFd> {
    sys::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDONLY, 0).ok()
}
