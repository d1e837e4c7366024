//! Why the agent refuses: the typed errors of the protocol.

use std::io;

use proto::agent::{AgentFrame, Error, ErrorCode, agent_frame::Frame};

/// A typed error on its way to the host.
#[derive(Debug)]
pub struct Refusal {
    /// What the host branches on.
    pub code: ErrorCode,
    message: String,
    field: &'static str,
    generation: u64,
}

impl Refusal {
    /// An error with its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: "", generation: 0 }
    }

    /// The request's field is wrong.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, ..Self::new(ErrorCode::Invalid, why) }
    }

    /// The sandbox may not run user code yet.
    pub fn not_active(why: &str) -> Self {
        Self::new(ErrorCode::NotActive, why)
    }

    /// The request is of another generation.
    pub fn stale(asked: u64, held: u64) -> Self {
        let why = format!("the request is of generation {asked}, the agent serves {held}");
        Self { generation: held, ..Self::new(ErrorCode::StaleGeneration, why) }
    }

    /// The node's lease has run out: nothing was done.
    pub fn lease_expired() -> Self {
        Self::new(ErrorCode::LeaseExpired, "the node's lease has run out")
    }

    /// The node's lease ran out meanwhile: what ran is killed.
    pub fn lease_lapsed() -> Self {
        Self::new(ErrorCode::LeaseLapsed, "the node's lease ran out while the command ran")
    }

    /// The agent belongs to another sandbox or spec.
    pub fn conflict(why: &str) -> Self {
        Self::new(ErrorCode::Conflict, why)
    }

    /// The template does not allow it.
    pub fn forbidden(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, ..Self::new(ErrorCode::Forbidden, why) }
    }

    /// A system call failed; `what` was being done.
    pub fn os(what: &str, error: &io::Error) -> Self {
        let code = match error.raw_os_error().unwrap_or(0) {
            libc::ENOENT => ErrorCode::NotFound,
            libc::ENOTDIR => ErrorCode::NotADirectory,
            libc::EISDIR => ErrorCode::IsADirectory,
            libc::EACCES | libc::EPERM | libc::EROFS => ErrorCode::Permission,
            libc::ENOSPC | libc::EDQUOT => ErrorCode::NoSpace,
            libc::EEXIST | libc::ENOTEMPTY => ErrorCode::Exists,
            libc::EFBIG => ErrorCode::TooLarge,
            libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP => ErrorCode::Invalid,
            libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM => ErrorCode::ResourceLimit,
            _ => ErrorCode::Internal,
        };
        Self::new(code, format!("{what}: {error}"))
    }

    /// As the frame that is sent.
    pub fn into_frame(self) -> AgentFrame {
        let Self { code, message, field, generation } = self;
        let error = Error { code: code.into(), message, field: field.to_owned(), generation };
        AgentFrame { frame: Some(Frame::Error(error)) }
    }
}
