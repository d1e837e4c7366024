//! What a sandbox is asked to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a sandbox may use; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Thousand-millionths of one processor.
    pub cpu: u64,
    /// Bytes of memory, swap counted.
    pub memory: u64,
    /// Bytes of the writable layer.
    pub disk: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Which network a sandbox sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Loopback only.
    #[default]
    None,
    /// A bridge to the outside, private and link-local ranges closed.
    Internet,
}

impl NetworkMode {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Internet => "internet",
        }
    }
}

/// What becomes of a sandbox whose node is declared lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNodeLoss {
    /// Shown as unreachable, never run elsewhere, comes back if the host does.
    #[default]
    Wait,
    /// A fresh one, same id, next generation.
    Restart,
    /// From its last snapshot, same id, next generation.
    Restore,
    /// Ends in error.
    Fail,
}

/// A tmpfs inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path inside.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Mount options, comma separated; empty for the defaults.
    pub options: String,
}

/// What a sandbox is asked to be, without its secrets: the environment travels beside it, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Template it was made from; `None` for a bare image.
    pub template: Option<String>,
    /// Image reference as the client named it, or the default's.
    pub image: String,
    /// The engine's id of the image at the time of the create.
    pub image_id: String,
    /// Limits.
    pub resources: Resources,
    /// Network.
    pub network_mode: NetworkMode,
    /// Working directory of commands that name none.
    pub workdir: Option<String>,
    /// User of commands that name none; `None` for the image's.
    pub user: Option<String>,
    /// Main command, run as a child of the agent; empty for none.
    pub command: Vec<String>,
    /// Whether the root file system can be written.
    pub writable_rootfs: bool,
    /// Extra tmpfs mounts.
    pub tmpfs: Vec<Tmpfs>,
    /// Labels of the client's.
    pub labels: BTreeMap<String, String>,
    /// A name for people; not unique.
    pub name: Option<String>,
    /// What a node's loss does to it.
    pub on_node_loss: OnNodeLoss,
}

impl SandboxSpec {
    /// Whether a slot that was made ahead for `shape` can become this sandbox: all that is fixed at
    /// a container's creation must agree, the rest is set at the claim.
    #[must_use]
    pub fn fits_slot(&self, shape: &SlotShape) -> bool {
        self.slot_shape() == *shape
    }

    /// The part of this spec that is fixed when the container is created.
    #[must_use]
    pub fn slot_shape(&self) -> SlotShape {
        SlotShape {
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            network_mode: self.network_mode,
            writable_rootfs: self.writable_rootfs,
            tmpfs: self.tmpfs.clone(),
            disk: self.resources.disk,
        }
    }
}

/// What is fixed when a container is created, and so decides whether a warm slot fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotShape {
    /// Image reference.
    pub image: String,
    /// The engine's id of the image.
    pub image_id: String,
    /// Network.
    pub network_mode: NetworkMode,
    /// Whether the root file system can be written.
    pub writable_rootfs: bool,
    /// Extra tmpfs mounts.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of the writable layer, 0 for no limit.
    pub disk: u64,
}
