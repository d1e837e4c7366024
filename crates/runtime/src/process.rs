//! A container's first process, held by a pidfd so that its number can never mean another.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A container's first process. It is PID 1 of the container's namespace: its death is the death of
/// every process in there.
#[derive(Debug)]
pub(crate) struct FirstProcess {
    pid: Pid,
    pidfd: OwnedFd,
}

impl FirstProcess {
    /// Takes hold of `pid` if it is the living first process of the container; `None` where it is
    /// not, since the engine may remember a number that the kernel has given to another since.
    pub(crate) fn open(pid: u32, container_id: &str) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let process = Self { pid: raw, pidfd };
        let ours = is_first_process_of(pid, container_id)?;
        // What was read from /proc is about our process only if that still lives.
        Ok((ours && process.is_alive()?).then_some(process))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn pid_signed(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        is_alive(&self.pidfd)
    }

    /// SIGKILL. That it is dead already is as good.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn death(&self) -> io::Result<Death> {
        // A descriptor of its own for each watcher: one descriptor can be registered only once.
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: an `OwnedFd` answers the same open descriptor for as long as it lives, and the
        // registration owns it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        Ok(Death { pidfd })
    }
}

/// The coming death of a sandbox: of its first process, and with it of all its processes.
#[derive(Debug)]
pub struct Death {
    pidfd: AsyncFd<OwnedFd>,
}

impl Death {
    /// Returns once every process of the sandbox is dead.
    pub async fn wait(self) -> io::Result<()> {
        loop {
            let mut guard = self.pidfd.readable().await?;
            if !is_alive(self.pidfd.get_ref())? {
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}

fn is_alive(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut poll = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(rustix::event::poll(&mut poll, Some(&at_once))? == 0)
}

fn is_first_process_of(pid: u32, container_id: &str) -> io::Result<bool> {
    let read = |file: &str| match fs::read_to_string(format!("/proc/{pid}/{file}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(no_such_process()) => {
            Ok(String::new())
        }
        other => other,
    };
    // Innermost namespace last.
    let first = read("status")?
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .is_some_and(|pids| pids.split_whitespace().count() > 1 && pids.split_whitespace().last() == Some("1"));
    Ok(first && read("cgroup")?.contains(container_id))
}

fn no_such_process() -> i32 {
    Errno::SRCH.raw_os_error()
}
