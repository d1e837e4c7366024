//! A create as the front door hands it on: every value checked, nothing chosen yet.

use std::collections::BTreeMap;

use crate::spec::{NetworkMode, OnNodeLoss, Tmpfs};
use crate::time::Timestamp;

/// How long a sandbox is asked to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// The configured default.
    #[default]
    Default,
    /// This many seconds from the create.
    Seconds(u64),
    /// Until it is deleted.
    Never,
}

impl Lifetime {
    /// The point at which a sandbox created at `now` ends.
    #[must_use]
    pub fn expires_at(self, now: Timestamp, default_seconds: u64) -> Option<Timestamp> {
        match self {
            Self::Default => now.checked_add_ms(default_seconds.saturating_mul(1000)),
            Self::Seconds(seconds) => now.checked_add_ms(seconds.saturating_mul(1000)),
            Self::Never => None,
        }
    }
}

/// A create with every value checked. What is absent takes the template's or the node's default.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CreateRequest {
    /// Image reference; `None` for the default.
    pub image: Option<String>,
    /// Template; `None` for none.
    pub template: Option<String>,
    /// Environment, secret.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// Lifetime.
    pub lifetime: Lifetime,
    /// Thousand-millionths of one processor.
    pub cpu: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of the writable layer.
    pub disk: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Network.
    pub network_mode: Option<NetworkMode>,
    /// Whether the root file system can be written.
    pub writable_rootfs: Option<bool>,
    /// Extra tmpfs mounts.
    pub tmpfs: Vec<Tmpfs>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// A name for people.
    pub name: Option<String>,
    /// Main command.
    pub command: Vec<String>,
    /// Default user.
    pub user: Option<String>,
    /// What a node's loss does to it.
    pub on_node_loss: OnNodeLoss,
    /// Makes a retry safe.
    pub idempotency: Option<IdempotencyKey>,
}

impl std::fmt::Debug for CreateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment is secret: only its size is shown.
        f.debug_struct("CreateRequest")
            .field("image", &self.image)
            .field("template", &self.template)
            .field("env_count", &self.env.len())
            .field("labels", &self.labels)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An idempotency key in its scope, with the digest of the body it was first seen with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// SHA-256 of API key, method, path and the key itself: the scope is part of the name, and no
    /// secret enters the log.
    pub scope: [u8; 32],
    /// SHA-256 of the body by JSON value.
    pub digest: [u8; 32],
}
