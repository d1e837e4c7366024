//! What applying a command decided.

use types::{ErrorCode, Generation, HostId, SandboxId, Timestamp, WarrenError};

use super::command::{Failure, Wanted};

/// What applying a command decided; the same on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The node's new life has begun.
    NodeUp,
    /// A later life of that node has begun already.
    NodeStale,
    /// The node may begin to learn.
    Joined {
        /// Under this member id, which nobody ever had.
        member: u64,
    },
    /// The node counts as lost until its next life.
    NodeLost,
    /// The node is away and not missed for the time that it has named.
    NodeRestarting,
    /// The sandbox is its owner's from here on; also the answer to the same proposal made twice.
    Placed {
        /// In this generation.
        generation: Generation,
    },
    /// Its key has made another sandbox before.
    AlreadyPlaced {
        /// That one.
        winner: SandboxId,
    },
    /// It is not placed, for good.
    Refused(Refusal),
    /// What the sandbox is meant to be now.
    Wanted(Wanted),
    /// The sandbox is gone from the map; its owner still has to remove what it left.
    Destroyed,
    /// The end it was to be destroyed for is not its end any more.
    Kept {
        /// Its end now.
        expires_at: Option<Timestamp>,
    },
    /// Nothing is left of it, here or on its owner.
    Removed,
    /// The failed create is recorded; what it left is to be removed.
    Failed,
    /// The sandbox is in error from here on; its owner still has to remove what it left.
    InError,
    /// There is no such sandbox in that generation.
    Unknown,
}

/// Why a sandbox is not placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It was proposed in an earlier life of its owner.
    StaleIncarnation,
    /// Its owner is lost.
    OwnerLost,
    /// Its owner is restarting.
    OwnerRestarting,
    /// A member does not know the command yet. Decided before it is proposed, never when it is applied.
    MemberLags {
        /// Which.
        host: HostId,
    },
    /// The id was destroyed, or is another owner's.
    IdTaken,
    /// It is not to be placed again: it has another generation by now, or its owner is not lost any more.
    Superseded,
    /// The key was used with another body.
    KeyMismatch,
    /// What the key made is gone.
    KeyGone {
        /// What it had made.
        id: SandboxId,
    },
    /// What the key made failed for good.
    KeyFailed(Failure),
}

impl Refusal {
    /// The error that a client is shown.
    #[must_use]
    pub fn error(&self) -> WarrenError {
        match self {
            Self::StaleIncarnation => {
                WarrenError::new(ErrorCode::Unavailable, "the node restarted while it was creating this sandbox")
            }
            Self::OwnerLost => {
                WarrenError::new(ErrorCode::Unavailable, "the node was lost while it was creating this sandbox")
            }
            Self::OwnerRestarting => {
                WarrenError::new(ErrorCode::Unavailable, "the node is restarting and takes no new sandboxes")
            }
            Self::MemberLags { host } => {
                let why = "not every node of the cluster is upgraded yet, and this one would not understand it";
                WarrenError::new(ErrorCode::Unavailable, why).with("node", host.as_str())
            }
            Self::IdTaken => WarrenError::new(ErrorCode::Unavailable, "the sandbox's id is taken"),
            Self::Superseded => {
                WarrenError::new(ErrorCode::Unavailable, "the sandbox is placed elsewhere by now, or its node is back")
            }
            Self::KeyMismatch => WarrenError::new(
                ErrorCode::IdempotencyMismatch,
                "this idempotency key was used with another request body",
            ),
            Self::KeyGone { id } => {
                WarrenError::new(ErrorCode::Gone, "what this idempotency key made is gone").with("id", id.as_str())
            }
            Self::KeyFailed(failure) => failure.into(),
        }
    }
}
