//! What shows on the machine that hosts are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hosts::{Host, Process, sweep};

/// The namespaces of hosts, by their inodes, and the machine's name.
pub struct Traces {
    machine: String,
    namespaces: BTreeSet<PathBuf>,
}

impl Traces {
    pub fn of(machine: &str) -> Traces {
        Traces { machine: machine.to_owned(), namespaces: BTreeSet::new() }
    }

    /// Remembers the namespaces of a host by those of a process that runs there.
    pub fn note(&mut self, host: &Host, process: &Process) {
        let own = namespaces("self");
        let there: BTreeSet<PathBuf> = namespaces(&process.id().to_string()).difference(&own).cloned().collect();
        assert_eq!(there.len(), 6, "{host:?} shares namespaces with us: {there:?}");
        self.namespaces.extend(there);
    }

    /// Everything that is left.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in pids() {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let there = namespaces(&pid).intersection(&self.namespaces).count();
            let here = cgroup.contains(&format!("/warren-hosts.{}.", self.machine));
            // The kernel gives the inodes of namespaces that are gone to those of the next machine.
            let of_another_machine = !here && cgroup.contains("/warren-hosts.");
            if here || (there > 0 && !of_another_machine) {
                let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                left.push(format!("process {pid} {}", command.replace('\0', " ")));
            }
        }
        if Path::new("/sys/class/net").join(format!("wh-{}", self.machine)).exists() {
            left.push(format!("link {}", self.machine));
        }
        let directory = Path::new("/var/lib/warren-hosts").join(&self.machine);
        if directory.exists() {
            left.push(format!("directory {}", directory.display()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let named = |line: &&str| line.contains(&format!("/{}/", self.machine)) || self.holds(line);
        left.extend(mounts.lines().filter(named).map(|line| format!("mount {line}")));
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for place in [hierarchy.path(), PathBuf::from("/sys/fs/cgroup")] {
                let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
                let start = format!("warren-hosts.{}.", self.machine);
                let ours = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start));
                left.extend(entries.filter(ours).map(|path| format!("cgroup {}", path.display())));
            }
        }
        left
    }

    /// Whether a line of the list of mounts holds one of the namespaces.
    fn holds(&self, line: &str) -> bool {
        self.namespaces.iter().any(|namespace| line.contains(&namespace.display().to_string()))
    }

    #[track_caller]
    pub fn assert_none(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

/// Sweeps also when the test fails.
pub struct Swept(pub String);

impl Drop for Swept {
    fn drop(&mut self) {
        if let Err(error) = sweep(&self.0) {
            eprintln!("error: {error:#}");
        }
    }
}

fn pids() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Inodes of the namespaces that a process is in.
fn namespaces(pid: &str) -> BTreeSet<PathBuf> {
    let kinds = ["mnt", "net", "uts", "ipc", "pid", "cgroup"];
    kinds.iter().filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()).collect()
}
