//! The kernel, its limits, and the disk.

use std::fs;
use std::path::Path;

use rustix::process::Resource;

use super::Finding;
use crate::cgroup::Mount;
use crate::config::EngineConfig;

/// Open files below which a few hundred sandboxes with their connections do not fit.
const NOFILE_MIN: u64 = 16_384;

/// Processes below which a few hundred sandboxes do not fit.
const NPROC_MIN: u64 = 16_384;

/// Bytes that must be free where images and sandboxes are.
const FREE_BYTES_MIN: u64 = 2 << 30;

/// Bytes that should be free there.
const FREE_BYTES_WANTED: u64 = 10 << 30;

/// Kernel from which on overlay takes mounts with mapped ids for its lower layers.
const IDMAPPED_OVERLAY: (u32, u32) = (5, 19);

pub(super) fn examine(config: &EngineConfig) -> Vec<Finding> {
    let mut findings = vec![controllers(), hierarchy(), user_namespaces(), seccomp()];
    findings.push(hard_limit(
        "open files",
        Resource::Nofile,
        NOFILE_MIN,
        "ulimit -n 65536, or LimitNOFILE= in the service's unit",
    ));
    findings.push(hard_limit(
        "processes",
        Resource::Nproc,
        NPROC_MIN,
        "ulimit -u 65536, or LimitNPROC= in the service's unit",
    ));
    findings.push(idmapped());
    findings.push(loop_devices());
    let store = config.storage_root.clone().unwrap_or_else(|| "/var/lib/containers/storage".into());
    findings.push(disk("disk of images and sandboxes", &store));
    findings.push(disk("disk of the node's state", &config.state_dir));
    findings
}

pub(super) fn root() -> Finding {
    if rustix::process::geteuid().is_root() {
        Finding::ok("root", "runs as root")
    } else {
        Finding::missing(
            "root",
            "not root: mounts, cgroups and the fixed user namespace need it; rootless Podman is not supported",
        )
        .mend("run it with sudo, or as a system service")
    }
}

fn hierarchy() -> Finding {
    const CHECK: &str = "cgroup version";
    let mounts = Mount::all().unwrap_or_default();
    let (one, two) = (mounts.iter().any(|mount| !mount.unified), mounts.iter().any(|mount| mount.unified));
    match (one, two) {
        (false, true) => Finding::ok(CHECK, "version 2"),
        (true, true) => Finding::ok(CHECK, "version 1 and 2 side by side; works with runc"),
        (true, false) => Finding::ok(CHECK, "version 1"),
        (false, false) => Finding::missing(CHECK, "no cgroup is mounted: nothing can be limited")
            .mend("mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn controllers() -> Finding {
    const CHECK: &str = "cgroup controllers";
    let mounts = Mount::all().unwrap_or_default();
    let unified = mounts
        .iter()
        .find(|mount| mount.unified)
        .and_then(|mount| fs::read_to_string(mount.point().join("cgroup.controllers")).ok())
        .unwrap_or_default();
    let there = |name: &str| {
        // Version 2 freezes without a controller.
        (name == "freezer" && mounts.iter().any(|mount| mount.unified))
            || unified.split_whitespace().any(|controller| controller == name)
            || mounts.iter().any(|mount| mount.controllers.iter().any(|controller| controller == name))
    };
    let wanted = ["pids", "memory", "cpu", "freezer"];
    let absent: Vec<_> = wanted.into_iter().filter(|name| !there(name)).collect();
    if absent.is_empty() {
        Finding::ok(CHECK, wanted.join(", "))
    } else {
        Finding::missing(CHECK, format!("absent: {}; sandboxes could not be limited", absent.join(", ")))
            .mend("on the kernel's command line: cgroup_enable=memory; in a unit: Delegate=yes")
    }
}

fn user_namespaces() -> Finding {
    const CHECK: &str = "user namespaces";
    let max = read_number("/proc/sys/user/max_user_namespaces");
    match max {
        Some(0) | None => Finding::missing(CHECK, "switched off: a sandbox's root would be the host's")
            .mend("sysctl -w user.max_user_namespaces=15000"),
        Some(max) if max < 1000 => Finding::warn(CHECK, format!("{max} at most, one is needed for each sandbox"))
            .mend("sysctl -w user.max_user_namespaces=15000"),
        Some(max) => Finding::ok(CHECK, format!("{max} at most")),
    }
}

fn seccomp() -> Finding {
    const CHECK: &str = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Finding::ok(CHECK, "the kernel filters system calls"),
        _ => Finding::missing(CHECK, "the kernel has no seccomp filters: sandboxes would reach all of it"),
    }
}

fn hard_limit(check: &'static str, resource: Resource, min: u64, mend: &str) -> Finding {
    match rustix::process::getrlimit(resource).maximum {
        None => Finding::ok(check, "no hard limit"),
        Some(hard) if hard >= min => Finding::ok(check, format!("hard limit {hard}; sandboxes get no more")),
        Some(hard) => Finding::warn(check, format!("hard limit {hard}: too few for some hundred sandboxes")).mend(mend),
    }
}

fn idmapped() -> Finding {
    const CHECK: &str = "idmapped mounts";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.trim().split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= IDMAPPED_OVERLAY {
        Finding::ok(CHECK, format!("kernel {}", release.trim()))
    } else {
        Finding::warn(
            CHECK,
            format!(
                "kernel {}: before {}.{} each image is copied once with the sandbox's ids, which takes its size again",
                release.trim(),
                IDMAPPED_OVERLAY.0,
                IDMAPPED_OVERLAY.1
            ),
        )
    }
}

fn loop_devices() -> Finding {
    const CHECK: &str = "loop devices";
    if Path::new("/dev/loop-control").exists() {
        Finding::ok(CHECK, "there")
    } else {
        Finding::warn(CHECK, "absent: a limit of a sandbox's disk is not possible").mend("modprobe loop")
    }
}

fn disk(check: &'static str, path: &Path) -> Finding {
    // What is not made yet will lie where its nearest ancestor is.
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let space = match rustix::fs::statvfs(there) {
        Ok(space) => space,
        Err(error) => return Finding::warn(check, format!("{}: {error}", there.display())),
    };
    let free = space.f_bavail * space.f_frsize;
    let says = format!("{} MiB free at {}", free >> 20, there.display());
    if free < FREE_BYTES_MIN {
        Finding::missing(check, format!("{says}: too little for an image and its sandboxes"))
            .mend("podman image prune -a, or a larger disk")
    } else if free < FREE_BYTES_WANTED {
        Finding::warn(check, says).mend("podman image prune -a, or a larger disk")
    } else {
        Finding::ok(check, says)
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
