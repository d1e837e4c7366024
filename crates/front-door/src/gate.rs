//! What every request passes through: its id, its key, its line in the log, and the body of its
//! error.

use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, web};
use tracing::Instrument;
use types::{ErrorCode, WarrenError};

use crate::keys::Keys;
use crate::refusal::{Refusal, code_of, error_body, status_of};
use crate::request_id::{self, RequestId, RequestIds};
use crate::routes;

/// What the gate knows.
pub(crate) struct Gate {
    pub(crate) keys: Keys,
    pub(crate) request_ids: RequestIds,
}

/// Lets a request in or not, and sees its answer out.
pub(crate) async fn pass(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let gate = request.app_data::<web::Data<Gate>>().expect("the application is built with its gate").clone();
    let id = gate.request_ids.of(request.headers());
    // The query is left out: it holds paths of files.
    let span = tracing::info_span!("request", request_id = %id.0, method = %request.method(), path = request.path());
    async move {
        let answer = match routes::needs_key(request.path()).then(|| gate.keys.admit(request.headers())) {
            Some(Err(refusal)) => request.error_response(refusal),
            admitted => {
                {
                    let mut extensions = request.extensions_mut();
                    extensions.insert(id.clone());
                    if let Some(Ok(caller)) = admitted {
                        extensions.insert(caller);
                    }
                }
                next.call(request).await?.map_into_boxed_body()
            }
        };
        let answer = see_out(answer, &id);
        tracing::info!(
            target: "front_door::access",
            status = answer.status().as_u16(),
            microseconds = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            "answered"
        );
        Ok(answer)
    }
    .instrument(span)
    .await
}

fn see_out(answer: ServiceResponse, id: &RequestId) -> ServiceResponse {
    let mut answer = match answer.status() {
        status if status.is_client_error() || status.is_server_error() => worded(answer, id),
        _ => answer,
    };
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        answer.headers_mut().insert(HeaderName::from_static(request_id::HEADER), value);
    }
    answer
}

/// Gives an error its body. An answer that already speaks JSON is left alone.
fn worded(answer: ServiceResponse, id: &RequestId) -> ServiceResponse {
    let refusal = answer.response().error().and_then(|error| error.as_error::<Refusal>());
    if refusal.is_none() && answer.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json") {
        return answer;
    }
    let response = match refusal {
        Some(refusal) => {
            if refusal.error.code == ErrorCode::Internal {
                tracing::error!(error = %refusal.error.message, details = ?refusal.error.details, "request failed");
            }
            let mut response = error_response(&refusal.error, id);
            if let Some((name, value)) = refusal.header() {
                response.headers_mut().insert(name.clone(), value.clone());
            }
            response
        }
        // The server library's own words, for example of a payload that it could not read.
        None => {
            let reason = answer.status().canonical_reason().unwrap_or("error").to_ascii_lowercase();
            error_response(&WarrenError::new(code_of(answer.status()), reason), id)
        }
    };
    answer.into_response(response)
}

/// A whole error answer.
pub(crate) fn error_response(error: &WarrenError, id: &RequestId) -> HttpResponse {
    let mut builder = HttpResponse::build(status_of(error.code));
    builder.content_type("application/json");
    if let Some(seconds) = error.code.retry_after_seconds() {
        builder.insert_header((RETRY_AFTER, seconds.to_string()));
    }
    builder.body(error_body(error, &id.0))
}
