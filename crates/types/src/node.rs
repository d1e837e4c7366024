//! A node as others see it.

use crate::id::{ClusterId, HostId, Incarnation};

/// What a node says of itself on `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// The cluster that it is a member of.
    pub cluster: ClusterId,
    /// This node.
    pub node: HostId,
    /// The node that leads, where one is known.
    pub leader: Option<HostId>,
    /// A majority has answered a leader that this node has heard, and lately.
    pub quorum: bool,
    /// Who votes, as far as this node knows.
    pub voters: Vec<HostId>,
    /// Why the local engine does not work; `None` while it does.
    pub unhealthy: Option<String>,
}

/// What a node is in the group that keeps the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRole {
    /// It leads; it is a voter as well.
    Leader,
    /// It votes.
    Voter,
    /// It has the whole log and no vote.
    Learner,
    /// The cluster knows it and the log's group does not, or not yet.
    Outside,
}

impl NodeRole {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Outside => "outside",
        }
    }
}

/// What the replicated map says of a node: the same on every node that has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It was let in and has not been up yet.
    Joined,
    /// It is up.
    Up,
    /// It has said that it restarts, and is not missed for a while.
    Restarting,
    /// The leader has not heard it for too long.
    Lost,
}

impl NodeState {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Up => "up",
            Self::Restarting => "restarting",
            Self::Lost => "lost",
        }
    }
}

/// Where a node is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// By clients.
    pub http: Option<String>,
    /// By other nodes.
    pub peer: Option<String>,
}

/// What a node has promised and may promise. Limits are what the node said of itself lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Sandboxes that are placed on it.
    pub sandboxes: u64,
    /// Sandboxes it may have.
    pub sandboxes_max: Option<u64>,
    /// Bytes of memory promised to them.
    pub memory_promised: u64,
    /// Bytes it may promise, overcommit included.
    pub memory_max: Option<u64>,
    /// Thousand-millionths of one processor promised to them.
    pub cpu_promised: u64,
    /// Thousand-millionths it may promise; `None` also where it sets no bound.
    pub cpu_max: Option<u64>,
    /// Processors of its host.
    pub cpu_cores: Option<u64>,
}

/// The warm pool of one template on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WarmTemplate {
    /// Which.
    pub template: String,
    /// Slots that stand ready.
    pub ready: u64,
    /// Slots that should.
    pub target: u64,
    /// Milliseconds that the last slots took to be made, the median; `None` before the first.
    pub refill_ms_p50: Option<u64>,
}

/// What a node's build can speak.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeVersions {
    /// Its version and commit; `None` where it was not heard lately.
    pub build: Option<String>,
    /// The newest replicated command that it knows.
    pub commands: u32,
    /// The oldest and the newest protocol of its links.
    pub peer_protocol: Option<(u32, u32)>,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its host id.
    pub id: HostId,
    /// Its host's name for people, where it was heard.
    pub name: Option<String>,
    /// What it is in the group.
    pub role: NodeRole,
    /// What the map says of it.
    pub state: NodeState,
    /// It is the node that answers.
    pub here: bool,
    /// A link leads from the node that answers to it.
    pub reachable: bool,
    /// Its id in the log's group.
    pub member: u64,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Where it is found.
    pub addresses: NodeAddresses,
    /// What it speaks.
    pub versions: NodeVersions,
    /// What it has and may have.
    pub capacity: NodeCapacity,
    /// Why it takes no new sandboxes; `None` while it does, or where it was not heard lately.
    pub closed: Option<String>,
    /// Its warm pools; `None` where it was not heard lately.
    pub warm: Option<Vec<WarmTemplate>>,
    /// OCI runtime that holds its sandboxes.
    pub runtime: Option<String>,
    /// Images that are there.
    pub images: Option<u64>,
}
