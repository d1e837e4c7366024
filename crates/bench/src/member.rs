//! The process of our side where only the log is measured: a node's placement without its engine, behind a small HTTP
//! door that speaks the two calls of etcd's gateway that are compared, so that the same client asks both sides alike.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use node::NodeConfig;
use node::placement_alone::PlacementAlone;
use serde::Deserialize;
use serde_json::json;
use types::{SandboxId, Timestamp};
use warren_core::placement::{self, Command, Kind, Outcome};

/// How a member is started.
#[derive(Args)]
pub struct Arguments {
    /// Its log and identity
    #[arg(long)]
    data_dir: PathBuf,
    /// Where it is asked
    #[arg(long)]
    listen: SocketAddr,
    /// Where the others reach it
    #[arg(long)]
    peer_listen: SocketAddr,
    /// Peer address of a member
    #[arg(long, requires = "join_token")]
    join: Option<String>,
    /// The token that lets it join
    #[arg(long)]
    join_token: Option<String>,
}

#[derive(Deserialize)]
struct Put {
    value: String,
}

#[derive(Deserialize)]
struct Range {
    key: String,
}

/// Serves until it is told to end.
pub fn serve(arguments: Arguments) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    actix::System::new().block_on(async {
        // Bound first, so that whoever waits for it waits for an answer.
        let listener = TcpListener::bind(arguments.listen)?;
        let config = NodeConfig {
            data_dir: arguments.data_dir,
            listen: arguments.listen,
            peer_listen: Some(arguments.peer_listen),
            join: arguments.join,
            join_token: arguments.join_token,
            ..NodeConfig::default()
        };
        let (placement, mut ended) = PlacementAlone::start(&config).await?;
        let placement = Data::new(placement);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(placement.clone())
                .route("/status", web::get().to(status))
                .route("/v3/kv/put", web::post().to(put))
                .route("/v3/kv/range", web::post().to(range))
        });
        // As the front door has it.
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let server = server.workers(workers).tcp_nodelay(true).listen(listener)?.run();
        until_ended(server, &mut ended).await
    })
}

async fn until_ended(
    server: actix_web::dev::Server,
    ended: &mut tokio::sync::mpsc::UnboundedReceiver<node::ExitReason>,
) -> Result<()> {
    tokio::select! {
        served = server => Ok(served?),
        reason = ended.recv() => anyhow::bail!("{reason:?}"),
    }
}

async fn status(placement: Data<PlacementAlone>) -> HttpResponse {
    let (host, incarnation) = placement.owner();
    HttpResponse::Ok().json(json!({
        "host": host.as_str(),
        "incarnation": incarnation.0,
        "leads": placement.leads(),
    }))
}

async fn put(placement: Data<PlacementAlone>, Json(put): Json<Put>) -> HttpResponse {
    let Ok(command) = BASE64.decode(&put.value) else { return refused("not base64") };
    let started = Instant::now();
    match placement.commit(&command).await {
        Ok(Outcome::Placed { generation }) => {
            let took_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            HttpResponse::Ok().json(json!({ "generation": generation.0, "took_ns": took_ns }))
        }
        Ok(other) => refused(&format!("{other:?}")),
        Err(error) => failed(&error),
    }
}

async fn range(placement: Data<PlacementAlone>, Json(range): Json<Range>) -> HttpResponse {
    let id = BASE64.decode(&range.key).ok().and_then(|key| String::from_utf8(key).ok()?.parse::<SandboxId>().ok());
    let Some(id) = id else { return refused("not a key") };
    match placement.read(&id).await {
        Ok(Some(place)) => {
            let value = placement::encode(&Command { time: Timestamp(0), kind: Kind::Place(Box::new(place)) });
            HttpResponse::Ok().json(json!({ "kvs": [{ "key": range.key, "value": BASE64.encode(value) }] }))
        }
        Ok(None) => HttpResponse::Ok().json(json!({})),
        Err(error) => failed(&error),
    }
}

fn refused(why: &str) -> HttpResponse {
    HttpResponse::build(StatusCode::CONFLICT).body(why.to_owned())
}

fn failed(error: &anyhow::Error) -> HttpResponse {
    HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE).body(format!("{error:#}"))
}
