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
}

impl Refusal {
    /// An error with its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: "" }
    }

    /// The request's field is wrong.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self { code: ErrorCode::Invalid, message: why.into(), field }
    }

    /// The sandbox may not run user code yet.
    pub fn not_active(why: &str) -> Self {
        Self::new(ErrorCode::NotActive, why)
    }

    /// The request is of another generation.
    pub fn stale(asked: u64, held: u64) -> Self {
        Self::new(ErrorCode::StaleGeneration, format!("the request is of generation {asked}, the agent serves {held}"))
    }

    /// The agent belongs to another sandbox or spec.
    pub fn conflict(why: &str) -> Self {
        Self::new(ErrorCode::Conflict, why)
    }

    /// The template does not allow it.
    pub fn forbidden(field: &'static str, why: impl Into<String>) -> Self {
        Self { code: ErrorCode::Forbidden, message: why.into(), field }
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
        let error = Error { code: self.code.into(), message: self.message, field: self.field.to_owned() };
        AgentFrame { frame: Some(Frame::Error(error)) }
    }
}
