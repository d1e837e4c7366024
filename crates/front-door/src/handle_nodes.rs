//! The cluster's members.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::node_view::NodeView;
use crate::operations::Operations;
use crate::query::Query;
use crate::refusal::Refusal;

type Answer = Result<HttpResponse, Refusal>;

pub(crate) async fn list<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let consistency = Query::new(request.query_string()).consistency()?;
    let nodes = operations.nodes(consistency).await?;
    Ok(HttpResponse::Ok().json(nodes.iter().map(NodeView::from).collect::<Vec<_>>()))
}

pub(crate) async fn get<O: Operations>(request: HttpRequest, operations: web::Data<O>) -> Answer {
    let consistency = Query::new(request.query_string()).consistency()?;
    let id = request.match_info().get("id").unwrap_or_default();
    let node = operations.node(id, consistency).await?;
    Ok(HttpResponse::Ok().json(NodeView::from(&node)))
}
