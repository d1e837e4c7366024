//! The few calls that podman-api can not make for us, over the same socket with hyper.
//!
//! A create is our own JSON, since podman-api misspells `no_new_privileges` and Podman ignores what
//! it does not know. Inspect is our own too: Podman 5 answers `Entrypoint` as a list, which
//! podman-api's model can not read, and we need six fields of two hundred.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use crate::error::EngineError;

/// Bytes of an answer that are read; an inspect is some ten thousand.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What one of our containers looks like to the engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspected {
    pub(crate) id: String,
    pub(crate) state: InspectedState,
    pub(crate) config: InspectedConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InspectedState {
    #[serde(default)]
    pub(crate) running: bool,
    #[serde(default)]
    pub(crate) pid: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InspectedConfig {
    #[serde(default)]
    pub(crate) labels: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Fault {
    #[serde(default)]
    cause: String,
    #[serde(default)]
    message: String,
}

/// Speaks to the service's socket, one connection a call.
#[derive(Debug, Clone)]
pub(crate) struct Libpod {
    socket: PathBuf,
}

impl Libpod {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Creates a container and answers its id.
    pub(crate) async fn create(&self, body: &serde_json::Value, limit: Duration) -> Result<String, EngineError> {
        let call = "create";
        let answer = self.call(call, limit, Method::POST, "/containers/create", body.to_string().into()).await?;
        parse::<Created>(call, &answer).map(|created| created.id)
    }

    /// What the engine knows of a container, by id or name.
    pub(crate) async fn inspect(&self, container: &str, limit: Duration) -> Result<Inspected, EngineError> {
        let call = "inspect";
        let path = format!("/containers/{container}/json");
        let answer = self.call(call, limit, Method::GET, &path, Bytes::new()).await?;
        parse(call, &answer)
    }

    async fn call(
        &self,
        call: &'static str,
        limit: Duration,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, EngineError> {
        let exchange = self.exchange(method, path, body);
        let (status, answer) = match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(EngineError::Unreachable { call, why }),
            Err(_) => return Err(EngineError::TimedOut { call, after: limit }),
        };
        if status.is_success() {
            return Ok(answer);
        }
        let message = match serde_json::from_slice::<Fault>(&answer) {
            Ok(fault) if fault.cause.is_empty() || fault.message.contains(&fault.cause) => fault.message,
            Ok(fault) => format!("{}: {}", fault.message, fault.cause),
            Err(_) => String::from_utf8_lossy(&answer).into_owned(),
        };
        Err(EngineError::Refused { call, status: status.as_u16(), message })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(method)
            .uri(format!("/v4.0.0/libpod{path}"))
            .header("host", "podman")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(answer);
        // The connection is driven here rather than on a task of its own, so that nothing outlives
        // a call that was given up.
        tokio::select! {
            result = &mut answer => result,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(call: &'static str, answer: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(answer).map_err(|error| EngineError::BadAnswer { call, why: error.to_string() })
}
