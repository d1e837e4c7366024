//! What can go wrong with a call to an agent, by what is then known of its effect.

use std::io;

use proto::agent::{Error as WireError, ErrorCode};
use thiserror::Error;

/// Longest message taken from an agent; the rest is cut.
const MESSAGE_CHARS_MAX: usize = 1024;

/// Why a call to an agent failed.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Nothing was sent: the agent can not be reached.
    #[error("the agent can not be reached")]
    Unreachable(#[source] io::Error),
    /// Nothing was sent: what is at the socket's place is not the sandbox's agent.
    #[error("what answers is not the sandbox's agent: {0}")]
    NotOurs(String),
    /// The connection ended after the request was sent: nobody knows what became of it.
    #[error("the connection to the agent was lost after the request was sent")]
    Interrupted,
    /// The agent said no.
    #[error("the agent refused ({code:?}): {message}")]
    Refused {
        /// What to branch on.
        code: RefusalCode,
        /// For people.
        message: String,
        /// The request's field that is wrong, where one is.
        field: Option<String>,
    },
    /// The agent serves another generation of the sandbox: nothing was done. The node's view is behind, or the sandbox was
    /// placed again.
    #[error("the agent serves another generation ({held:?})")]
    OtherGeneration {
        /// Which one, if it says so.
        held: Option<u64>,
    },
    /// The node's lease ran out while a command ran: all that it started is killed, and how it ended is not known.
    #[error("the node's lease ran out while the command ran")]
    LeaseLapsed,
    /// The agent is older than leases, so it must not serve a sandbox that may be placed again.
    #[error("the agent does not know leases")]
    LeaseUnknown,
    /// The agent said something that does not belong there.
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
    /// The agent did not answer in time; the request was sent.
    #[error("the agent did not answer in time")]
    TimedOut,
}

/// Why an agent refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The request is wrong; the field says where.
    Invalid,
    /// Of another generation than the agent serves.
    StaleGeneration,
    /// The sandbox may not run user code yet.
    NotActive,
    /// Reserved for another sandbox or spec.
    Conflict,
    /// The template does not allow it.
    Forbidden,
    /// At a limit of the sandbox: processes, open files, memory.
    ResourceLimit,
    /// No such file.
    NotFound,
    /// A directory was needed.
    NotADirectory,
    /// A file was needed.
    IsADirectory,
    /// Not permitted to the sandbox's user.
    Permission,
    /// The sandbox's disk is full.
    NoSpace,
    /// Something is there already.
    Exists,
    /// The file would be too large.
    TooLarge,
    /// The node's lease has run out, and the sandbox may be placed again.
    LeaseExpired,
    /// The agent does not know the operation.
    Unsupported,
    /// A fault of the agent.
    Internal,
}

impl AgentError {
    /// Whether it is certain that the request had no effect. A remove that was refused may have removed a part.
    pub fn surely_not_done(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NotOurs(_) | Self::Refused { .. } | Self::OtherGeneration { .. } => true,
            Self::Interrupted | Self::LeaseLapsed | Self::LeaseUnknown | Self::Protocol(_) | Self::TimedOut => false,
        }
    }

    /// The code of a refusal.
    pub fn refusal_code(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::OtherGeneration { .. } => Some(RefusalCode::StaleGeneration),
            _ => None,
        }
    }

    pub(super) fn refused(error: WireError) -> Self {
        let code = match error.code() {
            ErrorCode::StaleGeneration => {
                return Self::OtherGeneration { held: Some(error.generation).filter(|held| *held != 0) };
            }
            ErrorCode::LeaseLapsed => return Self::LeaseLapsed,
            other => other.into(),
        };
        let cut = |text: String| text.chars().take(MESSAGE_CHARS_MAX).collect::<String>();
        let field = Some(cut(error.field)).filter(|field| !field.is_empty());
        Self::Refused { code, message: cut(error.message), field }
    }

    pub(super) fn unexpected(frame: &'static str) -> Self {
        Self::Protocol(format!("a frame that does not belong here: {frame}"))
    }
}

impl From<ErrorCode> for RefusalCode {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Invalid => Self::Invalid,
            ErrorCode::StaleGeneration => Self::StaleGeneration,
            ErrorCode::NotActive => Self::NotActive,
            ErrorCode::Conflict => Self::Conflict,
            ErrorCode::Forbidden => Self::Forbidden,
            ErrorCode::ResourceLimit => Self::ResourceLimit,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::NotADirectory => Self::NotADirectory,
            ErrorCode::IsADirectory => Self::IsADirectory,
            ErrorCode::Permission => Self::Permission,
            ErrorCode::NoSpace => Self::NoSpace,
            ErrorCode::Exists => Self::Exists,
            ErrorCode::TooLarge => Self::TooLarge,
            ErrorCode::Unsupported => Self::Unsupported,
            ErrorCode::LeaseExpired => Self::LeaseExpired,
            // A lapse is no refusal: see `refused`.
            ErrorCode::Internal | ErrorCode::LeaseLapsed | ErrorCode::Unspecified => Self::Internal,
        }
    }
}
