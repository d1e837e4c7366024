//! System calls with their safety argued once; above this module there is little `unsafe`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Turns a C result into an `io::Result`.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Who a fork came back as.
pub enum Forked {
    /// In the parent, with the child's pid.
    Parent(libc::pid_t),
    /// In the child.
    Child,
}

/// Plain fork. The agent has one thread, so the child may go on as any program would.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the process has a single thread, so no lock can be held by another one.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Whether this is the first process of its pid namespace.
pub fn is_first() -> bool {
    // SAFETY: getpid can not fail.
    unsafe { libc::getpid() == 1 }
}

/// Ends the process at once, with no destructor run.
pub fn exit(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Milliseconds of a clock that never steps back.
pub fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The clock that leases count by: it runs on while the host is suspended.
pub fn boottime() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Whether a file was opened through a read-only mount.
pub fn is_on_read_only_mount(fd: RawFd) -> io::Result<bool> {
    // SAFETY: plain integers and zeroes are a valid statvfs, which is only written to.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        check(libc::fstatvfs(fd, &mut stat))?;
        Ok(stat.f_flag & libc::ST_RDONLY != 0)
    }
}

/// Maps the beginning of a file, shared and to be read, for good.
pub fn map_shared(fd: RawFd, length: usize) -> io::Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
    if map == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(map.cast()) }
}

/// Kills every process of the sandbox but its first and this one. False if there was none, dead or alive. Outside a
/// sandbox it would be the end of the host: only its first process and that one's warden may call it.
///
/// The kernel signals them under the lock that a new process is entered under, and a process with a signal waiting enters
/// none: what forks however fast is taken whole.
pub fn kill_all_others() -> bool {
    // SAFETY: plain integers.
    unsafe { libc::kill(-1, libc::SIGKILL) == 0 }
}

/// Reads once.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its own length.
    check_size(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes once.
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its own length.
    check_size(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

/// Reads at an offset.
pub fn pread(fd: RawFd, buffer: &mut [u8], offset: i64) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its own length.
    check_size(unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), offset) })
}

/// Sends once on a socket, without SIGPIPE.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its own length.
    check_size(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// A pipe, both ends close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just made and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Switches O_NONBLOCK of a descriptor.
pub fn set_nonblocking(fd: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take and give plain integers.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        check(libc::fcntl(fd, libc::F_SETFL, flags))?;
    }
    Ok(())
}

/// Takes a name out of a directory: a file, or with AT_REMOVEDIR an empty directory.
pub fn unlinkat(dir: RawFd, name: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: the name is a valid C string.
    check(unsafe { libc::unlinkat(dir, name.as_ptr(), flags) }).map(drop)
}

/// Opens a path relative to a directory.
pub fn openat(dir: RawFd, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: the path is a valid C string; the new descriptor is owned by nobody else.
    unsafe { check(libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// A C string of a path; a NUL inside is EINVAL.
pub fn c_path(path: &[u8]) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Closes the descriptors from `first` to `last`.
fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: callers use none of these descriptors afterwards.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    // A kernel before 5.9.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid to write to; closing a descriptor that is not open does nothing.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let limit = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
        for fd in first..=last.min(limit) {
            libc::close(fd);
        }
    }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: RawFd) {
    close_range(first, RawFd::MAX);
}

/// Closes every descriptor above the standard streams but these two (which may be one).
pub fn close_all_but(a: RawFd, b: RawFd) {
    let (low, high) = (a.min(b), a.max(b));
    close_range(3, low - 1);
    close_range(low + 1, high - 1);
    close_range(high + 1, RawFd::MAX);
}

/// Makes `to` a copy of `from`, not close-on-exec.
pub fn dup2(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: plain integers; the caller owns `to`.
    check(unsafe { libc::dup2(from, to) }).map(drop)
}

/// Waits for descriptors; None waits for ever. An interruption counts as nothing happened.
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up: a deadline must have passed when poll comes back for it.
    let millis = match timeout {
        None => -1,
        Some(timeout) => i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX),
    };
    // SAFETY: the slice is valid for its own length.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Gives every signal its default action, whatever the engine left behind, but ignores SIGPIPE. Commands inherit what
/// is ignored here, except SIGPIPE, which they get back.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        let action = if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        let action = KernelSigaction { handler: action, flags: 0, restorer: 0, mask: 0 };
        // SAFETY: the raw call, since the C library keeps two signals to itself; the layout is the kernel's, and there
        // is no handler to be wrong about. Those that can not be changed say so and stay.
        unsafe {
            let size = std::mem::size_of::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, std::ptr::null::<u8>(), size);
        }
    }
}

/// `struct sigaction` as the kernel has it.
#[repr(C)]
struct KernelSigaction {
    handler: libc::sighandler_t,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Blocks every signal and gives a descriptor that reports the chosen ones.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised before use; the new descriptor is owned by nobody else.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        check(libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()))?;
        let mut wanted = std::mem::zeroed();
        libc::sigemptyset(&mut wanted);
        for signal in signals {
            libc::sigaddset(&mut wanted, *signal);
        }
        let fd = check(libc::signalfd(-1, &wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The next signal that a `signal_fd` holds: its number and its sender's pid (0 from outside the namespace).
pub fn next_signal(fd: BorrowedFd) -> Option<(i32, u32)> {
    let mut bytes = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
    if read(fd.as_raw_fd(), &mut bytes).ok()? != bytes.len() {
        return None;
    }
    // SAFETY: the kernel filled a whole siginfo, which is plain integers; the read is unaligned.
    let info = unsafe { bytes.as_ptr().cast::<libc::signalfd_siginfo>().read_unaligned() };
    Some((info.ssi_signo as i32, info.ssi_pid))
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

/// What a wait for any child gave.
pub enum Waited {
    /// This child ended.
    Ended(libc::pid_t, Status),
    /// There are children, none has ended.
    Running,
    /// There are no children.
    None,
}

/// Reaps one child without waiting.
pub fn wait_any() -> Waited {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid to write to.
        match check(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }) {
            Ok(0) => return Waited::Running,
            Ok(pid) if libc::WIFEXITED(status) => return Waited::Ended(pid, Status::Exited(libc::WEXITSTATUS(status))),
            Ok(pid) => return Waited::Ended(pid, Status::Signaled(libc::WTERMSIG(status))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Waited::None,
        }
    }
}

/// Sends a signal; a target that is gone is no error worth telling.
pub fn kill(pid: libc::pid_t, signal: i32) {
    // SAFETY: plain integers.
    unsafe { libc::kill(pid, signal) };
}

/// `prctl` with one argument.
pub fn prctl(option: i32, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only options that take an integer are used.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) }).map(drop)
}
