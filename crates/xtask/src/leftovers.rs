//! What a node or a test run has left on the host: containers, processes, mounts, namespaces, cgroups, loop devices.
//!
//! A node is known by its run and data directories, so that another node on the same host is never accused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// What the engine and the kernel may still be tidying after a node's end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Every label of a node or a test starts with this.
const LABEL_PREFIX: &str = "warren.";
/// Characters of a command line that are shown.
const COMMAND_LINE_SHOWN: usize = 120;
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Cgroups of ours, right below a hierarchy, start with this.
const CGROUP_PREFIX: &str = "warren";

/// Watches one node by the directories that only it uses.
pub struct Watch {
    directories: Vec<PathBuf>,
    cgroups_before: BTreeSet<PathBuf>,
    containers: BTreeMap<String, Seen>,
}

/// One container of the node while it ran.
#[derive(Default)]
struct Seen {
    name: String,
    /// Process ids with their start times, since ids are given again.
    processes: Vec<(u32, u64)>,
    network_namespace: Option<u64>,
    /// Names right below a hierarchy that the container's cgroups are under.
    cgroup_parents: BTreeSet<String>,
}

impl Watch {
    /// Begins before the node starts.
    pub fn begin(directories: &[&Path]) -> Result<Watch> {
        Ok(Watch {
            directories: directories.iter().map(|directory| directory.to_path_buf()).collect(),
            cgroups_before: cgroups()?,
            containers: BTreeMap::new(),
        })
    }

    /// Notes the containers that the node has now, and returns how many it has had.
    pub fn record(&mut self) -> Result<usize> {
        for container in self.containers_of_node()? {
            let seen = Seen {
                name: container["Name"].as_str().unwrap_or_default().to_owned(),
                processes: ["Pid", "ConmonPid"]
                    .into_iter()
                    .filter_map(|field| container["State"][field].as_u64())
                    .filter_map(|pid| u32::try_from(pid).ok())
                    .filter_map(|pid| Some((pid, start_time(pid)?)))
                    .collect(),
                network_namespace: container["State"]["Pid"].as_u64().and_then(network_namespace),
                cgroup_parents: container["State"]["Pid"].as_u64().map(cgroup_parents).unwrap_or_default(),
            };
            let id = container["Id"].as_str().context("a container without an Id")?;
            self.containers.insert(id.to_owned(), seen);
        }
        Ok(self.containers.len())
    }

    /// What is left, in words; empty is what is wanted. Waits for what the kernel is still tidying.
    pub fn what_is_left(&mut self) -> Result<Vec<String>> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let left = self.look()?;
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn look(&mut self) -> Result<Vec<String>> {
        // Slots that were made after the last look count too.
        self.record()?;
        let mut left = Vec::new();
        let existing = containers()?;
        for (id, seen) in &self.containers {
            if existing.iter().any(|container| container.id == *id) {
                left.push(format!("container {} ({})", &id[..12], seen.name));
            }
            for (pid, started) in &seen.processes {
                if start_time(*pid) == Some(*started) {
                    left.push(format!("process {pid} of container {} ({})", &id[..12], program(*pid)));
                }
            }
        }
        left.extend(self.processes());
        left.extend(self.mounts()?);
        left.extend(self.loop_devices());
        left.extend(self.cgroups()?);
        left.sort();
        left.dedup();
        Ok(left)
    }

    fn containers_of_node(&self) -> Result<Vec<Value>> {
        let ids: Vec<String> = containers()?.into_iter().map(|container| container.id).collect();
        let mut own = Vec::new();
        for id in ids {
            // One at a time: a container that vanishes in between must not fail the others.
            let output = Command::new("podman").args(["inspect", "--type=container", &id]).output()?;
            if !output.status.success() {
                continue;
            }
            let answer: Value = serde_json::from_slice(&output.stdout).context("podman inspect is not JSON")?;
            let sources = answer[0]["Mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ours = |mount: &Value| mount["Source"].as_str().is_some_and(|source| self.is_inside(source));
            if sources.iter().any(ours) {
                own.push(answer[0].clone());
            }
        }
        Ok(own)
    }

    fn is_inside(&self, path: &str) -> bool {
        self.directories.iter().any(|directory| Path::new(path).starts_with(directory))
    }

    /// Whether a word of a command line names one of the directories or something below, as a path or as a URL.
    fn is_mentioned(&self, word: &str) -> bool {
        self.directories.iter().any(|directory| {
            let directory = directory.to_string_lossy();
            word.match_indices(&*directory).any(|(at, _)| {
                let next = word[at + directory.len()..].chars().next();
                next.is_none_or(|next| !next.is_ascii_alphanumeric() && !"-_.".contains(next))
            })
        })
    }

    fn processes(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in pids() {
            let line = command_line(pid);
            let named = line.iter().any(|word| self.is_mentioned(word) || self.containers.contains_key(word));
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if pid != std::process::id() && (named || self.containers.keys().any(|id| cgroups.contains(id.as_str()))) {
                let line: String = line.join(" ").chars().take(COMMAND_LINE_SHOWN).collect();
                left.push(format!("process {pid} ({line})"));
            }
        }
        left
    }

    fn mounts(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        let namespaces: BTreeSet<String> = self
            .containers
            .values()
            .filter_map(|seen| seen.network_namespace)
            .map(|inode| format!("net:[{inode}]"))
            .collect();
        let mut left = Vec::new();
        for (root, point) in parse_mounts(&text) {
            if self.is_inside(point) || self.containers.keys().any(|id| point.contains(id.as_str())) {
                left.push(format!("mount {point}"));
            }
            if namespaces.contains(root) {
                left.push(format!("network namespace {root}, held by {point}"));
            }
        }
        Ok(left)
    }

    fn loop_devices(&self) -> Vec<String> {
        let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
        devices
            .flatten()
            .filter_map(|device| {
                let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
                let name = device.file_name();
                self.is_inside(file.trim()).then(|| format!("loop device {} of {}", name.display(), file.trim()))
            })
            .collect()
    }

    fn cgroups(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let parents: BTreeSet<&String> = self.containers.values().flat_map(|seen| &seen.cgroup_parents).collect();
        for hierarchy in hierarchies()? {
            for parent in parents.iter().map(|name| hierarchy.join(name)).filter(|parent| parent.is_dir()) {
                if !self.cgroups_before.contains(&parent) {
                    left.push(format!("cgroup {}", parent.display()));
                }
                for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if entry.path().is_dir() && self.containers.keys().any(|id| name.contains(id.as_str())) {
                        left.push(format!("cgroup {}", entry.path().display()));
                    }
                }
            }
        }
        Ok(left)
    }
}

