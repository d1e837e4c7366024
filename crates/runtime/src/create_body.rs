//! The body of a create, in libpod's words. Fields that Podman does not know it ignores silently, so
//! the tests look at what came of each inside the container.

use std::collections::BTreeMap;
use std::path::Path;

use proto::lease_layout::PATH_INSIDE as LEASE_INSIDE;
use serde_json::{Value, json};
use types::spec::{SlotShape, Tmpfs};
use types::{ClusterId, HostId, Resources, SandboxId};

use crate::agent_file::AgentFile;
use crate::cgroup::{CPU_PERIOD_US, cpu_quota_us};
use crate::labels::{
    LABEL_AGENT, LABEL_CLUSTER, LABEL_NODE, LABEL_SANDBOX, LABEL_SHAPE, LABEL_SHAPE_JSON, shape_digest, shape_json,
};
use crate::lease_file::LeaseFile;
use crate::run_dir::{AGENT_ID, FILES, HOST_ID_COUNT, HOST_ID_FIRST, RunDir};
use crate::service::HardLimits;
use crate::slot::SlotOrder;

/// Where the agent is inside.
const AGENT_INSIDE: &str = "/.warren-agent";

/// Where the agent's socket directory is inside.
const SOCK_INSIDE: &str = "/run/warren";

/// Bytes of `/dev/shm`, charged to the sandbox's memory.
const SHM_BYTES: u64 = 64 << 20;

/// Bytes of the container's log. Only the agent writes there, and only when it fails.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// What the agent needs to become the sandbox's users; the users themselves keep none of it.
const CAPABILITIES: [&str; 9] = [
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_KILL",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETFCAP",
];

/// Mount options that a tmpfs may be asked for; `nosuid` and `nodev` are always there.
const TMPFS_OPTIONS: [&str; 8] = ["ro", "rw", "exec", "noexec", "nosuid", "nodev", "relatime", "noatime"];

/// Trees that a tmpfs may not cover: the container would no longer be what its checks say it is.
const TMPFS_FORBIDDEN: [&str; 6] = ["/proc", "/sys", "/dev", SOCK_INSIDE, LEASE_INSIDE, AGENT_INSIDE];

/// What a body is made from beside the order.
pub(crate) struct Surroundings<'a> {
    pub(crate) cluster: &'a ClusterId,
    pub(crate) node: &'a HostId,
    pub(crate) cgroup_parent: &'a str,
    pub(crate) agent: &'a AgentFile,
    pub(crate) seccomp: &'a Path,
    pub(crate) lease: &'a LeaseFile,
    pub(crate) limits: HardLimits,
    pub(crate) run_dir: &'a RunDir,
}

/// A container's name.
pub(crate) fn container_name(id: SandboxId) -> String {
    format!("warren-{id}")
}

/// The body; the error says what of the order is not possible.
pub(crate) fn create_body(order: &SlotOrder, around: &Surroundings<'_>) -> Result<Value, String> {
    let SlotOrder { id, shape, resources, labels } = order;
    let mut mounts =
        vec![bind(&around.agent.path, AGENT_INSIDE, true), bind(&around.run_dir.sock(), SOCK_INSIDE, false)];
    // In every slot from the start: which of them will be a sandbox that may be placed again is not known yet.
    mounts.push(lease_mount(around.lease.path()));
    mounts.extend(FILES.iter().map(|(name, inside)| bind(&around.run_dir.file(name), inside, true)));
    for tmpfs in &shape.tmpfs {
        mounts.push(tmpfs_mount(tmpfs)?);
    }
    let ids = json!([{"container_id": 0, "host_id": HOST_ID_FIRST, "size": HOST_ID_COUNT}]);
    let HardLimits { nofile, nproc } = around.limits;
    Ok(json!({
        "name": container_name(*id),
        "hostname": id.as_str(),
        // By id where it is known: the name may have moved on since the shape was made.
        "image": if shape.image_id.is_empty() { &shape.image } else { &shape.image_id },
        "image_pull_policy": "never",
        // An image's volumes would be directories of the host without a limit.
        "image_volume_mode": "ignore",
        "healthconfig": {"Test": ["NONE"]},
        "labels": all_labels(*id, shape, labels, around),

        "entrypoint": [AGENT_INSIDE, format!("{SOCK_INSIDE}/sock")],
        "command": [],
        "env": {},
        // The image's variables are the user's, not the agent's.
        "unsetenvall": true,
        // Not the image's: Podman would make it, following its links.
        "work_dir": "/",
        "user": format!("{AGENT_ID}:{AGENT_ID}"),
        // Else Podman writes the agent's user into the image's passwd.
        "manage_password": false,
        "stdin": false,
        "terminal": false,
        "systemd": "false",
        "restart_policy": "no",
        "umask": "0022",
        "log_configuration": {"driver": "k8s-file", "size": LOG_BYTES_MAX},

        "userns": {"nsmode": "private"},
        "idmappings": {"UIDMap": ids, "GIDMap": ids, "HostUIDMapping": false, "HostGIDMapping": false},
        "netns": {"nsmode": "none"},
        "ipcns": {"nsmode": "private"},
        "no_new_privileges": true,
        "cap_drop": ["ALL"],
        "cap_add": CAPABILITIES,
        "seccomp_profile_path": around.seccomp,
        "read_only_filesystem": !shape.writable_rootfs,
        "mounts": mounts,
        "shm_size": SHM_BYTES,

        "cgroup_parent": around.cgroup_parent,
        "resource_limits": resource_limits(resources),
        "r_limits": [
            {"type": "nofile", "soft": nofile, "hard": nofile},
            {"type": "nproc", "soft": nproc, "hard": nproc},
            {"type": "core", "soft": 0, "hard": 0},
        ],
    }))
}

