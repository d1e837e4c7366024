//! One sandbox on its owner, from the claim of its slot to the removal of its last trace.
//!
//! The machine has at most one [`Step`] under way, proposes what has to be replicated, and answers
//! those who wait. It never answers before the map says so.

mod create;
mod machine;
mod wake;

use std::sync::Arc;

use types::{Generation, HostId, IdempotencyKey, Incarnation, SandboxId, SandboxSpec, Status, Timestamp, WarrenError};

use crate::placement::{Kind, Outcome, Record};
use crate::step::{Step, StepKind, StepResult};

pub use machine::Lifecycle;

/// Milliseconds that a create waits for its commit and its agent before its client is told.
pub const CREATE_MS_MAX: u64 = 60_000;

/// Milliseconds between two tries of a proposal that surely did not enter the log.
pub const PROPOSE_AGAIN_MS: u64 = 100;

/// Milliseconds between two tries to remove what the engine would not remove; doubled each time.
pub const REMOVE_AGAIN_MS_MIN: u64 = 200;

/// Milliseconds between two such tries at most.
pub const REMOVE_AGAIN_MS_MAX: u64 = 30_000;

/// Milliseconds between two looks at a container that can not be asked.
pub const EXAMINE_AGAIN_MS: u64 = 2_000;

/// Times a slot is made for one create. The second covers a warm slot that died in our hands.
pub const MAKES_MAX: u32 = 2;

/// Milliseconds after which a sandbox is looked at again although nothing happened, since the wall
/// clock may have been set.
pub const LOOK_AGAIN_MS: u64 = 60_000;

/// Names somebody who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A create on its way to an owner: everything but the slot is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePlan {
    /// Who waits for it.
    pub ticket: Ticket,
    /// The node that will run it.
    pub owner: HostId,
    /// That node's present life.
    pub incarnation: Incarnation,
    /// What it is asked to be.
    pub spec: Arc<SandboxSpec>,
    /// Environment, sealed.
    pub sealed_env: Arc<[u8]>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Makes a retry safe.
    pub key: Option<IdempotencyKey>,
    /// The sandbox that is placed again; none for a new one, which takes its slot's name.
    pub again: Option<Again>,
}

/// A sandbox that is placed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// Which.
    pub id: SandboxId,
    /// The generation that begins.
    pub generation: Generation,
}

/// What a container belongs to whose removal the map waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The generation that it carries.
    pub generation: Generation,
}

/// What happens to one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A slot was given to this plan.
    Create {
        /// What is asked for.
        plan: Box<CreatePlan>,
        /// The slot's agent answers already.
        warm: bool,
    },
    /// An earlier life of this node left this sandbox.
    Adopt {
        /// What the map says.
        record: Box<Record>,
        /// It was activated before, as the node's own disk says.
        activated: bool,
    },
    /// An earlier life of this node left something that is no sandbox any more.
    Bury {
        /// What the map waits for; none where it knows nothing of it.
        duty: Option<Duty>,
    },
    /// A command about this sandbox was applied.
    Applied {
        /// What was applied, as the supervisor needs it.
        change: Change,
    },
    /// A proposal surely did not enter the log.
    ProposalDropped,
    /// The step under way ended.
    Step(StepKind, StepResult),
    /// Its first process ended without our doing.
    Died {
        /// Why, in words.
        why: String,
    },
    /// A client wants it stopped.
    Stop(Ticket),
    /// A client wants it started.
    Start(Ticket),
    /// A client wants it gone.
    Destroy(Ticket),
    /// Somebody else's create turned out to mean this sandbox: answer when it is up.
    Join(Ticket),
    /// Its time to look again.
    Wake,
}

/// An applied command as one supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What became of a placement that this node proposed.
    Place(Outcome),
    /// What became of a wish for stopped or running.
    Wanted(Outcome),
    /// What became of a destroy.
    Destroy(Outcome),
    /// What became of a failed create's record.
    CreateFailed(Outcome),
    /// It is another owner's, or in error: what is here is out of date.
    Outdated,
    /// What became of the report that nothing is left.
    Removed(Outcome),
}

/// What one sandbox wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Replicate this. The time is the machine's own.
    Propose(Kind),
    /// Carry this out; exactly one result comes back.
    Run(Step),
    /// Answer somebody who waits.
    Answer(Ticket, Result<Answer, WarrenError>),
    /// Show this of a sandbox to those who ask.
    Observe(SandboxId, Observed),
    /// Call again at this time. Each of these is a call of its own: a later one replaces no earlier one.
    WakeAt(Timestamp),
    /// Nothing is left to do for this sandbox; the machine can be dropped.
    Finished(SandboxId),
    /// Planted bugs only: give the slot back to the pool.
    #[cfg(feature = "planted-bugs")]
    ReturnToPool,
}

/// A good end of what somebody waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The sandbox runs.
    Created(SandboxId),
    /// The key made this one before; wait for it there.
    Winner(SandboxId),
    /// Its processes have ended, its files are kept.
    Stopped,
    /// It runs again.
    Started,
    /// Every process of it is dead and nobody can reach it.
    Destroyed,
}

/// What is shown of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What it is seen to be.
    pub status: Status,
    /// Why, where nobody asked for it.
    pub why: Option<String>,
    /// In which generation.
    pub generation: Generation,
}

#[cfg(test)]
mod tests;
