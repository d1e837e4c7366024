//! What is replicated: one command is one entry of the log.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use types::{
    ErrorCode, Generation, HostId, IdempotencyKey, Incarnation, SandboxId, SandboxSpec, Timestamp, WarrenError,
};

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The proposer's clock. The map keeps the largest it has seen, so time never falls.
    pub time: Timestamp,
    /// What is to happen.
    pub kind: Kind,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A node began a new life.
    NodeUp {
        /// Which node.
        host: HostId,
        /// Its new incarnation.
        incarnation: Incarnation,
        /// Where it is found.
        presence: Presence,
    },
    /// A node comes to the cluster, or comes back with a new store.
    Join {
        /// Which node.
        host: HostId,
        /// Where its peers find it.
        peer_address: String,
        /// Where clients find it.
        http_address: String,
        /// The newest replicated command that it knows; 0 where it did not say.
        commands: u32,
        /// When it asked, by its own clock; 0 where it did not say.
        asked_at: Timestamp,
    },
    /// A node has not been heard for too long.
    NodeLost {
        /// Which node.
        host: HostId,
        /// In which of its lives.
        incarnation: Incarnation,
        /// It had announced a restart, and that took too long as well.
        restarting: bool,
    },
    /// A node ends in order and means to be back soon.
    NodeRestarting {
        /// Which node.
        host: HostId,
        /// In which of its lives.
        incarnation: Incarnation,
        /// Milliseconds for which it is not to be missed, from the leader's apply on.
        for_ms: u64,
    },
    /// A sandbox is given to an owner.
    Place(Box<Place>),
    /// A sandbox whose owner is lost is given to another one, in the next generation.
    Move(Move),
    /// It is shown in error from here on; whatever carries its present generation is to be removed.
    Fail {
        /// Which sandbox.
        id: SandboxId,
        /// The generation that was seen.
        generation: Generation,
        /// Why.
        failure: Failure,
        /// Only while its owner counts as lost: an owner that is back has it.
        only_if_lost: bool,
    },
    /// Its user wants it stopped or running.
    SetWanted {
        /// Which sandbox.
        id: SandboxId,
        /// The generation that was seen.
        generation: Generation,
        /// What it is meant to be.
        wanted: Wanted,
    },
    /// It ends. From here on nobody can reach it.
    Destroy {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        reason: DestroyReason,
    },
    /// Its owner has removed everything that it left.
    Removed {
        /// Which sandbox.
        id: SandboxId,
        /// Which generation was removed.
        generation: Generation,
    },
    /// It could not be brought up; its key keeps the error.
    CreateFailed {
        /// Which sandbox.
        id: SandboxId,
        /// Which generation failed.
        generation: Generation,
        /// Why.
        failure: Failure,
    },
}

impl Kind {
    /// The sandbox that it is about.
    #[must_use]
    pub fn sandbox(&self) -> Option<SandboxId> {
        match self {
            Self::NodeUp { .. } | Self::Join { .. } | Self::NodeLost { .. } | Self::NodeRestarting { .. } => None,
            Self::Place(place) => Some(place.id),
            Self::Move(moved) => Some(moved.id),
            Self::Fail { id, .. }
            | Self::SetWanted { id, .. }
            | Self::Destroy { id, .. }
            | Self::Removed { id, .. }
            | Self::CreateFailed { id, .. } => Some(*id),
        }
    }

    /// Only the leader can know it: another leader must not be told of it, nor the same one in another term.
    #[must_use]
    pub fn is_the_leaders(&self) -> bool {
        matches!(self, Self::NodeLost { .. })
    }

    /// The number of the first version that knows it.
    #[must_use]
    pub fn since(&self) -> u32 {
        match self {
            Self::NodeUp { .. }
            | Self::Place(_)
            | Self::SetWanted { .. }
            | Self::Destroy { .. }
            | Self::Removed { .. }
            | Self::CreateFailed { .. } => 1,
            Self::Join { .. } | Self::NodeLost { .. } => 2,
            Self::NodeRestarting { .. } | Self::Move(_) | Self::Fail { .. } => 3,
        }
    }
}

/// The newest replicated command that this version knows. None that is newer is proposed before every
/// member says that it knows it.
pub const COMMANDS_KNOWN: u32 = 3;

/// The newest replicated command that members knew before they said what they know.
pub const COMMANDS_UNGATED: u32 = 2;

/// Where a node is found, and what it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presence {
    /// Its id in the replicated log.
    pub member: u64,
    /// Where its peers find it; empty for a node alone.
    pub peer_address: String,
    /// Where clients find it.
    pub http_address: String,
    /// The newest replicated command that it knows.
    pub commands: u32,
}

/// A placement: everything an owner needs to bring a sandbox up, and to finish doing so after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The sandbox.
    pub id: SandboxId,
    /// The slot that becomes it; another name than `id` only when it is placed again.
    pub slot: SandboxId,
    /// Who runs it.
    pub owner: HostId,
    /// The owner's life in which this was proposed.
    pub incarnation: Incarnation,
    /// Grows with each placement.
    pub generation: Generation,
    /// What it is asked to be.
    pub spec: Arc<SandboxSpec>,
    /// Environment, encrypted under the cluster's key.
    pub sealed_env: Arc<[u8]>,
    /// When it ends; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// Makes a retry safe.
    pub key: Option<IdempotencyKey>,
}

/// A sandbox is placed again: its spec, environment and end stay what they are in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The sandbox.
    pub id: SandboxId,
    /// The new owner's slot that becomes it.
    pub slot: SandboxId,
    /// The new owner.
    pub owner: HostId,
    /// The new owner's life in which this was proposed.
    pub incarnation: Incarnation,
    /// The generation that begins: one more than the one that was seen.
    pub generation: Generation,
}

impl Place {
    /// Names spec and environment in one value, so that an agent can tell a repeated order from another one.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.id.as_str());
        hash.update(super::wire::encode_spec(&self.spec));
        hash.update(&self.sealed_env);
        hash.finalize().into()
    }
}

/// What a sandbox is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Its processes run.
    Running,
    /// Files only.
    Stopped,
}

/// Why a sandbox ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestroyReason {
    /// A client asked.
    Asked,
    /// Its time came. It is kept if its life was extended past this point since.
    Expired {
        /// The end that was seen.
        expires_at: Timestamp,
    },
}

/// An error that is kept in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What clients branch on.
    pub code: ErrorCode,
    /// One sentence.
    pub message: String,
}

impl From<&WarrenError> for Failure {
    fn from(error: &WarrenError) -> Self {
        Self { code: error.code, message: error.message.clone() }
    }
}

impl From<&Failure> for WarrenError {
    fn from(failure: &Failure) -> Self {
        WarrenError::new(failure.code, failure.message.clone())
    }
}
