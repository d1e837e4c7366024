//! How a node is set up: a file, then the environment, then flags, each over the one before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use runtime::EngineConfig;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::{ClusterId, HostId};

/// Seconds that a node may ask not to be missed.
const RESTART_WITHIN_SECONDS_MAX: u64 = 3_600;

/// How a node is set up. Every field has a default that works on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Where the log, the identity and the secrets key live. Kept over reboots.
    pub data_dir: PathBuf,
    /// Where sockets and mounts live. On a tmpfs, empty after a reboot.
    pub run_dir: PathBuf,
    /// Address of the HTTP front door. Without an API key only loopback addresses are taken.
    pub listen: SocketAddr,
    /// Address on which other nodes of the cluster are let in; none for a node alone.
    pub peer_listen: Option<SocketAddr>,
    /// Where other nodes find this one, `name:port`; none for the address it listens on.
    pub peer_address: Option<String>,
    /// Where clients find this node; none for the address it listens on.
    pub http_address: Option<String>,
    /// Address on which Prometheus finds `/metrics`, or `off`. It asks for no key.
    pub metrics_listen: MetricsListen,
    /// Peer address of any member of the cluster to join; looked at only by a node without an identity.
    pub join: Option<String>,
    /// The token that lets this node join.
    pub join_token: Option<String>,
    /// Keys that open the front door, comma separated in the environment; empty for none.
    pub api_keys: Vec<String>,
    /// The agent's binary.
    pub agent: PathBuf,
    /// Image of a sandbox that names none.
    pub default_image: String,
    /// Warm slots kept of the default image.
    pub pool_size: usize,
    /// Podman's socket; none to have the node run a Podman service of its own.
    pub engine_socket: Option<PathBuf>,
    /// OCI runtime; none to choose by what the host can do.
    pub oci_runtime: Option<String>,
    /// Podman's storage; none for its default.
    pub storage_root: Option<PathBuf>,
    /// Podman's run directory; none for its default.
    pub storage_run_root: Option<PathBuf>,
    /// Containers that are made or started at the same time.
    pub creates_in_flight_max: usize,
    /// Sandboxes on this node.
    pub sandboxes_max: u64,
    /// Memory promised to sandboxes, as a percentage of the host's.
    pub memory_overcommit_percent: u64,
    /// Processor promised to sandboxes, as a percentage of the host's. 0, the default, refuses nothing for want of
    /// processor: a sandbox's `cpu` is the most that it may use, not a share that is kept for it, and most sandboxes
    /// idle. A sandbox without a limit counts as none.
    pub cpu_overcommit_percent: u64,
    /// Limits of a sandbox that names none.
    pub default_resources: DefaultResources,
    /// Seconds a sandbox lives that names no time-out.
    pub default_timeout_seconds: u64,
    /// A sandbox may be asked to live until it is deleted.
    pub allow_no_timeout: bool,
    /// Commands may ask for `user: root` (root of the sandbox's user namespace, few capabilities).
    pub allow_root: bool,
    /// Seconds within which a node that was ended by a signal means to be back: it is not missed before, and the
    /// leases of its sandboxes go on. 0 to be missed at once.
    pub restart_within_seconds: u64,
    /// Destroy every sandbox and slot when the node ends by a signal.
    pub destroy_on_exit: bool,
}

/// Where Prometheus finds the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsListen {
    /// Nowhere.
    Off,
    /// On [`METRICS_LISTEN`], where no other process has it.
    #[default]
    Default,
    /// Here.
    At(SocketAddr),
}

/// Where Prometheus finds the metrics of a node whose configuration does not say.
pub const METRICS_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9723);

/// How the configuration says that there are none.
const METRICS_OFF: &str = "off";

impl MetricsListen {
    /// The address; none for off.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::Default => Some(METRICS_LISTEN),
            Self::At(address) => Some(address),
        }
    }
}

impl Serialize for MetricsListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.address() {
            None => serializer.serialize_str(METRICS_OFF),
            Some(address) => serializer.collect_str(&address),
        }
    }
}

impl<'de> Deserialize<'de> for MetricsListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == METRICS_OFF {
            return Ok(Self::Off);
        }
        let wrong = |_| serde::de::Error::custom(format!("metrics_listen: {text:?} is neither an address nor `off`"));
        text.parse().map(Self::At).map_err(wrong)
    }
}

/// Limits of a sandbox that names none; 0 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultResources {
    /// Thousand-millionths of one processor.
    pub cpu: u64,
    /// Bytes of memory, swap counted.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Default for DefaultResources {
    fn default() -> Self {
        Self { cpu: 1_000_000_000, memory: 512 << 20, pids: 256 }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/warren"),
            run_dir: PathBuf::from("/run/warren"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            peer_listen: None,
            peer_address: None,
            http_address: None,
            metrics_listen: MetricsListen::Default,
            join: None,
            join_token: None,
            api_keys: Vec::new(),
            agent: PathBuf::from("/usr/lib/warren/warren-agent"),
            default_image: "localhost/warren/default:latest".to_owned(),
            pool_size: 4,
            engine_socket: None,
            oci_runtime: None,
            storage_root: None,
            storage_run_root: None,
            creates_in_flight_max: 4,
            sandboxes_max: 1_000,
            memory_overcommit_percent: 2_000,
            cpu_overcommit_percent: 0,
            default_resources: DefaultResources::default(),
            default_timeout_seconds: types::limits::TIMEOUT_SECONDS_DEFAULT,
            allow_no_timeout: true,
            allow_root: true,
            restart_within_seconds: 60,
            destroy_on_exit: false,
        }
    }
}

