//! `health` and `version`: what a node says of itself to anybody.

use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use types::ErrorCode;

use crate::operations::Operations;
use crate::refusal::status_of;
use crate::request_id::RequestId;
use crate::server::Facts;

/// What a client may count on beside the oldest contract.
const FEATURES: [&str; 5] = ["network_mode", "start", "file_stat", "sandbox_ip", "writable_rootfs"];

pub(crate) async fn health<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> HttpResponse {
    let health = operations.health();
    let mut body = json!({
        "features": FEATURES, "cluster": health.cluster, "node": health.node, "quorum": health.quorum, "voters": health.voters,
    });
    if let Some(leader) = health.leader {
        body["leader"] = json!(leader);
    }
    let Some(reason) = health.unhealthy else {
        body["status"] = json!("ok");
        return HttpResponse::Ok().json(body);
    };
    // Both forms at once: of a health check and of an error.
    let code = ErrorCode::Unhealthy;
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
    body["status"] = json!("unhealthy");
    body["code"] = json!(code.as_str());
    body["error"] = json!(format!("this node does not work: {reason}"));
    body["reason"] = json!(reason);
    body["request_id"] = request_id.map_or(Value::Null, Value::String);
    let mut builder = HttpResponse::build(status_of(code));
    if let Some(seconds) = code.retry_after_seconds() {
        builder.insert_header((RETRY_AFTER, seconds.to_string()));
    }
    builder.json(body)
}

pub(crate) async fn version(facts: web::Data<Facts>) -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "version": facts.version.version,
        "commit": facts.version.commit,
        "build_date": facts.version.build_date,
        "features": FEATURES,
    }))
}
