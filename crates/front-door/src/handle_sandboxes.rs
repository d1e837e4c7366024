//! Sandboxes: made, shown, ended, stopped and started.

use actix_web::http::header::LINK;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde_json::json;
use types::{ErrorCode, SandboxId, WarrenError};

use crate::keys::Caller;
use crate::operations::{Deleted, Operations};
use crate::query::Query;
use crate::refusal::Refusal;
use crate::server::Facts;
use crate::views::SandboxView;
use crate::{body, create_body, idempotency};

type Answer = Result<HttpResponse, Refusal>;

/// The id in a request's path. Another form is the id of no sandbox.
pub(crate) fn id_of(request: &HttpRequest) -> Result<SandboxId, WarrenError> {
    request
        .match_info()
        .get("id")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| WarrenError::new(ErrorCode::NotFound, "sandbox not found"))
}

pub(crate) async fn create<O: Operations>(
    request: HttpRequest,
    payload: web::Payload,
    operations: web::Data<O>,
    facts: web::Data<Facts>,
) -> Answer {
    let body = body::json(&request, payload).await?;
    let caller = request.extensions().get::<Caller>().copied();
    let idempotency = match caller {
        Some(caller) => idempotency::read(request.headers(), caller, request.method().as_str(), request.path(), &body)?,
        None => return Err(WarrenError::new(ErrorCode::Internal, "a create came without its caller").into()),
    };
    let mut asked = create_body::read(body, facts.limits.never_expires)?;
    asked.idempotency = idempotency;
    let sandbox = operations.create(asked).await?;
    Ok(HttpResponse::Created().json(SandboxView::from(&sandbox)))
}

pub(crate) async fn list<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let query = Query::new(request.query_string());
    let page = operations.list(query.list_filter()?, query.consistency()?).await?;
    let mut builder = HttpResponse::Ok();
    if let Some(next) = &page.next {
        builder.insert_header((LINK, format!("<{}?{}>; rel=\"next\"", request.path(), query.with_cursor(next))));
    }
    Ok(builder.json(page.items.iter().map(SandboxView::from).collect::<Vec<_>>()))
}

pub(crate) async fn get<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let id = id_of(&request)?;
    let consistency = Query::new(request.query_string()).consistency()?;
    let sandbox = operations.get(id, consistency).await?;
    Ok(HttpResponse::Ok().json(SandboxView::from(&sandbox)))
}

pub(crate) async fn delete<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    Ok(match operations.delete(id_of(&request)?).await? {
        Deleted::Done => HttpResponse::NoContent().finish(),
        Deleted::Destroying => HttpResponse::Accepted().json(json!({ "status": "destroying" })),
    })
}

pub(crate) async fn stop<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let status = operations.stop(id_of(&request)?).await?;
    Ok(HttpResponse::Ok().json(json!({ "status": status.as_str() })))
}

pub(crate) async fn start<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let status = operations.start(id_of(&request)?).await?;
    Ok(HttpResponse::Ok().json(json!({ "status": status.as_str() })))
}