/// A container that bears a label of ours.
pub struct Labelled {
    pub id: String,
    pub name: String,
    pub labels: Vec<String>,
}

/// All containers, running or not, with a label that starts with `warren.`.
pub fn containers() -> Result<Vec<Labelled>> {
    let text = command::read(Command::new("podman").args(["ps", "--all", "--format", "json"]))?;
    parse_containers(&text)
}

fn parse_containers(text: &str) -> Result<Vec<Labelled>> {
    let list: Vec<Value> = if text.is_empty() { Vec::new() } else { serde_json::from_str(text)? };
    let mut found = Vec::new();
    for container in list {
        let labels: Vec<String> = container["Labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(LABEL_PREFIX))
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        if !labels.is_empty() {
            let id = container["Id"].as_str().context("a container without an Id")?.to_owned();
            let name = container["Names"][0].as_str().unwrap_or_default().to_owned();
            found.push(Labelled { id, name, labels });
        }
    }
    Ok(found)
}

/// Mount points below directories of ours, for a look before and after.
pub fn mount_points() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(parse_mounts(&text).filter(|(_, point)| point.contains("/warren")).map(|(_, point)| point.to_owned()).collect())
}

/// Live processes that run one of these files.
pub fn processes_of(files: &[&Path]) -> BTreeMap<u32, String> {
    let runs = |pid: &u32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        // A file that was built anew meanwhile is shown as deleted.
        let exe = exe.to_string_lossy();
        let exe = Path::new(exe.strip_suffix(" (deleted)").unwrap_or(&exe));
        files.contains(&exe)
    };
    pids().into_iter().filter(runs).map(|pid| (pid, program(pid))).collect()
}

/// Root and mount point of each line of mountinfo.
pub fn parse_mounts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.nth(3)?, fields.next()?))
    })
}

/// The cgroups of ours right below a hierarchy, for a look before and after.
pub fn cgroups() -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(CGROUP_PREFIX) && entry.path().is_dir() {
                found.insert(entry.path());
            }
        }
    }
    Ok(found)
}

/// The v2 tree itself, or each hierarchy of an older layout.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(CGROUP_ROOT);
    let mut found = vec![root.to_path_buf()];
    for entry in fs::read_dir(root).with_context(|| format!("cannot list {CGROUP_ROOT}"))? {
        found.push(entry?.path());
    }
    Ok(found)
}

/// First components of a process's cgroups, where they are ours.
fn cgroup_parents(pid: u64) -> BTreeSet<String> {
    parse_cgroup_parents(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default())
}

fn parse_cgroup_parents(text: &str) -> BTreeSet<String> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let names = paths.filter_map(|path| path.split('/').find(|name| !name.is_empty()));
    names.filter(|name| name.starts_with(CGROUP_PREFIX)).map(str::to_owned).collect()
}

/// All processes.
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What a process runs.
pub fn program(pid: u32) -> String {
    command_line(pid).first().cloned().unwrap_or_default()
}

/// Field 22 of /proc/<pid>/stat; `None` when it does not run.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold spaces and brackets; what follows its last bracket does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let zombie = fields.next()? == "Z";
    let started = fields.nth(18)?.parse().ok()?;
    (!zombie).then_some(started)
}