/// A configuration that can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, variable or flag does not parse; the message names it.
    #[error(transparent)]
    Parse(#[from] config::ConfigError),
    /// A value is of the right type and makes no sense.
    #[error("{field}: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        why: String,
    },
}

impl NodeConfig {
    /// Reads the file, if one is named, and `WARREN_NODE_*` variables over it. `flags` come last:
    /// pairs of a field's name and its value.
    ///
    /// # Errors
    /// Something does not parse, is unknown, or makes no sense.
    pub fn load(file: Option<&Path>, flags: Vec<(&str, config::Value)>) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        builder = builder.add_source(
            config::Environment::with_prefix("WARREN_NODE")
                .prefix_separator("_")
                .separator("__")
                .try_parsing(true)
                .list_separator(",")
                .with_list_parse_key("api_keys"),
        );
        for (name, value) in flags {
            builder = builder.set_override(name, value)?;
        }
        let mut loaded: Self = builder.build()?.try_deserialize()?;
        loaded.check()?;
        // The engine works in a directory of its own, so no path may depend on ours.
        for (field, path) in
            [("data_dir", &mut loaded.data_dir), ("run_dir", &mut loaded.run_dir), ("agent", &mut loaded.agent)]
        {
            *path =
                std::path::absolute(&*path).map_err(|error| ConfigError::Field { field, why: error.to_string() })?;
        }
        Ok(loaded)
    }

    /// The engine's part of it, for this cluster and host.
    #[must_use]
    pub fn engine(&self, cluster: ClusterId, node: HostId) -> EngineConfig {
        EngineConfig {
            run_dir: self.run_dir.clone(),
            state_dir: self.data_dir.join("engine"),
            socket: self.engine_socket.clone(),
            oci_runtime: self.oci_runtime.clone(),
            agent_binary: self.agent.clone(),
            cgroup_parent: format!("/warren-{node}"),
            cluster,
            node,
            storage_root: self.storage_root.clone(),
            storage_runroot: self.storage_run_root.clone(),
            creates_in_flight_max: self.creates_in_flight_max,
        }
    }

    /// Where other nodes find this one.
    #[must_use]
    pub fn advertised_peer_address(&self) -> Option<String> {
        self.peer_address.clone().or_else(|| self.peer_listen.map(|address| address.to_string()))
    }

    /// Where clients find this node.
    #[must_use]
    pub fn advertised_http_address(&self) -> String {
        self.http_address.clone().unwrap_or_else(|| self.listen.to_string())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, why: &str| Err(ConfigError::Field { field, why: why.to_owned() });
        if self.api_keys.is_empty() && !self.listen.ip().is_loopback() {
            return wrong("listen", "without an API key a node listens on loopback addresses only");
        }
        if self.join.is_some() && (self.join_token.is_none() || self.peer_listen.is_none()) {
            return wrong("join", "a node that joins needs join_token and peer_listen");
        }
        if self.api_keys.iter().any(|key| key.trim().is_empty()) {
            return wrong("api_keys", "an empty key opens nothing");
        }
        if self.creates_in_flight_max == 0 {
            return wrong("creates_in_flight_max", "at least one");
        }
        if self.restart_within_seconds > RESTART_WITHIN_SECONDS_MAX {
            return wrong("restart_within_seconds", "an hour at most: so long nobody takes over what the node has");
        }
        if self.memory_overcommit_percent == 0 {
            return wrong("memory_overcommit_percent", "at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_unknown_fields_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, "pool_size = 7\ndefault_image = \"x\"\n").unwrap();
        let config = NodeConfig::load(Some(&file), vec![("pool_size", 9_i64.into())]).unwrap();
        assert_eq!((config.pool_size, config.default_image.as_str()), (9, "x"));

        std::fs::write(&file, "pool_sice = 7\n").unwrap();
        let error = NodeConfig::load(Some(&file), Vec::new()).unwrap_err().to_string();
        assert!(error.contains("pool_sice"), "{error}");
    }

    #[test]
    fn metrics_are_on_loopback_elsewhere_or_off() {
        let load = |value: &str| NodeConfig::load(None, vec![("metrics_listen", value.into())]);
        let default = NodeConfig::load(None, Vec::new()).unwrap().metrics_listen;
        assert!(default.address().unwrap().ip().is_loopback());
        assert_eq!(load("off").unwrap().metrics_listen.address(), None);
        assert_eq!(load("[::]:99").unwrap().metrics_listen, MetricsListen::At("[::]:99".parse().unwrap()));
        let error = load("on").unwrap_err().to_string();
        assert!(error.contains("metrics_listen"), "{error}");
    }

    #[test]
    fn no_key_means_loopback() {
        let flags = vec![("listen", "0.0.0.0:8080".into())];
        let error = NodeConfig::load(None, flags).unwrap_err().to_string();
        assert!(error.starts_with("listen:"), "{error}");
    }
}
