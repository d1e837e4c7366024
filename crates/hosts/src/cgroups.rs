//! The cgroups of a host: one tree in each hierarchy of the machine, which the host takes for the whole.
//!
//! Cgroup version 1, version 2 and machines that have both. By its name a tree is found again after its maker was
//! killed, and what is frozen in it can be thawed: a frozen process of version 1 does not die.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::mount::{MountFlags, UnmountFlags};

/// The processes that are started on a host are in this leaf: version 2 allows none in a cgroup with children.
const LEAF: &str = "init";
/// The kernel empties a cgroup a little after its last process is gone.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What version 1 shows among its options that is not the name of a controller.
const FLAGS: [&str; 8] = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none", "all"];

/// One cgroup hierarchy of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    mount: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// With the options that mount it.
    V1(String),
    V2,
}

/// A host's cgroups, by name. What is made of it lies with [`Entrance`].
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

/// The ways into a host's cgroups, opened from outside: from inside, a host that takes its tree for the whole may not
/// fetch processes.
#[derive(Debug)]
pub(crate) struct Entrance {
    roots: Vec<OwnedFd>,
    leaves: Vec<OwnedFd>,
}

impl Entrance {
    /// Moves the calling process to the root of each tree. For between fork and exec: it allocates nothing.
    pub(crate) fn enter_roots(&self) -> std::io::Result<()> {
        enter(&self.roots)
    }

    /// Moves the calling process to its place in each tree. For between fork and exec: it allocates nothing.
    pub(crate) fn enter(&self) -> std::io::Result<()> {
        enter(&self.leaves)
    }
}

fn enter(cgroups: &[OwnedFd]) -> std::io::Result<()> {
    for procs in cgroups {
        rustix::io::write(procs.as_fd(), b"0")?;
    }
    Ok(())
}

impl Cgroups {
    pub(crate) fn named(name: &str) -> Result<Cgroups> {
        Ok(Cgroups { name: name.to_owned(), hierarchies: hierarchies()? })
    }

    /// Makes the trees.
    pub(crate) fn make(&self) -> Result<Entrance> {
        let mut entrance = Entrance { roots: Vec::new(), leaves: Vec::new() };
        for hierarchy in &self.hierarchies {
            // Beside version 1 it has no controller that matters.
            if hierarchy.kind == Kind::V2 && self.hierarchies.len() == 1 {
                hand_down_controllers(&hierarchy.mount)?;
            }
            let root = hierarchy.mount.join(&self.name);
            entrance.roots.push(make(&root)?);
            entrance.leaves.push(make(&root.join(LEAF))?);
        }
        Ok(entrance)
    }

