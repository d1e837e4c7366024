//! What a host sees: the machine's files, with its own in place of those that make a machine.

use std::ffi::CStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, getrlimit};

use crate::cgroups;

const CONTAINERS: &str = "/var/lib/containers";
const CONTAINERS_CONFIGURATION: &str = "/etc/containers";
/// The machine's own Podman storage.
const STORAGE: &str = "/var/lib/containers/storage";
/// The same for a host: read-only, and only for its images.
const IMAGES: &str = "/run/images";
/// What readers of images lock, below the storage.
const IMAGE_LOCKS: [&str; 2] = ["overlay-images/images.lock", "overlay-layers/layers.lock"];
/// A host's own in place of them.
const OWN_LOCKS: &str = "/run/image-locks";
/// As a machine finds it after a boot.
const RUN: &str = "/run";
const SHARED_MEMORY: &str = "/dev/shm";
/// More processes than this some kernels refuse to promise to a container, whatever the hard limit.
const PROCESSES_MAX: u64 = 30_000;

/// A host's directories on the machine, made. They outlive its power.
pub(crate) fn make_disk(directory: &Path) -> Result<()> {
    let configuration = directory.join("etc-containers");
    for made in [&directory.join("containers"), &configuration, Path::new(CONTAINERS)] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    copy(Path::new(CONTAINERS_CONFIGURATION), &configuration)?;
    let write = |name: &str, text: String| {
        fs::write(configuration.join(name), text).with_context(|| format!("cannot write {name}"))
    };
    write("storage.conf", storage_conf())?;
    if !configuration.join("containers.conf").exists() {
        write("containers.conf", containers_conf()?)?;
    }
    Ok(())
}

/// In a new mount namespace: makes it the host's, but for what depends on its processes.
pub(crate) fn furnish(directory: &Path) -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("cannot part from the machine's mounts")?;
    // Whatever is mounted there is the machine's, and would be kept busy by us.
    detach_below(Path::new(RUN))?;
    detach_below(Path::new(CONTAINERS))?;
    tmpfs(RUN, c"mode=0755")?;
    tmpfs(SHARED_MEMORY, c"mode=1777")?;
    let lock = Path::new(RUN).join("lock");
    fs::create_dir(&lock).and_then(|()| fs::set_permissions(&lock, fs::Permissions::from_mode(0o1777)))?;
    fs::create_dir(IMAGES).with_context(|| format!("cannot make {IMAGES}"))?;
    if Path::new(STORAGE).is_dir() {
        bind(Path::new(STORAGE), IMAGES)?;
        let read_only = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(IMAGES, read_only, c"").context("cannot make the images read-only")?;
        part_from_locks()?;
    }
    bind(&directory.join("containers"), CONTAINERS)?;
    if Path::new(CONTAINERS_CONFIGURATION).is_dir() {
        bind(&directory.join("etc-containers"), CONTAINERS_CONFIGURATION)?;
    }
    Ok(())
}

/// Gives the host locks of its own for the machine's images: else whoever holds the machine's, and be it for ever, would
/// stop every host's Podman. Images that come later are seen by what is started later.
fn part_from_locks() -> Result<()> {
    fs::create_dir(OWN_LOCKS).with_context(|| format!("cannot make {OWN_LOCKS}"))?;
    for (number, lock) in IMAGE_LOCKS.into_iter().enumerate() {
        let shared = Path::new(IMAGES).join(lock);
        if shared.exists() {
            let own = Path::new(OWN_LOCKS).join(number.to_string());
            fs::copy(&shared, &own).with_context(|| format!("cannot copy {}", shared.display()))?;
            bind(&own, &shared)?;
        }
    }
    Ok(())
}

/// Shows the processes of the calling one's namespace, and of it alone. For between fork and exec: it allocates
/// nothing.
pub(crate) fn mount_proc() -> std::io::Result<()> {
    rustix::mount::unmount(c"/proc", UnmountFlags::DETACH)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount(c"proc", c"/proc", c"proc", flags, None)?)
}

fn bind(source: &Path, target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    rustix::mount::mount_bind(source, target)
        .with_context(|| format!("cannot bind {} on {}", source.display(), target.display()))
}

fn tmpfs(target: &str, options: &CStr) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, options).with_context(|| format!("cannot mount {target}"))
}

fn detach_below(directory: &Path) -> Result<()> {
    let text = fs::read("/proc/thread-self/mountinfo").context("cannot read the mounts")?;
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    // Later mounts first: they may stand on earlier ones.
    for point in points.map(unescaped).rev() {
        if point.starts_with(directory) && point != directory {
            match rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // The machine may have removed what it was mounted on.
                Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", point.display())),
            }
        }
    }
    Ok(())
}

/// The kernel writes white space and backslashes in octal.
fn unescaped(escaped: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Directories and regular files, as they are now.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&path, &target)?;
        } else if path.is_file() && !target.as_os_str().as_bytes().ends_with(b"/storage.conf") {
            fs::copy(&path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

fn storage_conf() -> String {
    format!(
        "# The machine's images are every host's, without a copy.\n\
         [storage]\n\
         driver = \"overlay\"\n\
         graphroot = \"{STORAGE}\"\n\
         runroot = \"/run/containers/storage\"\n\
         \n\
         [storage.options]\n\
         additionalimagestores = [\"{IMAGES}\"]\n"
    )
}

/// So that a bare `podman` works on a host as it would on any.
fn containers_conf() -> Result<String> {
    // crun refuses machines that have both versions.
    let runtime = if cgroups::has_version_1()? { "runtime = \"runc\"\n" } else { "" };
    let hard = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX >> 1);
    let (files, processes) = (hard(Resource::Nofile).min(1 << 20), hard(Resource::Nproc).min(PROCESSES_MAX));
    Ok(format!(
        "[containers]\n\
         keyring = false\n\
         default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         log_driver = \"k8s-file\"\n\
         \n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n{runtime}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_meant_them() {
        for (escaped, path) in [("/a", "/a"), ("/a\\040b", "/a b"), ("/a\\134040", "/a\\040"), ("/a\\04", "/a\\04")] {
            assert_eq!(unescaped(escaped.as_bytes()), Path::new(path));
        }
    }
}
