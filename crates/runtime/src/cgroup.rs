//! A sandbox's limits, written straight to its cgroup: microseconds, where the engine takes tens of
//! milliseconds. Version 1, version 2 and hosts that have both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use types::Resources;

/// Microseconds of the period that a cpu limit is counted in.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// The kernel refuses a smaller quota.
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// A limit could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{what} can not be limited")]
pub struct LimitError {
    /// Which limit.
    pub what: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// The cgroup directories of one container, found once.
#[derive(Debug, Clone)]
pub struct Cgroup {
    memory: Option<Place>,
    cpu: Option<Place>,
    pids: Option<Place>,
    freezer: Option<Place>,
}

#[derive(Debug, Clone)]
enum Place {
    V1(PathBuf),
    V2(PathBuf),
}

/// The microseconds of each period that a number of nano-cpus are worth.
pub(crate) fn cpu_quota_us(nano_cpus: u64) -> u64 {
    let quota = u128::from(nano_cpus) * u128::from(CPU_PERIOD_US) / 1_000_000_000;
    u64::try_from(quota).unwrap_or(u64::MAX).max(CPU_QUOTA_US_MIN)
}

impl Cgroup {
    /// The directories of the container that `pid` is the first process of.
    pub(crate) fn of(pid: u32, container_id: &str) -> io::Result<Self> {
        let mounts = Mount::all()?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let place = |controller: &str| Place::find(controller, &mounts, &groups, container_id);
        Ok(Self { memory: place("memory"), cpu: place("cpu"), pids: place("pids"), freezer: place("freezer") })
    }

    /// Sets all limits but the disk's, which is fixed when the container is made. What is 0 becomes
    /// unlimited. It writes a few files and does not wait, unless memory must be reclaimed first.
    pub fn set_limits(&self, resources: &Resources) -> Result<(), LimitError> {
        self.set_memory(resources.memory).map_err(|source| LimitError { what: "memory", source })?;
        self.set_cpu(resources.cpu).map_err(|source| LimitError { what: "cpu", source })?;
        self.set_pids(resources.pids).map_err(|source| LimitError { what: "processes", source })
    }

    fn set_memory(&self, bytes: u64) -> io::Result<()> {
        match &self.memory {
            None => missing("memory"),
            Some(Place::V1(directory)) => {
                let value = if bytes == 0 { "-1".to_owned() } else { bytes.to_string() };
                let limit = directory.join("memory.limit_in_bytes");
                let with_swap = directory.join("memory.memsw.limit_in_bytes");
                if !with_swap.exists() {
                    return write(&limit, &value);
                }
                // The kernel holds that memory is never above memory with swap, also in between.
                if bytes == 0 || bytes > read_number(&limit)? {
                    write(&with_swap, &value)?;
                    write(&limit, &value)
                } else {
                    write(&limit, &value)?;
                    write(&with_swap, &value)
                }
            }
            Some(Place::V2(directory)) => {
                let (memory, swap) = if bytes == 0 { ("max".to_owned(), "max") } else { (bytes.to_string(), "0") };
                write(&directory.join("memory.max"), &memory)?;
                // Absent where the kernel counts no swap.
                match write(&directory.join("memory.swap.max"), swap) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other,
                }
            }
        }
    }

    fn set_cpu(&self, nano_cpus: u64) -> io::Result<()> {
        match &self.cpu {
            None => missing("cpu"),
            Some(Place::V1(directory)) => {
                let quota = if nano_cpus == 0 { "-1".to_owned() } else { cpu_quota_us(nano_cpus).to_string() };
                write(&directory.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
                write(&directory.join("cpu.cfs_quota_us"), &quota)
            }
            Some(Place::V2(directory)) => {
                let quota = if nano_cpus == 0 { "max".to_owned() } else { cpu_quota_us(nano_cpus).to_string() };
                write(&directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))
            }
        }
    }

    fn set_pids(&self, count: u64) -> io::Result<()> {
        match &self.pids {
            None => missing("pids"),
            Some(Place::V1(directory) | Place::V2(directory)) => {
                let value = if count == 0 { "max".to_owned() } else { count.to_string() };
                write(&directory.join("pids.max"), &value)
            }
        }
    }

    /// Thaws the container. In version 1 what is frozen does not even die of SIGKILL.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        match &self.freezer {
            None => Ok(()),
            Some(Place::V1(directory)) => write(&directory.join("freezer.state"), "THAWED"),
            Some(Place::V2(directory)) => write(&directory.join("cgroup.freeze"), "0"),
        }
    }
}

impl Place {
    fn find(controller: &str, mounts: &[Mount], groups: &str, container_id: &str) -> Option<Self> {
        let v1 = mounts.iter().find(|mount| mount.controllers.iter().any(|name| name == controller));
        let group = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let wanted = match v1 {
                Some(_) => names.split(',').any(|name| name == controller),
                None => names.is_empty(),
            };
            wanted.then_some(path)
        })?;
        // The runtime may put the process a level below the group that bears the limits.
        let end = group.find(container_id)?;
        let end = end + group[end..].find('/').unwrap_or(group.len() - end);
        match v1 {
            Some(mount) => Some(Self::V1(mount.directory(&group[..end])?)),
            None => Some(Self::V2(mounts.iter().find(|mount| mount.unified)?.directory(&group[..end])?)),
        }
    }
}

