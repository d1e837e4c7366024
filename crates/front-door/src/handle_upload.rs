//! Upload: a file in a form of parts, for browsers and older clients.

use std::io;

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use types::limits::PATH_BYTES_MAX;
use types::{ErrorCode, SandboxId, WarrenError};

use crate::handle_files::{patient, success};
use crate::handle_sandboxes::id_of;
use crate::limits::{UPLOAD_HELD_BYTES_MAX, UPLOAD_IDLE_TIMEOUT};
use crate::operations::{Operations, UploadStream};
use crate::query::{Query, checked_path, path_error};
use crate::refusal::Refusal;

/// Takes the parts `path` and `file`; `path` may also stand in the query. A `file` that comes after
/// its path is streamed; one that comes before it is held in memory up to a limit.
pub(crate) async fn upload<O: Operations>(
    request: HttpRequest,
    payload: web::Payload,
    operations: web::Data<O>,
) -> Result<HttpResponse, Refusal> {
    let id = id_of(&request)?;
    let is_form = request.headers().get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b';')
            .next()
            .is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data"))
    });
    if !is_form {
        return Err(Refusal::new(ErrorCode::UnsupportedMediaType, "the body must be multipart/form-data"));
    }
    let named_in_query = request.query_string().split('&').any(|pair| pair.starts_with("path="));
    let mut path = named_in_query.then(|| Query::new(request.query_string()).path()).transpose()?;
    let mut held = None;
    let mut parts = Multipart::new(request.headers(), payload);
    while let Some(part) = parts.next().await {
        let part = part.map_err(unreadable)?;
        match (part.name(), &path) {
            (Some("path"), _) => path = Some(checked_path(text_of(part).await?)?),
            (Some("file"), Some(path)) => {
                let body = patient(part.map(|piece| piece.map_err(broken)), UPLOAD_IDLE_TIMEOUT);
                return store(&**operations, id, path, Box::pin(body)).await;
            }
            (Some("file"), None) => held = Some(held_of(part).await?),
            _ => {}
        }
    }
    let path = path.ok_or_else(|| path_error("path query parameter is required"))?;
    let held = held.ok_or_else(|| WarrenError::field("file", "is required"))?;
    store(&**operations, id, &path, Box::pin(stream::iter([Ok(held)]))).await
}

async fn store<O: Operations>(
    operations: &O,
    id: SandboxId,
    path: &str,
    body: UploadStream,
) -> Result<HttpResponse, Refusal> {
    operations.write_file(id, path, body).await?;
    Ok(success())
}

async fn text_of(part: Field) -> Result<String, WarrenError> {
    let bytes = collected(part, PATH_BYTES_MAX)
        .await?
        .ok_or_else(|| WarrenError::field("path", format_args!("must be at most {PATH_BYTES_MAX} bytes long")))?;
    match String::from_utf8(bytes.to_vec()) {
        Ok(text) if text.is_empty() => Err(path_error("path query parameter is required")),
        Ok(text) => Ok(text),
        Err(_) => Err(WarrenError::field("path", "must be UTF-8")),
    }
}

async fn held_of(part: Field) -> Result<Bytes, WarrenError> {
    collected(part, UPLOAD_HELD_BYTES_MAX).await?.ok_or_else(|| {
        let why = format!("a file of more than {UPLOAD_HELD_BYTES_MAX} bytes must come after its path");
        WarrenError::new(ErrorCode::TooLarge, why).with("field", "file")
    })
}

/// The whole part, or `None` where it is larger.
async fn collected(mut part: Field, bytes_max: usize) -> Result<Option<Bytes>, WarrenError> {
    let mut whole = BytesMut::new();
    loop {
        let next = tokio::time::timeout(UPLOAD_IDLE_TIMEOUT, part.next())
            .await
            .map_err(|_| WarrenError::new(ErrorCode::TimedOut, "the upload stands still"))?;
        match next {
            None => return Ok(Some(whole.freeze())),
            Some(piece) => {
                let piece = piece.map_err(unreadable)?;
                if whole.len() + piece.len() > bytes_max {
                    return Ok(None);
                }
                whole.extend_from_slice(&piece);
            }
        }
    }
}

fn unreadable(error: MultipartError) -> WarrenError {
    WarrenError::field("body", error)
}

fn broken(error: MultipartError) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())
}
