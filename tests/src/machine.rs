//! What a host holds of one node, as podman and the kernel show it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hosts::Host;
use serde::{Deserialize, Serialize};

use crate::agent_state::{self, AgentState};
use crate::engine::{Container, containers_of};
use crate::identity::Identity;

/// The program that looks at a host from within, beside the tests.
const LOOKER: &str = "warren-held";

/// Everything of one node at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Held {
    /// Containers by sandbox.
    pub containers: BTreeMap<String, Container>,
    /// What the agents of running containers say.
    pub agents: BTreeMap<String, Result<AgentState, String>>,
    /// Sandboxes with a mount in the run directory.
    pub mounts: BTreeSet<String>,
    /// Sandboxes with a directory in the run directory.
    pub directories: BTreeSet<String>,
    /// Podman's ids of containers with a cgroup.
    pub cgroups: BTreeSet<String>,
    /// Processes in the node's cgroup or with its run directory among their arguments, the node itself and its
    /// podman service left out: pid, container, program.
    pub processes: Vec<Process>,
    /// Containers of the cluster in the same store that are another host's.
    pub others: Vec<String>,
}

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Its pid on the host.
    pub pid: u32,
    /// Podman's id of the container that it belongs to, where one is named.
    pub container: Option<String>,
    /// Its command line.
    pub command: String,
}

impl Held {
    /// Looks at this host, which others may use too.
    #[must_use]
    pub fn by(identity: &Identity, run_dir: &Path) -> Self {
        Self::look(identity, run_dir, false)
    }

    /// Looks at this host, where nobody else is: whatever runs here counts.
    #[must_use]
    pub fn by_whole_host(identity: &Identity, run_dir: &Path) -> Self {
        Self::look(identity, run_dir, true)
    }

    fn look(identity: &Identity, run_dir: &Path, whole_host: bool) -> Self {
        let (own, others): (Vec<_>, Vec<_>) =
            containers_of(&identity.cluster).into_iter().partition(|container| container.host == identity.host);
        let containers: BTreeMap<_, _> =
            own.into_iter().map(|container| (container.sandbox.clone(), container)).collect();
        let sandboxes = run_dir.join("sandboxes");
        let agents = containers
            .values()
            .filter(|container| container.running)
            .map(|container| {
                let state = agent_state::ask(&sandboxes.join(&container.sandbox).join("sock"));
                (container.sandbox.clone(), state.map_err(|error| error.to_string()))
            })
            .collect();
        Self {
            agents,
            mounts: mounts_below(&sandboxes).iter().filter_map(|point| first_below(point, &sandboxes)).collect(),
            directories: entries(&sandboxes).filter_map(|path| first_below(&path, &sandboxes)).collect(),
            cgroups: containers_with_cgroup(identity),
            processes: processes_of(identity, run_dir, whole_host),
            others: others.into_iter().map(|container| container.sandbox).collect(),
            containers,
        }
    }

    /// What is in the container with this mount namespace is this sandbox's: one that was placed again has another's
    /// slot.
    pub(crate) fn rename(&mut self, mount_namespace: &str, sandbox: &str) {
        let is_it = |container: &&Container| container.mount_namespace.as_deref() == Some(mount_namespace);
        let Some(slot) = self.containers.values().find(is_it).map(|container| container.sandbox.clone()) else {
            return;
        };
        if let Some(container) = self.containers.remove(&slot) {
            self.containers.insert(sandbox.to_owned(), container);
        }
        if let Some(state) = self.agents.remove(&slot) {
            self.agents.insert(sandbox.to_owned(), state);
        }
        for those in [&mut self.mounts, &mut self.directories] {
            if those.remove(&slot) {
                those.insert(sandbox.to_owned());
            }
        }
    }