    /// In the mount and cgroup namespace of the host: puts its trees where the machine's stand.
    pub(crate) fn mount(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let point = &hierarchy.mount;
            // Taken away and not covered, since programs believe the first mount that they find in the list.
            rustix::mount::unmount(point, UnmountFlags::DETACH)
                .with_context(|| format!("cannot unmount {}", point.display()))?;
            let (kind, options) = match &hierarchy.kind {
                Kind::V1(options) => ("cgroup", Some(CString::new(options.as_str())?)),
                Kind::V2 => ("cgroup2", None),
            };
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount(kind, point, kind, flags, options.as_deref())
                .with_context(|| format!("cannot mount the cgroups on {}", point.display()))?;
        }
        Ok(())
    }

    /// All processes in the trees.
    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        let files = self.directories().into_iter().map(|directory| directory.join("cgroup.procs"));
        let texts = files.filter_map(|file| fs::read_to_string(file).ok());
        texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()).collect()
    }

    /// Thaws whatever is frozen.
    pub(crate) fn thaw(&self) -> Result<()> {
        for directory in self.directories() {
            for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let path = directory.join(file);
                match File::options().write(true).open(&path).and_then(|mut file| file.write_all(word.as_bytes())) {
                    // It may go away between the look and the write.
                    Err(error) if path.exists() => {
                        return Err(error).with_context(|| format!("cannot thaw {}", directory.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes the trees, whose processes are gone.
    pub(crate) fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_WITHIN;
        loop {
            let mut left = None;
            // The deepest first.
            for directory in self.directories().into_iter().rev() {
                match fs::remove_dir(&directory) {
                    Err(error) if error.kind() != ErrorKind::NotFound => left = Some((directory, error)),
                    _ => {}
                }
            }
            match left {
                None => return Ok(()),
                Some((directory, error)) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("cannot remove the cgroup {}", directory.display()));
                }
                Some(_) => std::thread::sleep(LOOK_INTERVAL),
            }
        }
    }

    /// Every directory of the trees, parents before children.
    fn directories(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        let roots = self.hierarchies.iter().map(|hierarchy| hierarchy.mount.join(&self.name));
        found.extend(roots.filter(|root| root.is_dir()));
        let mut next = 0;
        while next < found.len() {
            // One that vanishes meanwhile has no children.
            let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
            found.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
            next += 1;
        }
        found
    }
}

/// The names right below the hierarchies' roots that start so.
pub(crate) fn names_with_prefix(prefix: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for hierarchy in hierarchies()? {
        let entries = fs::read_dir(&hierarchy.mount).with_context(|| format!("no {}", hierarchy.mount.display()))?;
        let found = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.extend(found.filter(|name| name.starts_with(prefix)));
    }
    Ok(names)
}

/// Whether version 1 is in use, alone or beside version 2.
pub(crate) fn has_version_1() -> Result<bool> {
    Ok(hierarchies()?.iter().any(|hierarchy| hierarchy.kind != Kind::V2))
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let found: Vec<Hierarchy> = text.lines().filter_map(parse).collect();
    if found.is_empty() {
        bail!("this machine has no cgroups");
    }
    Ok(found)
}

fn parse(line: &str) -> Option<Hierarchy> {
    let (place, source) = line.split_once(" - ")?;
    let mount = PathBuf::from(place.split(' ').nth(4)?);
    let mut words = source.split(' ');
    let kind = match words.next()? {
        "cgroup2" => Kind::V2,
        "cgroup" => {
            let options = words.nth(1)?.split(',');
            let wanted = options.filter(|o| !FLAGS.contains(o) && (!o.contains('=') || o.starts_with("name=")));
            let options = wanted.collect::<Vec<_>>().join(",");
            Kind::V1(if options.starts_with("name=") { format!("none,{options}") } else { options })
        }
        _ => return None,
    };
    mount.starts_with("/sys/fs/cgroup").then_some(Hierarchy { mount, kind })
}

/// Makes one cgroup and opens the way into it.
fn make(directory: &Path) -> Result<OwnedFd> {
    fs::create_dir(directory).with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
    // A cpuset begins with nothing, and lets nobody in.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = directory.parent().ok_or_else(|| anyhow!("a cgroup without a parent"))?.join(file);
        if directory.join("tasks").exists() && parent.exists() {
            let value = fs::read_to_string(&parent).with_context(|| format!("cannot read {}", parent.display()))?;
            fs::write(directory.join(file), value.trim()).with_context(|| format!("cannot set {file}"))?;
        }
    }
    let procs = directory.join("cgroup.procs");
    Ok(File::options().write(true).open(&procs).with_context(|| format!("cannot open {}", procs.display()))?.into())
}

/// Gives the controllers of version 2 to the children of a cgroup. One that is not given is one that a host lacks,
/// as it would on a machine that does not have it.
fn hand_down_controllers(directory: &Path) -> Result<()> {
    let known = fs::read_to_string(directory.join("cgroup.controllers")).context("no cgroup.controllers")?;
    for controller in known.split_whitespace() {
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_from_the_list_of_mounts() {
        let cases = [
            ("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory", Some(Kind::V1("memory".to_owned()))),
            ("32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct", {
                Some(Kind::V1("cpu,cpuacct".to_owned()))
            }),
            ("40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/a,name=systemd", {
                Some(Kind::V1("none,name=systemd".to_owned()))
            }),
            ("41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate", Some(Kind::V2)),
            ("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755", None),
            ("41 31 0:38 / /elsewhere/cgroup rw - cgroup2 cgroup2 rw", None),
        ];
        for (line, kind) in cases {
            assert_eq!(parse(line).map(|hierarchy| hierarchy.kind), kind, "{line}");
        }
    }
}
