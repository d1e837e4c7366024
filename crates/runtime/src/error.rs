//! How a call to the engine fails.

use std::future::Future;
use std::time::Duration;

/// How a call to the engine fails. Of these only `Refused` says that the engine looked at the call;
/// after the others it is unknown whether it was carried out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No connection, or it broke.
    #[error("the engine can not be reached for {call}: {why}")]
    Unreachable {
        /// What was asked.
        call: &'static str,
        /// What the system said.
        why: String,
    },
    /// No answer in time.
    #[error("the engine did not answer {call} within {} ms", after.as_millis())]
    TimedOut {
        /// What was asked.
        call: &'static str,
        /// The time it was given.
        after: Duration,
    },
    /// The engine said no.
    #[error("the engine refused {call} with {status}: {message}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// An answer that can not be read.
    #[error("the engine's answer to {call} can not be read: {why}")]
    BadAnswer {
        /// What was asked.
        call: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl EngineError {
    /// The engine knows no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    pub(crate) fn from_podman(call: &'static str, error: podman_api::Error) -> Self {
        use podman_api::Error as Podman;
        match error {
            Podman::Fault { code, message } => Self::Refused { call, status: code.as_u16(), message },
            Podman::SerdeJsonError(_) | Podman::InvalidResponse(_) => Self::BadAnswer { call, why: error.to_string() },
            other => Self::Unreachable { call, why: other.to_string() },
        }
    }
}

/// Gives a podman-api call a name and a time-out.
pub(crate) async fn timed<T>(
    call: &'static str,
    limit: Duration,
    future: impl Future<Output = podman_api::Result<T>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result.map_err(|error| EngineError::from_podman(call, error)),
        Err(_) => Err(EngineError::TimedOut { call, after: limit }),
    }
}