    /// Looks at a host of namespaces, from within: pids are the host's.
    ///
    /// # Panics
    /// It can not be looked at.
    #[must_use]
    pub fn on(host: &Host, data_dir: &Path, run_dir: &Path) -> Self {
        let tests = std::env::current_exe().expect("a test has a file");
        let looker = tests.ancestors().skip(1).map(|directory| directory.join(LOOKER)).find(|file| file.is_file());
        let looker = looker.unwrap_or_else(|| panic!("{LOOKER} is not built"));
        let said = host.says(Command::new(looker).arg(data_dir).arg(run_dir));
        let said = said.unwrap_or_else(|error| panic!("the host can not be looked at: {error:#}"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{LOOKER} says {said}: {error}"))
    }

    /// What does not fit together, in words: each sandbox in `placed` has its container and `pool` pristine slots
    /// stand beside them, each with directory, mount, cgroup and agent, and there is nothing else.
    #[must_use]
    pub fn differences(&self, placed: &BTreeSet<String>, pool: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        let here: BTreeSet<String> = self.containers.keys().cloned().collect();
        wrong.extend(placed.difference(&here).map(|id| format!("sandbox {id} has no container")));
        let slots: BTreeSet<&String> = here.difference(placed).collect();
        if slots.len() != pool {
            wrong.push(format!("{} containers beside the sandboxes, not {pool}: {slots:?}", slots.len()));
        }
        // After a reboot of its host, one that does not run gets both at its start.
        let needs = |id: &&String| self.containers.get(*id).is_some_and(|container| container.running);
        for (what, those) in [("mount", &self.mounts), ("directory", &self.directories)] {
            let missing = here.difference(those).filter(needs);
            wrong.extend(missing.map(|id| format!("container {id} has no {what}")));
            wrong.extend(those.difference(&here).map(|id| format!("{what} of {id}, which has no container")));
        }
        for id in slots {
            match self.agents.get(id) {
                Some(Ok(AgentState::Bare)) => {}
                other => wrong.push(format!("slot {id} is not pristine: {other:?}")),
            }
        }
        for id in placed {
            match self.agents.get(id) {
                None | Some(Ok(AgentState::Active)) => {}
                other => wrong.push(format!("sandbox {id} does not serve: {other:?}")),
            }
        }
        let running: BTreeSet<&String> =
            self.containers.values().filter(|container| container.running).map(|container| &container.id).collect();
        let with_cgroup: BTreeSet<&String> = self.cgroups.iter().collect();
        wrong.extend(running.difference(&with_cgroup).map(|id| format!("container {id} has no cgroup")));
        wrong.extend(with_cgroup.difference(&running).map(|id| format!("cgroup of {id}, which does not run")));
        for process in &self.processes {
            if !process.container.as_ref().is_some_and(|id| running.contains(id)) {
                wrong.push(format!("process {} of no running container: {}", process.pid, process.command));
            }
        }
        wrong
    }

    /// Slots whose agents were prepared for a sandbox.
    #[must_use]
    pub fn prepared(&self) -> Vec<String> {
        let prepared = self.agents.iter().filter(|(_, state)| **state == Ok(AgentState::Prepared));
        prepared.map(|(id, _)| id.clone()).collect()
    }

    /// Processes of one sandbox's container, conmon left out.
    #[must_use]
    pub fn processes_of(&self, sandbox: &str) -> Vec<&Process> {
        let Some(container) = self.containers.get(sandbox) else { return Vec::new() };
        let of_it = |process: &&Process| {
            process.container.as_ref() == Some(&container.id) && !process.command.contains("conmon")
        };
        self.processes.iter().filter(of_it).collect()
    }
}

/// Mount points below a directory.
#[must_use]
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// The node's cgroup in each hierarchy that has one.
#[must_use]
pub fn cgroup_roots(identity: &Identity) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots: Vec<PathBuf> = entries(root).map(|hierarchy| hierarchy.join(identity.cgroup())).collect();
    roots.push(root.join(identity.cgroup()));
    roots.retain(|root| root.is_dir());
    roots.sort();
    // The v1 hierarchies of one mount have several names.
    roots.dedup_by_key(|root| fs::canonicalize(&*root).unwrap_or_else(|_| root.clone()));
    roots
}

/// Podman's ids of the containers that have a cgroup below the node's.
#[must_use]
pub fn containers_with_cgroup(identity: &Identity) -> BTreeSet<String> {
    let directories = cgroup_roots(identity).into_iter().flat_map(|root| entries(&root));
    let names = directories.filter_map(|path| path.file_name()?.to_str()?.strip_prefix("libpod-").map(str::to_owned));
    // Conmon has a cgroup of its own.
    names.filter(|name| is_container_id(name)).collect()
}

/// The content of a file of a running container's cgroup, by its names on version 1 and 2.
#[must_use]
pub fn cgroup_value(identity: &Identity, container: &str, names: &[&str]) -> Option<String> {
    let directories = cgroup_roots(identity).into_iter().map(|root| root.join(format!("libpod-{container}")));
    directories
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
        .find_map(|file| fs::read_to_string(file).ok())
        .map(|text| text.trim().to_owned())
}

/// All live processes whose arguments hold this text, with their arguments.
#[must_use]
pub fn processes_that_name(text: &str) -> Vec<(u32, String)> {
    let all = pids().map(|pid| (pid, command_line(pid)));
    all.filter(|(pid, command)| *pid != std::process::id() && command.contains(text)).collect()
}

/// Whether a process lives; one that only waits to be reaped does not.
#[must_use]
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

fn processes_of(identity: &Identity, run_dir: &Path, whole_host: bool) -> Vec<Process> {
    let run_dir = run_dir.display().to_string();
    let cgroup = format!("/{}/", identity.cgroup());
    let mut found = Vec::new();
    for pid in pids().filter(|pid| *pid != std::process::id()) {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let command = command_line(pid);
        // The first one of a host of namespaces only holds it.
        let ours = groups.contains(&cgroup) || command.contains(&run_dir) || (whole_host && pid != 1);
        if !ours || !lives(pid) || command.contains("system service") || is_node(&command) {
            continue;
        }
        let container = groups
            .split("libpod-")
            .nth(1)
            .map(|rest| rest.split(['/', '\n', '.']).next().unwrap_or_default().to_owned())
            .filter(|id| id.len() == 64)
            .or_else(|| command.split_whitespace().find(|word| is_container_id(word)).map(str::to_owned));
        found.push(Process { pid, container, command });
    }
    found
}

fn is_node(command: &str) -> bool {
    command.contains(" node ") && command.contains("--run-dir")
}

fn is_container_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn pids() -> impl Iterator<Item = u32> {
    entries(Path::new("/proc")).filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The name of the first directory below another, on the way to a path.
fn first_below(path: &Path, directory: &Path) -> Option<String> {
    Some(path.strip_prefix(directory).ok()?.iter().next()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(letter: char) -> String {
        letter.to_string().repeat(64)
    }

    /// A sandbox `a` and a slot `b`, with all that belongs to them.
    fn in_order() -> Held {
        let names = || ["a".to_owned(), "b".to_owned()];
        let container = |name: &str, letter| Container {
            id: id(letter),
            sandbox: name.to_owned(),
            host: "here".to_owned(),
            running: true,
            pid: 1,
            mount_namespace: None,
        };
        Held {
            containers: [("a".to_owned(), container("a", '1')), ("b".to_owned(), container("b", '2'))].into(),
            agents: [("a".to_owned(), Ok(AgentState::Active)), ("b".to_owned(), Ok(AgentState::Bare))].into(),
            mounts: names().into(),
            directories: names().into(),
            cgroups: [id('1'), id('2')].into(),
            processes: vec![Process { pid: 5, container: Some(id('1')), command: "agent".to_owned() }],
            others: Vec::new(),
        }
    }

    /// Names a change, and makes it.
    type Plant = (&'static str, fn(&mut Held));

    #[test]
    fn whatever_does_not_fit_is_named() {
        let placed = BTreeSet::from(["a".to_owned()]);
        assert_eq!(in_order().differences(&placed, 1), Vec::<String>::new());
        assert!(!in_order().differences(&placed, 2).is_empty(), "a slot is missing");
        assert!(!in_order().differences(&BTreeSet::new(), 2).is_empty(), "a sandbox is taken for a slot");
        let plants: &[Plant] = &[
            ("lost container", |held| drop(held.containers.remove("a"))),
            ("orphan mount", |held| assert!(held.mounts.insert("c".to_owned()))),
            ("lost mount", |held| assert!(held.mounts.remove("b"))),
            ("orphan directory", |held| assert!(held.directories.insert("c".to_owned()))),
            ("orphan cgroup", |held| assert!(held.cgroups.insert(id('9')))),
            ("orphan process", |held| held.processes[0].container = Some(id('9'))),
            ("nobody's process", |held| held.processes[0].container = None),
            ("prepared slot", |held| drop(held.agents.insert("b".to_owned(), Ok(AgentState::Prepared)))),
            ("used slot", |held| drop(held.agents.insert("b".to_owned(), Ok(AgentState::Active)))),
            ("silent slot", |held| drop(held.agents.insert("b".to_owned(), Err("silent".to_owned())))),
            ("bare sandbox", |held| drop(held.agents.insert("a".to_owned(), Ok(AgentState::Bare)))),
        ];
        for (name, plant) in plants {
            let mut held = in_order();
            plant(&mut held);
            assert!(!held.differences(&placed, 1).is_empty(), "{name} was not noticed");
        }
    }
}
