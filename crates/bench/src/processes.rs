//! What /proc says of processes: their arguments, their memory, their context switches.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// How often a condition is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long it may take until a condition holds.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A process as it was seen.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its program and arguments.
    pub arguments: Vec<String>,
}

/// Memory of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    /// Its part of everything mapped, in KiB.
    pub pss: u64,
    /// Everything that it has mapped, in KiB.
    pub rss: u64,
    /// What only it has and has written to, in KiB.
    pub private_dirty: u64,
}

/// Every process whose arguments are as asked.
pub fn find(mut wanted: impl FnMut(&[String]) -> bool) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone since: it has no arguments.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let arguments: Vec<_> =
            line.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
        if wanted(&arguments) {
            found.push(Process { pid, arguments });
        }
    }
    Ok(found)
}

/// Every process that names this container.
pub fn of_container(container: &str) -> Result<Vec<Process>> {
    find(|arguments| arguments.iter().any(|argument| argument.contains(container)))
}

/// Waits until no process names this container any more.
pub fn wait_until_gone(container: &str) -> Result<()> {
    wait_for("a container's processes to be gone", || Ok(of_container(container)?.is_empty()))
}

/// Waits until the engine does not tidy up after a command of this container any more.
pub fn wait_until_tidy(container: &str) -> Result<()> {
    wait_for("the engine to have tidied up", || {
        Ok(of_container(container)?.iter().all(|process| {
            !process.arguments.iter().any(|argument| argument == "cleanup")
            // A monitor carries its clean-up's arguments among its own.
            || process.arguments[0].ends_with("conmon")
        }))
    })
}

/// Waits until a condition holds.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("waited {} s in vain for {what}", SETTLE_TIMEOUT.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("no pid")?;
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("cannot signal"),
    }
}

/// What a process holds of memory.
pub fn memory(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    };
    Ok(Memory { pss: field("Pss:")?, rss: field("Rss:")?, private_dirty: field("Private_Dirty:")? })
}

/// Context switches of all threads of a process so far.
pub fn context_switches(pid: i32) -> Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status: PathBuf = task?.path().join("status");
        let text = fs::read_to_string(status)?;
        let numbers = text.lines().filter(|line| line.contains("ctxt_switches")).filter_map(|line| {
            line.rsplit_once(char::is_whitespace).and_then(|(_, number)| number.parse::<u64>().ok())
        });
        total += numbers.sum::<u64>();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_measured() {
        let own = std::process::id() as i32;
        let name = std::env::args().next().unwrap();
        assert!(of_container(&name).unwrap().iter().any(|process| process.pid == own));
        assert!(find(|_| false).unwrap().is_empty());
        assert!(memory(own).unwrap().rss > 100);
        context_switches(own).unwrap();
    }
}
