//! Whether the kernel killed something of the sandbox for memory.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys;

/// Where the counter is inside a container: cgroup v2, then v1.
const COUNTER_FILES: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];

/// Opens the counter once, so that each command costs one read. None where it can not be read.
pub fn open_counter() -> Option<OwnedFd> {
    COUNTER_FILES.iter().find_map(|path| {
        let file = OwnedFd::from(File::open(path).ok()?);
        read_counter(file.as_raw_fd()).map(|_| file)
    })
}

/// The counter as it was when a command began.
pub struct OomWatch {
    counter: Option<RawFd>,
    before: Option<u64>,
}

impl OomWatch {
    /// To be called before the command is forked.
    pub fn begin(counter: Option<RawFd>) -> Self {
        Self { counter, before: counter.and_then(read_counter) }
    }

    /// Whether the kernel killed something of the sandbox since. Unreadable: no, nothing is claimed.
    pub fn has_risen(&self) -> bool {
        matches!((self.before, self.counter.and_then(read_counter)), (Some(before), Some(now)) if now > before)
    }
}

fn read_counter(fd: RawFd) -> Option<u64> {
    let mut buffer = [0; 512];
    let length = sys::pread(fd, &mut buffer, 0).ok()?;
    parse(std::str::from_utf8(&buffer[..length]).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        assert_eq!(parse("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
