//! Reads a JSON body: its type, its size, its time, its text.

use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde_json::Value;
use types::limits::JSON_BODY_BYTES_MAX;
use types::{ErrorCode, WarrenError};

use crate::limits::JSON_BODY_TIMEOUT;

/// The JSON value that a request carries.
pub(crate) async fn json(request: &HttpRequest, payload: web::Payload) -> Result<Value, WarrenError> {
    check_type(request.headers())?;
    check_size(request.headers())?;
    let bytes = tokio::time::timeout(JSON_BODY_TIMEOUT, collect(payload))
        .await
        .map_err(|_| WarrenError::new(ErrorCode::TimedOut, "the body did not arrive in time"))??;
    serde_json::from_slice(&bytes).map_err(|error| {
        wrong(if bytes.is_empty() { "a JSON object is required".to_owned() } else { format!("not JSON: {error}") })
    })
}

fn wrong(why: String) -> WarrenError {
    WarrenError::field("body", why)
}

/// None at all is taken as JSON.
fn check_type(headers: &HeaderMap) -> Result<(), WarrenError> {
    if let Some(value) = headers.get(CONTENT_TYPE) {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !essence.is_empty() && !essence.eq_ignore_ascii_case(b"application/json") {
            return Err(WarrenError::new(ErrorCode::UnsupportedMediaType, "the body must be application/json"));
        }
    }
    match headers.get(CONTENT_ENCODING) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(WarrenError::new(ErrorCode::UnsupportedMediaType, "the body must not be compressed"))
        }
        _ => Ok(()),
    }
}

/// A body that says it is too large is refused before a byte of it is read.
fn check_size(headers: &HeaderMap) -> Result<(), WarrenError> {
    let said = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match said {
        Some(length) if length > JSON_BODY_BYTES_MAX as u64 => Err(too_large()),
        _ => Ok(()),
    }
}

fn too_large() -> WarrenError {
    WarrenError::new(ErrorCode::TooLarge, format!("a JSON body holds at most {JSON_BODY_BYTES_MAX} bytes"))
        .with("limit", JSON_BODY_BYTES_MAX)
}

/// Most bodies arrive in one piece, which is taken as it is.
async fn collect(mut payload: web::Payload) -> Result<Bytes, WarrenError> {
    let first = payload.next().await.transpose().map_err(unreadable)?.unwrap_or_default();
    let mut whole = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(unreadable)?;
        if whole.is_empty() {
            whole.extend_from_slice(&first);
        }
        if whole.len() + piece.len() > JSON_BODY_BYTES_MAX {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
    }
    match whole.is_empty() {
        true if first.len() > JSON_BODY_BYTES_MAX => Err(too_large()),
        true => Ok(first),
        false => Ok(whole.freeze()),
    }
}

fn unreadable(error: PayloadError) -> WarrenError {
    wrong(match error {
        PayloadError::Incomplete(_) => "ended early".to_owned(),
        error => error.to_string(),
    })
}
