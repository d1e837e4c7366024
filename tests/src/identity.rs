//! Who a node is, as its data directory says.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The names under which a node's things are found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// In the labels of its containers and in the name of its cgroup.
    pub host: String,
    /// In the labels of its containers.
    pub cluster: String,
}

impl Identity {
    /// Reads it; `None` where the node never came so far.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        let text = fs::read(data_dir.join("identity.json")).ok()?;
        let stored: Value = serde_json::from_slice(&text).ok()?;
        let field = |name: &str| stored[name].as_str().map(str::to_owned);
        Some(Self { host: field("host")?, cluster: field("cluster")? })
    }

    /// The cgroup that its sandboxes live under.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("warren-{}", self.host)
    }
}