fn network_namespace(pid: u64) -> Option<u64> {
    let inode = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/net")).map(|metadata| metadata.ino()).ok();
    inode(&pid.to_string()).filter(|own| pid != 0 && Some(*own) != inode("self"))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn only_our_labels_count() {
        let text = r#"[{"Id":"a","Names":["x"],"Labels":{"warren.cluster":"c"}},
            {"Id":"b","Names":["y"],"Labels":{"io.warren.recipe":"r"}},{"Id":"c","Names":["z"],"Labels":null}]"#;
        let found = parse_containers(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id.as_str(), found[0].labels[0].as_str()), ("a", "warren.cluster=c"));
        assert!(parse_containers("").unwrap().is_empty());
    }

    #[test]
    fn a_mount_is_read_with_its_root() {
        let text =
            "36 35 0:4 net:[4026532] /run/netns/x rw - nsfs nsfs rw\n37 35 8:1 / /run/warren/a rw - tmpfs t rw\n";
        let mounts: Vec<_> = parse_mounts(text).collect();
        assert_eq!(mounts, [("net:[4026532]", "/run/netns/x"), ("/", "/run/warren/a")]);
    }

    #[test]
    fn a_live_process_that_names_the_directory_is_left_over_and_a_dead_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let watch = Watch {
            directories: vec![directory.path().to_path_buf()],
            cgroups_before: BTreeSet::new(),
            containers: BTreeMap::new(),
        };
        assert!(watch.processes().is_empty());
        // It waits for its standard input, and so never comes to what it names.
        let mut child = Command::new("cat").arg("-").arg(directory.path()).stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        // A parent may go on a moment before the kernel shows the new program's command line.
        while command_line(pid).is_empty() {
            std::thread::yield_now();
        }
        let left = watch.processes();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(left.iter().any(|line| line.starts_with(&format!("process {pid} (cat"))), "{left:?}");
        assert!(watch.processes().is_empty());
    }

    /// Ends what the test below has made, also when it fails.
    struct Planted {
        container: String,
        mount: PathBuf,
        cgroup: String,
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            let _ = Command::new("podman").args(["rm", "--force", "--time=0", &self.container]).output();
            let _ = Command::new("umount").arg(&self.mount).output();
            for hierarchy in hierarchies().unwrap() {
                // The holder of the container leaves its own a moment after the container is gone.
                let parent = hierarchy.join(&self.cgroup);
                let deadline = Instant::now() + SETTLE_TIMEOUT;
                while parent.is_dir() && Instant::now() < deadline {
                    let _ = fs::remove_dir(parent.join("conmon"));
                    let _ = fs::remove_dir(&parent);
                }
            }
        }
    }

    #[test]
    fn a_planted_container_is_found_with_all_that_belongs_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path().join("mount");
        fs::create_dir(&mount).unwrap();
        let mut watch = Watch::begin(&[directory.path()]).unwrap();
        let mut mounted = Command::new("mount");
        mounted.args(["-t", "tmpfs", "-o", "size=64k", "planted"]).arg(&mount);
        if let Err(error) = command::quiet(&mut mounted) {
            println!("SKIPPED a_planted_container_is_found: this user can not mount: {error}");
            return;
        }
        let cgroup = format!("warren-test-xtask-{}", std::process::id());
        let mut planted = Planted { container: String::new(), mount: mount.clone(), cgroup };
        let mut run = crate::image::podman().unwrap();
        run.args(["run", "--detach", "--network=none", "--label=warren.test=1", "--volume"]);
        run.arg(format!("{}:/mnt", mount.display())).arg(format!("--cgroup-parent=/{}", planted.cgroup));
        run.args([crate::image::BUSYBOX_IMAGE, "/bin/sleep", "1000"]);
        match command::read(&mut run) {
            Ok(id) => planted.container = id,
            Err(error) => {
                println!("SKIPPED a_planted_container_is_found: no container can be started here: {error}");
                return;
            }
        }
        assert_eq!(watch.record().unwrap(), 1);
        let left = watch.look().unwrap();
        let short = &planted.container[..12];
        for words in
            [format!("container {short}"), format!("mount {}", mount.display()), "process".into(), "cgroup".into()]
        {
            assert!(left.iter().any(|line| line.starts_with(&words)), "{words} is not in {left:?}");
        }
        drop(planted);
        assert_eq!(watch.what_is_left().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn cgroups_of_ours_are_known_by_their_first_component() {
        let text = "9:pids:/warren-a1/libpod-x\n1:name=systemd:/\n0::/warren-a1/libpod-x\n3:cpu:/user.slice/warren\n";
        assert_eq!(parse_cgroup_parents(text), BTreeSet::from(["warren-a1".to_owned()]));
    }

    #[test]
    fn start_time_tells_a_process_from_none() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn a_sibling_directory_is_not_inside() {
        let watch = Watch {
            directories: vec![PathBuf::from("/run/warren-a")],
            cgroups_before: BTreeSet::new(),
            containers: BTreeMap::new(),
        };
        assert!(watch.is_inside("/run/warren-a/x"));
        assert!(!watch.is_inside("/run/warren-ab/x"));
        assert!(watch.is_mentioned("unix:///run/warren-a/podman.sock"));
        assert!(watch.is_mentioned("--run-dir=/run/warren-a"));
        assert!(!watch.is_mentioned("unix:///run/warren-ab/podman.sock"));
    }
}
