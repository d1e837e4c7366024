//! What three nodes leave: on their hosts when they have ended, and on this one when the hosts are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hosts::{Host, Machine};

use crate::leftovers;

/// What the engine and the kernel may still be tidying after a node's end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The namespaces that a host, or a container on it, has of its own.
const NAMESPACES: [&str; 6] = ["net", "mnt", "pid", "ipc", "uts", "cgroup"];

/// What was seen of the hosts while they ran.
pub struct Traces {
    machine: String,
    directories: BTreeSet<PathBuf>,
    /// With their start times, since ids are given again.
    processes: BTreeMap<u32, u64>,
    /// As the kernel writes them: `net:[4026532]`.
    namespaces: BTreeSet<String>,
    containers: BTreeSet<String>,
}

impl Traces {
    /// Begins with what the hosts are.
    pub fn begin(machine: &Machine) -> Result<Traces> {
        let mut traces = Traces {
            machine: machine.name().to_owned(),
            directories: machine.hosts().iter().map(|host| host.directory().to_owned()).collect(),
            processes: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            containers: BTreeSet::new(),
        };
        traces.record(machine)?;
        Ok(traces)
    }

    /// Notes what runs on the hosts now, and returns how many containers there have been.
    pub fn record(&mut self, machine: &Machine) -> Result<usize> {
        let own: BTreeSet<String> = namespaces("self").collect();
        for host in machine.hosts() {
            for pid in host.processes() {
                self.namespaces.extend(namespaces(&pid.to_string()).filter(|namespace| !own.contains(namespace)));
                self.processes.extend(leftovers::start_time(pid).map(|started| (pid, started)));
            }
            self.containers.extend(containers(&host)?);
        }
        Ok(self.containers.len())
    }

    /// How many namespaces there have been.
    pub fn namespace_count(&self) -> usize {
        self.namespaces.len()
    }

    /// What is left on the hosts, whose nodes have ended; empty is what is wanted.
    pub fn left_on_hosts(hosts: &[Host]) -> Result<Vec<String>> {
        settled(|| {
            let mut left = Vec::new();
            for host in hosts {
                let name = host.name();
                left.extend(containers(host)?.into_iter().map(|id| format!("container {id} on {name}")));
                let processes = host.processes().into_iter();
                left.extend(processes.map(|pid| format!("process {pid} ({}) on {name}", leftovers::program(pid))));
            }
            Ok(left)
        })
    }

    /// What is left on this host, where the others are gone; empty is what is wanted.
    pub fn left_here(&self) -> Result<Vec<String>> {
        settled(|| self.look_here())
    }

    fn look_here(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (pid, started) in &self.processes {
            if leftovers::start_time(*pid) == Some(*started) {
                left.push(format!("process {pid} ({})", leftovers::program(*pid)));
            }
        }
        for pid in leftovers::pids() {
            let held = namespaces(&pid.to_string()).filter(|namespace| self.namespaces.contains(namespace));
            left.extend(held.map(|namespace| format!("namespace {namespace} of process {pid}")));
        }
        left.extend(self.mounts()?);
        let ours = format!("warren-hosts.{}.", self.machine);
        let is_ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&ours));
        left.extend(
            leftovers::cgroups()?.iter().filter(|path| is_ours(path)).map(|p| format!("cgroup {}", p.display())),
        );
        let link = Path::new("/sys/class/net").join(format!("wh-{}", self.machine));
        let paths = self.directories.iter().map(PathBuf::as_path).chain([link.as_path()]);
        left.extend(paths.filter(|path| path.exists()).map(|path| path.display().to_string()));
        Ok(left)
    }

    fn mounts(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        let mut left = Vec::new();
        for (root, point) in leftovers::parse_mounts(&text) {
            let is_inside = |directory: &PathBuf| Path::new(point).starts_with(directory);
            if self.namespaces.contains(root) || self.directories.iter().any(is_inside) {
                left.push(format!("mount {point} of {root}"));
            }
        }
        Ok(left)
    }
}

/// Asks until nothing is left, or for as long as tidying may take.
fn settled(look: impl Fn() -> Result<Vec<String>>) -> Result<Vec<String>> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let left = look()?;
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn containers(host: &Host) -> Result<Vec<String>> {
    let ids = host.says(Command::new("podman").args(["ps", "--all", "--quiet", "--no-trunc"]))?;
    Ok(ids.lines().map(str::to_owned).collect())
}

fn namespaces(process: &str) -> impl Iterator<Item = String> + use<> {
    let directory = Path::new("/proc").join(process).join("ns");
    NAMESPACES.into_iter().filter_map(move |kind| {
        let target = fs::read_link(directory.join(kind)).ok()?;
        Some(target.to_string_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_left_and_what_is_gone_is_not() {
        let mut child = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
        let pid = child.id();
        let own: BTreeSet<String> = namespaces("self").collect();
        let fresh = || namespaces(&pid.to_string()).filter(|namespace| !own.contains(namespace)).collect();
        let mut namespaces: BTreeSet<String> = fresh();
        while namespaces.is_empty() || leftovers::program(pid) != "sleep" {
            std::thread::sleep(Duration::from_millis(1));
            namespaces = fresh();
        }
        let directory = tempfile::tempdir().unwrap();
        let traces = Traces {
            machine: "nosuchone".to_owned(),
            directories: [directory.path().to_owned()].into(),
            processes: leftovers::start_time(pid).map(|started| (pid, started)).into_iter().collect(),
            namespaces: namespaces.clone(),
            containers: BTreeSet::new(),
        };
        let mut left = Vec::new();
        let seen = traces.look_here();
        child.kill().unwrap();
        child.wait().unwrap();
        left.extend(seen.unwrap());
        let namespace = namespaces.first().unwrap();
        for wanted in [format!("process {pid} (sleep)"), format!("namespace {namespace} of process {pid}"), {
            directory.path().display().to_string()
        }] {
            assert!(left.contains(&wanted), "{wanted} is not in {left:?}");
        }
        directory.close().unwrap();
        let left = traces.left_here().unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}
