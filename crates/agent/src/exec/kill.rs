//! The end of everything that a command started.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use crate::sys::{self, Status, Waited};

/// Passes over /proc in one round of stopping. A pass that still finds new ones after so many has met something
/// that forks faster than it is stopped; killing what is stopped thins it out, and the next round goes on.
const STOP_PASSES_MAX: usize = 32;

/// How long the killed may take to be reaped before they are looked for again.
const REAP_WAIT: Duration = Duration::from_millis(20);

/// Reaps the supervisor's children and remembers how the first process of the command ended.
pub struct Reaper {
    first: libc::pid_t,
    signals: OwnedFd,
    /// How the first process ended, as waitpid said it.
    pub first_status: Option<Status>,
}

/// Whether a supervisor has children left. None left means that nothing of the command is left, since every orphan
/// comes to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Some are left.
    Some,
    /// The kernel said ECHILD.
    None,
}

impl Reaper {
    /// For the command whose first process is `first`; `signals` reports SIGCHLD.
    pub fn new(first: libc::pid_t, signals: OwnedFd) -> Self {
        Self { first, signals, first_status: None }
    }

    /// The descriptor that is readable when a child has ended.
    pub fn fd(&self) -> i32 {
        self.signals.as_raw_fd()
    }

    /// Reaps whatever has ended.
    pub fn reap(&mut self) -> Left {
        while sys::next_signal(self.signals.as_fd()).is_some() {}
        loop {
            match sys::wait_any() {
                Waited::Ended(pid, status) if pid == self.first => self.first_status = Some(status),
                Waited::Ended(..) => {}
                Waited::Running => return Left::Some,
                Waited::None => return Left::None,
            }
        }
    }

    /// Sends a signal to the group of the first process.
    pub fn signal_first(&self, signal: i32) {
        // Its pid is not given to anybody else before it is reaped.
        if self.first_status.is_none() {
            sys::kill(-self.first, signal);
        }
    }

    /// Kills every descendant, and comes back when none is left.
    pub fn kill_all(&mut self) {
        while self.reap() == Left::Some {
            // Stopped first, all of them: a process that is killed while its parent runs is soon replaced.
            let mut stopped = BTreeSet::new();
            for _ in 0..STOP_PASSES_MAX {
                let fresh: Vec<_> = descendants().into_iter().filter(|pid| !stopped.contains(pid)).collect();
                if fresh.is_empty() {
                    break;
                }
                for pid in fresh {
                    sys::kill(pid, libc::SIGSTOP);
                    stopped.insert(pid);
                }
                self.reap();
            }
            for pid in stopped {
                sys::kill(pid, libc::SIGKILL);
            }
            while self.reap() == Left::Some {
                let mut fds = [libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 }];
                let waited = sys::poll(&mut fds, Some(REAP_WAIT));
                if waited.is_err() || fds[0].revents == 0 {
                    break;
                }
            }
        }
    }
}

/// All living descendants of this process, as one pass over /proc shows them.
fn descendants() -> Vec<libc::pid_t> {
    let mut children: BTreeMap<libc::pid_t, Vec<(libc::pid_t, bool)>> = BTreeMap::new();
    let Ok(proc_dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    for entry in proc_dir.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some((parent, zombie)) = parent_of(pid) {
            children.entry(parent).or_default().push((pid, zombie));
        }
    }
    let mut found = Vec::new();
    // SAFETY: getpid can not fail.
    let mut open = vec![unsafe { libc::getpid() }];
    while let Some(pid) = open.pop() {
        for (child, zombie) in children.remove(&pid).unwrap_or_default() {
            open.push(child);
            if !zombie {
                found.push(child);
            }
        }
    }
    found
}

fn parent_of(pid: libc::pid_t) -> Option<(libc::pid_t, bool)> {
    let path = CString::new(format!("/proc/{pid}/stat")).ok()?;
    let file = sys::openat(libc::AT_FDCWD, &path, libc::O_RDONLY, 0).ok()?;
    let mut buffer = [0; 256];
    let length = sys::read(file.as_raw_fd(), &mut buffer).ok()?;
    parse_stat(&buffer[..length])
}

/// `pid (name) state ppid ...`; the name may hold anything, also parentheses.
fn parse_stat(stat: &[u8]) -> Option<(libc::pid_t, bool)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[after_name + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((parent, matches!(state, "Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_forge_its_parent() {
        assert_eq!(parse_stat(b"12 (sh) S 7 12 12 0"), Some((7, false)));
        assert_eq!(parse_stat(b"12 (a) Z 99 () S 7 12"), Some((7, false)));
        assert_eq!(parse_stat(b"12 (\xff\xfe) Z 7 12"), Some((7, true)));
        assert_eq!(parse_stat(b"12 (sh"), None);
    }
}