/// A cgroup hierarchy of this host.
#[derive(Debug)]
pub(crate) struct Mount {
    root: String,
    point: PathBuf,
    pub(crate) controllers: Vec<String>,
    pub(crate) unified: bool,
}

impl Mount {
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(Self::parse).collect())
    }

    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?.to_owned(), PathBuf::from(left.next()?));
        let mut right = right.split(' ');
        match right.next()? {
            "cgroup2" => Some(Self { root, point, controllers: Vec::new(), unified: true }),
            "cgroup" => {
                let options = right.nth(1)?;
                let controllers = options.split(',').map(str::to_owned).collect();
                Some(Self { root, point, controllers, unified: false })
            }
            _ => None,
        }
    }

    pub(crate) fn directory(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        Some(self.point.join(below))
    }

    pub(crate) fn point(&self) -> &Path {
        &self.point
    }
}

/// Where version 2 was taken out of our mount namespace, crun still writes in the place where it
/// was: plain directories and files of no effect, which only we remove.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// The parent's directory in each hierarchy.
fn parents(cgroup_parent: &str) -> io::Result<Vec<PathBuf>> {
    let mounts = Mount::all()?;
    let mut parents: Vec<_> = mounts.iter().filter_map(|mount| mount.directory(cgroup_parent)).collect();
    if !mounts.iter().any(|mount| mount.unified) {
        parents.push(Path::new(UNIFIED).join(cgroup_parent.trim_start_matches('/')));
    }
    Ok(parents)
}

/// Removes what a container's cgroups left behind: after conmon was killed nobody else does.
pub fn remove_leftovers(cgroup_parent: &str, container_id: &str) -> io::Result<()> {
    for parent in parents(cgroup_parent)? {
        remove_tree(&parent.join(format!("libpod-{container_id}")))?;
    }
    Ok(())
}

/// Cgroup directories of a container that are still there.
pub(crate) fn leftovers(cgroup_parent: &str, container_id: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for parent in parents(cgroup_parent)? {
        let directory = parent.join(format!("libpod-{container_id}"));
        if directory.exists() {
            found.push(directory);
        }
    }
    Ok(found)
}

/// Removes the cgroup that sandboxes live under and the one of their conmons, where nothing is in
/// them any more; a conmon ends a moment after its container.
pub fn remove_empty_parent(cgroup_parent: &str) -> io::Result<()> {
    for parent in parents(cgroup_parent)? {
        gone(fs::remove_dir(parent.join("conmon")))?;
        gone(fs::remove_dir(parent))?;
    }
    Ok(())
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What statfs says of a tmpfs.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // A cgroup's files go with it and can not be removed one by one.
    let plain = rustix::fs::statfs(directory)?.f_type == TMPFS_MAGIC;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else if plain {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    gone(fs::remove_dir(directory))
}

fn missing(controller: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("the container has no {controller} cgroup")))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("{value:?} to {}: {error}", path.display())))
}

fn read_number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123abcd";

    fn mounts(text: &str) -> Vec<Mount> {
        text.lines().filter_map(Mount::parse).collect()
    }

    fn shown(place: Option<Place>) -> String {
        match place {
            Some(Place::V1(path)) => format!("v1 {}", path.display()),
            Some(Place::V2(path)) => format!("v2 {}", path.display()),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn finds_the_directory_of_each_kind_of_host() {
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        let hybrid = "30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let nested = "30 23 0:27 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let cases = [
            (unified, "0::/warren/libpod-0123abcd", "memory", "v2 /sys/fs/cgroup/warren/libpod-0123abcd"),
            (unified, "0::/warren/libpod-0123abcd/container", "pids", "v2 /sys/fs/cgroup/warren/libpod-0123abcd"),
            (hybrid, "4:memory:/w/libpod-0123abcd\n0::/", "memory", "v1 /sys/fs/cgroup/memory/w/libpod-0123abcd"),
            (hybrid, "4:cpu,cpuacct:/w/0123abcd", "cpu", "v1 /sys/fs/cgroup/cpu,cpuacct/w/0123abcd"),
            (hybrid, "4:memory:/w/x\n0::/w/0123abcd", "pids", "v2 /sys/fs/cgroup/unified/w/0123abcd"),
            (nested, "4:memory:/outer/w/0123abcd", "memory", "v1 /sys/fs/cgroup/memory/w/0123abcd"),
            (unified, "0::/somebody/else", "memory", "none"),
        ];
        for (mount, groups, controller, expected) in cases {
            assert_eq!(shown(Place::find(controller, &mounts(mount), groups, ID)), expected, "{groups}");
        }
    }

    #[test]
    fn a_quota_is_never_below_what_the_kernel_takes() {
        assert_eq!(cpu_quota_us(2_000_000_000), 200_000);
        assert_eq!(cpu_quota_us(500_000_000), 50_000);
        assert_eq!(cpu_quota_us(1), 1_000);
    }
}
