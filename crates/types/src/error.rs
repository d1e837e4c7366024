//! One list of error codes, mapped once to HTTP.

use std::collections::BTreeMap;

/// Every code that a client can be shown; the name on the wire is its snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// A field, parameter or header is wrong.
    BadRequest,
    /// No key was given.
    MissingApiKey,
    /// The key is not known.
    InvalidApiKey,
    /// The sandbox's own permissions or the template forbid it.
    Forbidden,
    /// No such route, sandbox or snapshot.
    NotFound,
    /// No such file inside the sandbox.
    FileNotFound,
    /// The route knows other methods.
    MethodNotAllowed,
    /// The deadline that the client set has passed.
    TimedOut,
    /// The sandbox is in another state than the call needs.
    WrongState,
    /// The target is there already.
    Exists,
    /// The key was used with another body.
    IdempotencyMismatch,
    /// What the key made was deleted or has expired.
    Gone,
    /// The body is larger than its limit.
    TooLarge,
    /// The body has another type than the route takes.
    UnsupportedMediaType,
    /// The range lies past the end of the file.
    RangeNotSatisfiable,
    /// What was asked for can not be made: image, template or snapshot.
    Unprocessable,
    /// Too many requests.
    RateLimited,
    /// A fault of ours.
    Internal,
    /// Not possible on this host or not built, and why.
    NotImplemented,
    /// No node has room; each node's reason is in the details.
    NoCapacity,
    /// No majority answers.
    NoQuorum,
    /// It surely did not happen; try again.
    Unavailable,
    /// Unknown whether it happened.
    Interrupted,
    /// A limit of the sandbox itself (processes, memory) stood in the way.
    ResourceLimit,
    /// No space left inside the sandbox.
    NoSpace,
    /// The local engine does not answer.
    Unhealthy,
}

impl ErrorCode {
    /// Every code, for the contract document and its tests.
    pub const ALL: &'static [ErrorCode] = &[
        Self::BadRequest,
        Self::MissingApiKey,
        Self::InvalidApiKey,
        Self::Forbidden,
        Self::NotFound,
        Self::FileNotFound,
        Self::MethodNotAllowed,
        Self::TimedOut,
        Self::WrongState,
        Self::Exists,
        Self::IdempotencyMismatch,
        Self::Gone,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::RangeNotSatisfiable,
        Self::Unprocessable,
        Self::RateLimited,
        Self::Internal,
        Self::NotImplemented,
        Self::NoCapacity,
        Self::NoQuorum,
        Self::Unavailable,
        Self::Interrupted,
        Self::ResourceLimit,
        Self::NoSpace,
        Self::Unhealthy,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::MissingApiKey => "missing_api_key",
            Self::InvalidApiKey => "invalid_api_key",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::FileNotFound => "file_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::TimedOut => "timed_out",
            Self::WrongState => "wrong_state",
            Self::Exists => "exists",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::Unprocessable => "unprocessable",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
            Self::NotImplemented => "not_implemented",
            Self::NoCapacity => "no_capacity",
            Self::NoQuorum => "no_quorum",
            Self::Unavailable => "unavailable",
            Self::Interrupted => "interrupted",
            Self::ResourceLimit => "resource_limit",
            Self::NoSpace => "no_space",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The code that bears this name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::MissingApiKey | Self::InvalidApiKey => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::FileNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TimedOut => 408,
            Self::WrongState | Self::Exists | Self::IdempotencyMismatch => 409,
            Self::Gone => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::Unprocessable => 422,
            Self::RateLimited | Self::ResourceLimit => 429,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::NoCapacity | Self::NoQuorum | Self::Unavailable | Self::Interrupted | Self::Unhealthy => 503,
            Self::NoSpace => 507,
        }
    }

    /// Seconds after which trying again makes sense, for the codes that carry `Retry-After`.
    #[must_use]
    pub fn retry_after_seconds(self) -> Option<u64> {
        matches!(self.http_status(), 429 | 503).then_some(1)
    }
}

/// An error as a client is shown it: a sentence, a code, and details where they help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WarrenError {
    /// What clients branch on.
    pub code: ErrorCode,
    /// One sentence for a person.
    pub message: String,
    /// Facts beside the sentence, by name.
    pub details: BTreeMap<String, serde_json::Value>,
}

impl WarrenError {
    /// An error with a sentence and no details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: BTreeMap::new() }
    }

    /// A wrong field, named in the way of the contract: `<field>: <why>`.
    #[must_use]
    pub fn field(field: &str, why: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::BadRequest, format!("{field}: {why}")).with("field", field)
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn every_code_has_one_name_and_a_status() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(*code));
            assert!((400..=599).contains(&code.http_status()));
        }
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }
}
