//! System calls of a running process, counted by strace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::processes::{self, wait_for};

/// An strace that has attached itself to every thread of a process.
pub struct Trace {
    child: Child,
    prefix: PathBuf,
}

/// How often each system call was made.
pub type Counts = BTreeMap<String, u64>;

/// One traced process or thread: its pid, and its calls in order.
#[derive(Debug)]
pub struct Traced {
    /// Its id.
    pub pid: i32,
    /// Names of its calls, with what stands behind them.
    pub calls: Vec<String>,
}

impl Trace {
    /// Attaches to a process and whatever it forks from now on. `only` names the calls, all if none.
    pub fn attach(pid: i32, directory: &Path, only: Option<&str>) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let prefix = directory.join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-ff", "-q", "-o"]).arg(&prefix).args(["-p", &pid.to_string()]);
        if let Some(only) = only {
            command.args(["-e", &format!("trace={only}")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("strace does not start")?;
        let trace = Self { child, prefix };
        wait_for("strace to be attached", || Ok(threads(pid)?.into_iter().all(|thread| is_traced(pid, thread))))?;
        Ok(trace)
    }

    /// Lets go of the process and gives what was seen.
    pub fn finish(mut self) -> Result<Vec<Traced>> {
        processes::signal(self.child.id() as i32, Signal::INT)?;
        self.child.wait()?;
        let directory = self.prefix.parent().context("no directory")?.to_owned();
        let mut traced = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let Some(pid) = path.extension().and_then(|pid| pid.to_str()).and_then(|pid| pid.parse().ok()) else {
                continue;
            };
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let calls = text.lines().filter(|line| is_call(line)).map(str::to_owned).collect();
            traced.push(Traced { pid, calls });
        }
        fs::remove_dir_all(&directory)?;
        if traced.is_empty() {
            bail!("strace saw nothing");
        }
        Ok(traced)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Ended already where `finish` was called.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none())
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("error: strace can not be ended: {error}");
        }
    }
}

/// The name of a call.
pub fn name(call: &str) -> &str {
    call.split('(').next().unwrap_or_default()
}

/// How often each is made.
pub fn count<'a>(calls: impl IntoIterator<Item = &'a String>) -> Counts {
    let mut counts = Counts::new();
    for call in calls {
        *counts.entry(name(call).to_owned()).or_default() += 1;
    }
    counts
}

/// A finished call, or one that began and was cut off at the end; what the kernel says between them is none.
fn is_call(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_lowercase() || first == '_') && line.contains('(')
}

fn threads(pid: i32) -> Result<Vec<i32>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect())
}

fn is_traced(pid: i32, thread: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/task/{thread}/status"))
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_name() {
        let lines = [
            "read(3, \"a\", 1) = 1",
            "--- SIGCHLD {si_signo=SIGCHLD} ---",
            "+++ exited with 0 +++",
            "read(3, \"\", 1) = 0",
            "close(3) = 0",
        ];
        let calls: Vec<_> = lines.iter().filter(|line| is_call(line)).map(|line| (*line).to_owned()).collect();
        let counts = count(&calls);
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("close".to_owned(), 1), ("read".to_owned(), 2)]);
    }
}
