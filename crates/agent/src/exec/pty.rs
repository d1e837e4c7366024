//! A terminal for a command.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::sys::{self, check};
use crate::users::User;

/// Size of a terminal for which none was asked.
const SIZE_DEFAULT: (u32, u32) = (80, 24);

/// The two ends of a terminal.
pub struct Pty {
    /// The agent's end.
    pub master: OwnedFd,
    /// The command's end.
    pub slave: OwnedFd,
}

/// Opens a terminal that belongs to the user.
pub fn open(user: &User, cols: u32, rows: u32) -> io::Result<Pty> {
    let master = sys::openat(libc::AT_FDCWD, c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY, 0)?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int; TIOCGPTPEER takes flags and gives a descriptor that nobody else owns.
    let slave = unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?)
    };
    // Programs open their terminal again by name.
    std::os::unix::fs::fchown(&slave, Some(user.uid), None)?;
    let (cols, rows) = if cols == 0 || rows == 0 { SIZE_DEFAULT } else { (cols, rows) };
    resize(master.as_raw_fd(), cols, rows)?;
    Ok(Pty { master, slave })
}

/// Changes the size; the kernel tells the programs.
pub fn resize(master: RawFd, cols: u32, rows: u32) -> io::Result<()> {
    let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = libc::winsize { ws_row: side(rows), ws_col: side(cols), ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize.
    check(unsafe { libc::ioctl(master, libc::TIOCSWINSZ, &size) }).map(drop)
}
