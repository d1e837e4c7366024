//! Files: read and written as streams, shown, made and removed.

use std::io;
use std::time::Duration;

use actix_web::body::{BodyStream, SizedStream};
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use types::{ErrorCode, SandboxId, WarrenError};

use crate::handle_sandboxes::id_of;
use crate::limits::UPLOAD_IDLE_TIMEOUT;
use crate::operations::{ByteRange, ByteStream, Download, Operations, UploadStream};
use crate::query::{self, Query};
use crate::ranges::{self, Asked};
use crate::refusal::Refusal;
use crate::views::FileView;

type Answer = Result<HttpResponse, Refusal>;

fn target(request: &HttpRequest) -> Result<(SandboxId, String), WarrenError> {
    Ok((id_of(request)?, Query::new(request.query_string()).path()?))
}

pub(crate) fn success() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "success": true }))
}

pub(crate) async fn list<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let id = id_of(&request)?;
    let path = Query::new(request.query_string()).path_or_root()?;
    let entries = operations.list_files(id, &path).await?;
    Ok(HttpResponse::Ok().json(entries.iter().map(FileView::from).collect::<Vec<_>>()))
}

pub(crate) async fn stat<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let (id, path) = target(&request)?;
    let entry = operations.stat_file(id, &path).await?;
    Ok(HttpResponse::Ok().json(FileView::from(&entry)))
}

pub(crate) async fn mkdir<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let (id, path) = target(&request)?;
    operations.mkdir(id, &path).await?;
    Ok(success())
}

pub(crate) async fn remove<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let (id, path) = target(&request)?;
    operations.remove_file(id, &path).await?;
    Ok(success())
}

pub(crate) async fn write<O: Operations>(
    request: HttpRequest,
    payload: web::Payload,
    operations: web::Data<O>,
) -> Answer {
    let (id, path) = target(&request)?;
    operations.write_file(id, &path, upload_stream(payload)).await?;
    Ok(success())
}

/// A client's bytes, taken only as fast as they are asked for, and not waited for without end.
fn upload_stream(payload: web::Payload) -> UploadStream {
    let pieces = payload.map(|piece| {
        piece.map_err(|error| match error {
            PayloadError::Io(error) => error,
            PayloadError::Incomplete(_) => io::Error::new(io::ErrorKind::UnexpectedEof, "the upload ended early"),
            error => io::Error::other(error.to_string()),
        })
    });
    Box::pin(patient(pieces, UPLOAD_IDLE_TIMEOUT))
}

/// Ends a stream with an error where no piece comes for a while after one was asked for.
pub(crate) fn patient<S>(pieces: S, idle_max: Duration) -> impl Stream<Item = Result<Bytes, io::Error>>
where
    S: Stream<Item = Result<Bytes, io::Error>> + Unpin,
{
    stream::unfold(Some(pieces), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(idle_max, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "the upload stands still")), None)),
        }
    })
}

pub(crate) async fn read<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let (id, path) = target(&request)?;
    send(&request, &**operations, id, &path, None).await
}

pub(crate) async fn download<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let (id, path) = target(&request)?;
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    // The plain name is for clients that do not know the other form; it can not break out of its quotes.
    let plain: String = name
        .chars()
        .map(|character| match character {
            '"' | '\\' => '_',
            character if character.is_ascii_graphic() || character == ' ' => character,
            _ => '_',
        })
        .collect();
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", query::encoded(name));
    send(&request, &**operations, id, &path, Some(disposition)).await
}

async fn send<O: Operations>(
    request: &HttpRequest,
    operations: &O,
    id: SandboxId,
    path: &str,
    disposition: Option<String>,
) -> Answer {
    let range = match ranges::asked(request.headers()) {
        None => None,
        Some(Asked::From(offset, last)) => {
            // The last byte of all has no length that a u64 could hold; it has no file either.
            Some(ByteRange { offset, length: last.and_then(|last| (last - offset).checked_add(1)) })
        }
        // Where the end lies only the opened file knows (a link's own size is another).
        Some(Asked::Last(count)) => {
            let size = operations.read_file(id, path, None).await?.entry.size;
            let offset = if count == 0 { size } else { size.saturating_sub(count) };
            Some(ByteRange { offset, length: Some(count) })
        }
    };
    let Download { entry, body } = operations.read_file(id, path, range).await?;
    let tag = ranges::entity_tag(&entry);
    if ranges::is_known(request.headers(), &tag) {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, tag)).finish());
    }
    let mut builder = HttpResponse::Ok();
    builder.content_type("application/octet-stream").insert_header((ETAG, tag)).insert_header((ACCEPT_RANGES, "bytes"));
    if let Some(disposition) = disposition {
        builder.insert_header((CONTENT_DISPOSITION, disposition));
    }
    match range {
        None => whole(builder, entry.size, body).await,
        Some(range) => part(builder, entry.size, range, body),
    }
}

fn part(mut builder: HttpResponseBuilder, size: u64, range: ByteRange, body: ByteStream) -> Answer {
    let length = size.saturating_sub(range.offset).min(range.length.unwrap_or(u64::MAX));
    if length == 0 {
        let error = WarrenError::new(ErrorCode::RangeNotSatisfiable, "the range lies past the end of the file");
        return Err(Refusal::from(error.with("size", size)).with_header(CONTENT_RANGE, &format!("bytes */{size}")));
    }
    let (first, last) = (range.offset, range.offset + length - 1);
    builder.status(StatusCode::PARTIAL_CONTENT).insert_header((CONTENT_RANGE, format!("bytes {first}-{last}/{size}")));
    Ok(builder.body(SizedStream::new(length, body)))
}

/// A whole file. Its first two pieces are awaited before the head is sent: an early error still gets
/// its status, and a file that ends there gets its true length, which in `/proc` and `/sys` is not
/// the one it claims.
async fn whole(mut builder: HttpResponseBuilder, size: u64, mut body: ByteStream) -> Answer {
    let Some(first) = body.next().await.transpose()? else { return Ok(builder.body(Bytes::new())) };
    let Some(second) = body.next().await.transpose()? else { return Ok(builder.body(first)) };
    let rest = stream::iter([Ok(first), Ok(second)]).chain(body);
    Ok(match size {
        0 => builder.body(BodyStream::new(rest)),
        size => builder.body(SizedStream::new(size, rest)),
    })
}
