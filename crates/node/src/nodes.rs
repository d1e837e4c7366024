//! The cluster's members as this node shows them: what the map says, who votes, and what each node said of itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use front_door::VersionFacts;
use parking_lot::RwLock;
use peers::wire::{Capacity, Versions, WarmShape};
use types::HostId;
use types::node::{NodeAddresses, NodeCapacity, NodeInfo, NodeRole, NodeState, NodeVersions, WarmTemplate};
use warren_core::placement::{Node, Placement};

use crate::cluster::Cluster;

/// Age at which what a node said of itself is not shown any more: a few tellings may be lost.
const HEARD_LATELY: Duration = Duration::from_secs(3);

/// Where the kernel says how the host is called.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The log's group as consensus sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The present term.
    pub term: u64,
    /// Whether this node leads.
    pub leads: bool,
    /// The last index known to be committed.
    pub committed: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// The kept snapshot's index.
    pub snapshot_index: u64,
    /// Entries in the log.
    pub log_entries: usize,
    /// Member ids that vote. While a change is under way those that voted before it: it may still be lost with them.
    pub voters: Vec<u64>,
    /// Member ids that learn.
    pub learners: Vec<u64>,
}

/// What a node says of its build and its host, once for its life.
#[derive(Debug, Clone, Default)]
pub struct Myself {
    /// Version and commit.
    pub build: String,
    /// The host's name for people.
    pub name: String,
    /// Processors of the host.
    pub cpu_cores: u64,
}

impl Myself {
    /// What this process can say.
    pub fn of(version: &VersionFacts) -> Self {
        Self {
            build: format!("{} ({})", version.version, version.commit),
            name: std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default().trim().to_owned(),
            cpu_cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u64),
        }
    }

    /// The same for the others.
    pub fn versions(&self, commands: u32) -> Versions {
        let protocol = peers::limits::PROTOCOL_VERSION;
        Versions { build: self.build.clone(), protocol_min: protocol, protocol_max: protocol, commands }
    }
}

/// The last word of each node about itself, this one included.
#[derive(Default)]
pub struct Words(RwLock<HashMap<HostId, (Capacity, Instant)>>);

impl Words {
    /// A node has said what it has.
    pub fn hear(&self, host: &HostId, capacity: Capacity) {
        self.0.write().insert(host.clone(), (capacity, Instant::now()));
    }

    fn lately(&self, host: &HostId) -> Option<Capacity> {
        let words = self.0.read();
        let (capacity, heard) = words.get(host)?;
        (heard.elapsed() < HEARD_LATELY).then(|| capacity.clone())
    }
}

/// Where the members are looked up.
pub struct Sources<'a> {
    /// The node that is asked.
    pub me: &'a HostId,
    /// Its map.
    pub placement: &'a Placement,
    /// The log's group.
    pub group: &'a Group,
    /// The node that leads, where it is known.
    pub leader: Option<HostId>,
    /// Its links.
    pub cluster: &'a Cluster,
    /// What was heard.
    pub words: &'a Words,
}

impl Sources<'_> {
    /// All members, in the order of their member ids.
    pub fn all(&self) -> Vec<NodeInfo> {
        let mut all: Vec<_> = self.placement.nodes().map(|(host, node)| self.member(host, node)).collect();
        all.sort_by(|left, right| (left.member, &left.id).cmp(&(right.member, &right.id)));
        all
    }

    fn member(&self, host: &HostId, node: &Node) -> NodeInfo {
        let here = host == self.me;
        let said = self.words.lately(host).filter(|said| said.incarnation == node.incarnation.0);
        let load = self.placement.load(host);
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let said_text = |pick: fn(&Capacity) -> &String| said.as_ref().and_then(|said| text(pick(said)));
        let said_number = |pick: fn(&Capacity) -> u64| said.as_ref().map(pick).filter(|number| *number > 0);
        let versions = said.as_ref().and_then(|said| said.versions.as_ref());
        NodeInfo {
            id: host.clone(),
            name: said_text(|said| &said.name),
            role: self.role(host, node.presence.member),
            state: state(node),
            here,
            reachable: here || self.cluster.reaches(host),
            member: node.presence.member,
            incarnation: node.incarnation,
            addresses: NodeAddresses {
                http: text(&node.presence.http_address),
                peer: text(&node.presence.peer_address),
            },
            versions: NodeVersions {
                build: versions.and_then(|versions| text(&versions.build)),
                commands: node.presence.commands,
                peer_protocol: versions.map(|versions| (versions.protocol_min, versions.protocol_max)),
            },
            capacity: NodeCapacity {
                sandboxes: load.sandboxes,
                sandboxes_max: said_number(|said| said.sandboxes_max),
                memory_promised: load.memory,
                memory_max: said_number(|said| said.memory_max),
                cpu_promised: load.cpu,
                cpu_max: said_number(|said| said.cpu_max),
                cpu_cores: said_number(|said| said.cpu_cores),
            },
            closed: said.as_ref().and_then(|said| said.closed.clone()),
            warm: said.as_ref().map(|said| said.warm.iter().map(warm).collect()),
            runtime: said_text(|said| &said.runtime),
            images: said.as_ref().and_then(|said| said.images_count),
        }
    }

    fn role(&self, host: &HostId, member: u64) -> NodeRole {
        if self.leader.as_ref() == Some(host) {
            NodeRole::Leader
        } else if self.group.voters.contains(&member) {
            NodeRole::Voter
        } else if self.group.learners.contains(&member) {
            NodeRole::Learner
        } else {
            NodeRole::Outside
        }
    }
}

fn state(node: &Node) -> NodeState {
    match (node.lost, node.restarting, node.incarnation.0) {
        (true, ..) => NodeState::Lost,
        (false, _, 0) => NodeState::Joined,
        (false, Some(_), _) => NodeState::Restarting,
        (false, None, _) => NodeState::Up,
    }
}

fn warm(shape: &WarmShape) -> WarmTemplate {
    WarmTemplate {
        template: shape.template.clone(),
        ready: shape.ready.into(),
        target: shape.target.into(),
        refill_ms_p50: shape.refill_ms_p50,
    }
}
