//! A sandbox as it is shown to its users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Generation, HostId, SandboxId};
use crate::spec::{NetworkMode, Resources};
use crate::time::Timestamp;

/// What a sandbox is seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Placed, not yet answering.
    Creating,
    /// Its agent answers.
    Running,
    /// Frozen, memory kept.
    Paused,
    /// No process, files kept.
    Stopped,
    /// It failed for good; `error` says why.
    Error,
    /// Its node can not be asked.
    Unreachable,
}

impl Status {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Unreachable => "unreachable",
        }
    }
}

/// A sandbox as it is shown to its users; nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Image reference.
    pub image: String,
    /// What it is seen to be.
    pub status: Status,
    /// When it was placed.
    pub created_at: Timestamp,
    /// When it ends; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// The node that runs it.
    pub node: HostId,
    /// Grows with each placement.
    pub generation: Generation,
    /// Labels of the client's.
    pub labels: BTreeMap<String, String>,
    /// Template it was made from.
    pub template: Option<String>,
    /// A name for people.
    pub name: Option<String>,
    /// Limits in force.
    pub resources: Resources,
    /// Network.
    pub network_mode: NetworkMode,
    /// OCI runtime that holds it, for example `runc`.
    pub runtime: String,
    /// Why it is stopped or in error, where that was not the client's wish.
    pub error: Option<String>,
}
