//! The server itself: its sockets, its threads, its patience.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::dev::{Server, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::{App, Error, HttpServer, web};

use crate::gate::{self, Gate};
use crate::keys::Keys;
use crate::limits;
use crate::operations::Operations;
use crate::request_id::RequestIds;
use crate::routes;

/// What `version` says of the program.
#[derive(Debug, Clone, Default)]
pub struct VersionFacts {
    /// Version.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// When it was built.
    pub build_date: String,
}

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Whether a sandbox may be asked to live for ever (`timeout: null`).
    pub never_expires: bool,
    /// Connections that one worker thread holds open; more wait.
    pub connections_per_worker_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { never_expires: false, connections_per_worker_max: limits::CONNECTIONS_PER_WORKER_MAX }
    }
}

/// How a front door is set up.
#[derive(Debug)]
pub struct FrontDoorConfig {
    /// Bound sockets to listen on.
    pub listeners: Vec<TcpListener>,
    /// Keys that are let in; where there is none everybody is, so listen on loopback only.
    pub api_keys: Vec<String>,
    /// What `version` says.
    pub version: VersionFacts,
    /// Worker threads; each runs many requests at once.
    pub workers: usize,
    /// What an operator may set.
    pub limits: Limits,
}

/// What handlers know beside the operations.
pub(crate) struct Facts {
    pub(crate) version: VersionFacts,
    pub(crate) limits: Limits,
}

/// The application without sockets, for a server or for a test in memory.
pub struct FrontDoor<O> {
    operations: web::Data<O>,
    gate: web::Data<Gate>,
    facts: web::Data<Facts>,
}

impl<O> Clone for FrontDoor<O> {
    fn clone(&self) -> Self {
        Self { operations: self.operations.clone(), gate: self.gate.clone(), facts: self.facts.clone() }
    }
}

impl<O: Operations> FrontDoor<O> {
    /// A front door before `operations`. The listeners and workers of `config` are not looked at.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn new(operations: Arc<O>, config: &FrontDoorConfig) -> io::Result<Self> {
        Ok(Self {
            operations: web::Data::from(operations),
            gate: web::Data::new(Gate { keys: Keys::new(&config.api_keys), request_ids: RequestIds::new()? }),
            facts: web::Data::new(Facts { version: config.version.clone(), limits: config.limits.clone() }),
        })
    }

    /// The application, one per worker thread.
    pub fn app(
        &self,
    ) -> App<
        impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
        + use<O>,
    > {
        App::new()
            .app_data(self.operations.clone())
            .app_data(self.gate.clone())
            .app_data(self.facts.clone())
            .configure(routes::register::<O>)
            .wrap(from_fn(gate::pass))
    }
}

/// Starts to listen. The server runs while the returned future is polled; its handle stops it. It
/// takes no signals: those are the node's.
///
/// A client that closes its side of the connection has gone: its request is dropped, so that no
/// command runs on for nobody.
///
/// # Errors
/// Where a listener can not be used.
pub fn serve<O: Operations>(operations: Arc<O>, config: FrontDoorConfig) -> io::Result<Server> {
    let front_door = FrontDoor::new(operations, &config)?;
    let mut server = HttpServer::new(move || front_door.app())
        .workers(config.workers.max(1))
        .worker_max_blocking_threads(limits::BLOCKING_THREADS_PER_WORKER)
        .max_connections(config.limits.connections_per_worker_max)
        .client_request_timeout(limits::HEAD_TIMEOUT)
        .client_disconnect_timeout(limits::DISCONNECT_TIMEOUT)
        .keep_alive(limits::KEEP_ALIVE)
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .shutdown_timeout(limits::SHUTDOWN_SECONDS)
        .disable_signals();
    for listener in config.listeners {
        server = server.listen(listener)?;
    }
    Ok(server.run())
}
