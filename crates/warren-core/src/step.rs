//! The operations on one container and its agent, and how they end. This pair of enums is the whole
//! outside world of a sandbox: the engine room carries it out, the simulation fakes it.

use types::spec::SlotShape;
use types::{ErrorCode, Generation, Resources, SandboxSpec, WarrenError};

/// One operation. A supervisor has at most one under way, so they never overtake each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a container, start it, wait until its agent answers. What stands under the same name is
    /// removed first.
    Make {
        /// What is fixed at its creation.
        shape: SlotShape,
        /// Limits in force from its first moment.
        resources: Resources,
    },
    /// Set the limits and tell the agent which sandbox it is going to be. Nothing secret yet.
    Prepare(Charge),
    /// The sandbox is placed: hand over environment and defaults. User code may run from here on.
    Activate {
        /// Who it is.
        charge: Charge,
        /// What it was asked to be.
        spec: Box<SandboxSpec>,
        /// Environment, still sealed.
        sealed_env: Vec<u8>,
    },
    /// End every process, keep the files.
    Stop,
    /// Start the container again and wait until its agent answers.
    Start {
        /// Limits in force; the engine itself remembers those of the creation.
        resources: Resources,
    },
    /// Kill every process and return when the last one is dead.
    Kill,
    /// Remove the container and all that belongs to it. Removing what is not there succeeds.
    Remove,
    /// Find out what a container that outlived an earlier life of this node is.
    Examine,
}

impl Step {
    /// Its kind, without what it carries.
    #[must_use]
    pub fn kind(&self) -> StepKind {
        match self {
            Self::Make { .. } => StepKind::Make,
            Self::Prepare(_) => StepKind::Prepare,
            Self::Activate { .. } => StepKind::Activate,
            Self::Stop => StepKind::Stop,
            Self::Start { .. } => StepKind::Start,
            Self::Kill => StepKind::Kill,
            Self::Remove => StepKind::Remove,
            Self::Examine => StepKind::Examine,
        }
    }
}

/// The kinds of [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// See [`Step::Make`].
    Make,
    /// See [`Step::Prepare`].
    Prepare,
    /// See [`Step::Activate`].
    Activate,
    /// See [`Step::Stop`].
    Stop,
    /// See [`Step::Start`].
    Start,
    /// See [`Step::Kill`].
    Kill,
    /// See [`Step::Remove`].
    Remove,
    /// See [`Step::Examine`].
    Examine,
}

/// What an agent is told about the sandbox that it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Its generation.
    pub generation: Generation,
    /// Digest of spec and sealed environment: the agent refuses another one.
    pub digest: [u8; 32],
    /// Limits in force.
    pub resources: Resources,
    /// Its sandbox may be placed again: the agent ends its processes and refuses calls once the node's lease has run
    /// out.
    pub leased: bool,
}

/// How a [`Step`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepResult {
    /// It was done.
    Done,
    /// What [`Step::Examine`] found.
    Examined(Examined),
    /// It was not done, or it is unknown whether it was.
    Failed(WarrenError),
}

/// What a container that was found is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// Its agent answers.
    Answers(AgentState),
    /// Its processes have ended.
    Exited {
        /// Why, in words.
        why: String,
    },
    /// There is no such container.
    Missing,
}

/// What an agent says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// Pristine: no sandbox was ever named to it.
    Bare,
    /// Prepared for a sandbox; nothing of the user's has run.
    Prepared {
        /// For which generation.
        generation: Generation,
        /// For which spec.
        digest: [u8; 32],
    },
    /// It has the sandbox's environment; user code may have run.
    Active {
        /// Of which generation.
        generation: Generation,
        /// Of which spec.
        digest: [u8; 32],
    },
}

/// An error of ours that keeps a step's kind readable in a log.
#[must_use]
pub fn step_error(kind: StepKind, why: impl std::fmt::Display) -> WarrenError {
    WarrenError::new(ErrorCode::Internal, format!("{kind:?} failed: {why}"))
}
