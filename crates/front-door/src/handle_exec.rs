//! Exec: one command, from its first byte to its end, in one answer.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::handle_sandboxes::id_of;
use crate::operations::Operations;
use crate::refusal::Refusal;
use crate::{body, exec_body};

pub(crate) async fn exec<O: Operations>(
    request: HttpRequest,
    payload: web::Payload,
    operations: web::Data<O>,
) -> Result<HttpResponse, Refusal> {
    let id = id_of(&request)?;
    let (asked, encoding) = exec_body::read(body::json(&request, payload).await?)?;
    let outcome = operations.exec(id, asked).await?;
    if outcome.timed_out {
        return Err(exec_body::timed_out(&outcome, encoding).into());
    }
    Ok(HttpResponse::Ok().content_type("application/json").body(exec_body::answer(&outcome, encoding)))
}
