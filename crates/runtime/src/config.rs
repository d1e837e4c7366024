//! What an engine is told when it starts.

use std::path::PathBuf;

use types::{ClusterId, HostId};

/// Creates that Podman is given at the same time where nothing else is configured: it serialises on
/// its locks, so more of them mostly make each one slower. On two cores 24 slots took 3.6 s with one
/// in flight, 2.6 s with two, 2.2 s with four.
pub const CREATES_IN_FLIGHT_DEFAULT: usize = 2;

/// What an engine is told when it starts.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Sockets, mounts and run files, for example `/run/warren/<node>`. One engine only may use it.
    pub run_dir: PathBuf,
    /// What outlives a reboot: agent files, the seccomp profile, the service's log.
    pub state_dir: PathBuf,
    /// A Podman service that already runs; `None` starts one of our own.
    pub socket: Option<PathBuf>,
    /// OCI runtime, for example `runc` or a path; `None` takes what works with this host's cgroups.
    pub oci_runtime: Option<String>,
    /// The static agent that every sandbox starts with.
    pub agent_binary: PathBuf,
    /// Our cluster: only containers that bear it are touched.
    pub cluster: ClusterId,
    /// Our host.
    pub node: HostId,
    /// Podman's image and container store; `None` for the host's own.
    pub storage_root: Option<PathBuf>,
    /// Podman's run directory; `None` for the host's own.
    pub storage_runroot: Option<PathBuf>,
    /// The cgroup that sandboxes live under, for example `/warren`.
    pub cgroup_parent: String,
    /// Creates and starts that Podman is given at the same time.
    pub creates_in_flight_max: usize,
}

impl EngineConfig {
    /// A configuration with the defaults of an ordinary host.
    #[must_use]
    pub fn new(cluster: ClusterId, node: HostId, agent_binary: PathBuf) -> Self {
        Self {
            run_dir: PathBuf::from("/run/warren").join(node.as_str()),
            state_dir: PathBuf::from("/var/lib/warren").join(node.as_str()).join("engine"),
            socket: None,
            oci_runtime: None,
            agent_binary,
            cluster,
            node,
            storage_root: None,
            storage_runroot: None,
            cgroup_parent: "/warren".to_owned(),
            creates_in_flight_max: CREATES_IN_FLIGHT_DEFAULT,
        }
    }

    /// Where the service's socket is found, whichever service it is.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join("engine").join("podman.sock"))
    }
}
