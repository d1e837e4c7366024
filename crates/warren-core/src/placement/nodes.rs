//! Nodes in the map: an announced restart, and which commands every member knows.

use types::{HostId, Incarnation};

use super::command::{COMMANDS_UNGATED, Kind};
use super::map::Placement;
use super::outcome::{Outcome, Refusal};

/// A command that may not be proposed yet: a member would stop at it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {host} knows commands up to {knows}, this one is number {needs}: it has to be upgraded first")]
pub struct Lagging {
    /// A member that does not know it.
    pub host: HostId,
    /// The newest that it knows; 0 for one that joined and never said.
    pub knows: u32,
    /// The number of the command.
    pub needs: u32,
}

impl From<Lagging> for Refusal {
    fn from(lagging: Lagging) -> Self {
        Self::MemberLags { host: lagging.host }
    }
}

impl Placement {
    /// The newest command that every member knows. A lost node does not count: it would hold up its own repair, and
    /// if it comes back in an older version it stops at what it does not know and says so.
    #[must_use]
    pub fn commands_known_by_all(&self) -> u32 {
        let knows = self.nodes().filter(|(_, node)| !node.lost).map(|(_, node)| node.presence.commands);
        knows.min().unwrap_or(0).max(COMMANDS_UNGATED)
    }

    /// Whether every member knows a command, so that it may be proposed.
    ///
    /// # Errors
    /// The member that does not.
    pub fn may_propose(&self, kind: &Kind) -> Result<(), Lagging> {
        let needs = kind.since();
        if needs <= COMMANDS_UNGATED {
            return Ok(());
        }
        let behind = |(_, node): &(&HostId, &super::Node)| !node.lost && node.presence.commands < needs;
        match self.nodes().find(behind) {
            Some((host, node)) => Err(Lagging { host: host.clone(), knows: node.presence.commands, needs }),
            None => Ok(()),
        }
    }

    pub(super) fn node_restarting(&mut self, host: &HostId, incarnation: Incarnation, for_ms: u64) -> Outcome {
        match self.nodes.get_mut(host) {
            Some(node) if node.incarnation == incarnation && !node.lost => {
                node.restarting = Some(for_ms);
                Outcome::NodeRestarting
            }
            _ => Outcome::NodeStale,
        }
    }

    pub(super) fn node_lost(&mut self, host: &HostId, incarnation: Incarnation, restarting: bool) -> Outcome {
        match self.nodes.get_mut(host) {
            // Who proposed it had not seen the announcement, and so did not wait for as long as it asks.
            Some(node) if node.restarting.is_some() && !restarting => Outcome::NodeStale,
            Some(node) if node.incarnation == incarnation => {
                node.lost = true;
                node.restarting = None;
                Outcome::NodeLost
            }
            _ => Outcome::NodeStale,
        }
    }
}
