//! A node as others see it.

use crate::id::HostId;

/// What a node says of itself on `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// This node.
    pub node: HostId,
    /// The node that leads, where one is known.
    pub leader: Option<HostId>,
    /// A majority answers.
    pub quorum: bool,
    /// Why the local engine does not work; `None` while it does.
    pub unhealthy: Option<String>,
}
