//! A request that was not granted, on its way out of a handler.

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use types::{ErrorCode, WarrenError};

/// A [`WarrenError`] with the header that goes with it. The gate writes its body, where the
/// request's id is known: there is one place that words an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: WarrenError,
    /// Boxed, since few have one and every handler's result has room for it.
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: &str) -> Self {
        WarrenError::new(code, message).into()
    }

    /// Adds a header; a value that no header can carry is left out.
    pub(crate) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.header = HeaderValue::from_str(value).ok().map(|value| Box::new((name, value)));
        self
    }

    pub(crate) fn header(&self) -> Option<&(HeaderName, HeaderValue)> {
        self.header.as_deref()
    }
}

impl From<WarrenError> for Refusal {
    fn from(error: WarrenError) -> Self {
        Self { error, header: None }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        status_of(self.error.code)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        HttpResponse::new(self.status_code())
    }
}

/// The status of a code.
pub(crate) fn status_of(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The code of a status that the server library chose by itself.
pub(crate) fn code_of(status: StatusCode) -> ErrorCode {
    ErrorCode::ALL
        .iter()
        .copied()
        .find(|code| code.http_status() == status.as_u16())
        .unwrap_or(if status.is_client_error() { ErrorCode::BadRequest } else { ErrorCode::Internal })
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    details: std::collections::BTreeMap<&'a str, &'a serde_json::Value>,
}

/// The body of an error. A fault of ours shows its request id and nothing of its inside.
pub(crate) fn error_body(error: &WarrenError, request_id: &str) -> Vec<u8> {
    let internal = error.code == ErrorCode::Internal;
    let details = match internal {
        true => Default::default(),
        false => error.details.iter().map(|(name, value)| (name.as_str(), value)).collect(),
    };
    let body = ErrorBody {
        error: if internal { "internal error" } else { &error.message },
        code: error.code.as_str(),
        request_id,
        details,
    };
    serde_json::to_vec(&body).expect("texts and JSON values always serialise")
}