fn all_labels(
    id: SandboxId,
    shape: &SlotShape,
    given: &BTreeMap<String, String>,
    around: &Surroundings<'_>,
) -> BTreeMap<String, String> {
    let mut labels = given.clone();
    let ours = [
        (LABEL_CLUSTER, around.cluster.to_string()),
        (LABEL_NODE, around.node.to_string()),
        (LABEL_SANDBOX, id.to_string()),
        (LABEL_AGENT, around.agent.digest.clone()),
        (LABEL_SHAPE, shape_digest(shape)),
        (LABEL_SHAPE_JSON, shape_json(shape)),
    ];
    labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    labels
}

fn resource_limits(resources: &Resources) -> Value {
    let mut limits = serde_json::Map::new();
    if resources.memory != 0 {
        // `swap` is memory and swap together: equal means no swap.
        limits.insert("memory".to_owned(), json!({"limit": resources.memory, "swap": resources.memory}));
    }
    if resources.pids != 0 {
        limits.insert("pids".to_owned(), json!({"limit": resources.pids}));
    }
    if resources.cpu != 0 {
        let cpu = json!({"quota": cpu_quota_us(resources.cpu), "period": CPU_PERIOD_US});
        limits.insert("cpu".to_owned(), cpu);
    }
    Value::Object(limits)
}

fn bind(source: &Path, inside: &str, read_only: bool) -> Value {
    let mut options = vec!["bind", "nosuid", "nodev"];
    if read_only {
        options.push("ro");
    }
    json!({"type": "bind", "source": source, "destination": inside, "options": options})
}

fn lease_mount(source: &Path) -> Value {
    let options = ["bind", "nosuid", "nodev", "noexec", "ro"];
    json!({"type": "bind", "source": source, "destination": LEASE_INSIDE, "options": options})
}

fn tmpfs_mount(tmpfs: &Tmpfs) -> Result<Value, String> {
    let path = tmpfs.path.trim_end_matches('/');
    if !path.starts_with('/') || path.split('/').any(|part| part == ".." || part == ".") {
        return Err(format!("a tmpfs needs a plain absolute path, not {:?}", tmpfs.path));
    }
    let covers = |tree: &str| path == tree || path.starts_with(&format!("{tree}/"));
    if TMPFS_FORBIDDEN.into_iter().any(covers) {
        return Err(format!("a tmpfs can not be mounted on {path}"));
    }
    let mut options = vec![format!("size={}", tmpfs.size), "nosuid".to_owned(), "nodev".to_owned()];
    let mut mode = "1777";
    for option in tmpfs.options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("mode", value)) if is_octal(value) => mode = value,
            None if TMPFS_OPTIONS.contains(&option) => options.push(option.to_owned()),
            _ => return Err(format!("a tmpfs can not have the option {option:?}")),
        }
    }
    options.push(format!("mode={mode}"));
    Ok(json!({"type": "tmpfs", "source": "tmpfs", "destination": path, "options": options}))
}

fn is_octal(text: &str) -> bool {
    (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(path: &str, options: &str) -> Result<Value, String> {
        tmpfs_mount(&Tmpfs { path: path.to_owned(), size: 4096, options: options.to_owned() })
    }

    #[test]
    fn a_tmpfs_is_refused_where_it_would_cover_what_the_checks_rest_on() {
        for path in [
            "",
            "/",
            "relative",
            "/proc",
            "/sys/fs",
            "/dev/shm",
            "/run/warren",
            "/a/../proc",
            "/.warren-agent",
            "/run/warren-lease",
        ] {
            assert!(tmpfs(path, "").is_err(), "{path:?} was taken");
        }
        for options in ["suid", "dev", "size=9g", "mode=9", "mode=,", "uid=0", "mpol=bind:0"] {
            assert!(tmpfs("/scratch", options).is_err(), "{options:?} was taken");
        }
        let mount = tmpfs("/scratch/", "noexec, mode=0700").expect("a plain tmpfs");
        assert_eq!(mount["destination"], "/scratch");
        assert_eq!(mount["options"], json!(["size=4096", "nosuid", "nodev", "noexec", "mode=0700"]));
    }

    #[test]
    fn what_is_zero_is_not_limited() {
        assert_eq!(resource_limits(&Resources::default()), json!({}));
        let some = Resources { cpu: 1_500_000_000, memory: 1 << 28, disk: 0, pids: 64 };
        assert_eq!(
            resource_limits(&some),
            json!({"cpu": {"quota": 150_000, "period": 100_000}, "pids": {"limit": 64},
                "memory": {"limit": 1 << 28, "swap": 1 << 28}})
        );
    }
}
