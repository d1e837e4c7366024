//! The engine of one node: Podman, ready and watched.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use podman_api::Podman;
use rustix::fs::FlockOperation;
use tokio::sync::Semaphore;
use types::SandboxId;

use crate::agent_file::AgentFile;
use crate::cgroup::Mount;
use crate::config::EngineConfig;
use crate::error::timed;
use crate::image::ImageCache;
use crate::lease_file::LeaseFile;
use crate::libpod::Libpod;
use crate::run_dir;
use crate::seccomp;
use crate::service::{HardLimits, Service};
use crate::watchdog;

pub use crate::error::EngineError;

/// How long the engine may take to answer once it was started.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Between two questions whether it answers, while it starts.
const READY_POLL: Duration = Duration::from_millis(10);

/// How often the service may die at the start before that is the answer.
const DEATHS_AT_START_MAX: u32 = 3;

/// A ping takes a millisecond; this long means that the engine hangs.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(1);

/// What the engine says of itself; it asks every helper for its version.
const INFO_LIMIT: Duration = Duration::from_secs(30);

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    /// A directory or file of ours.
    #[error("{what} can not be made")]
    Files {
        /// Which one.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another engine uses the same run directory.
    #[error("another process uses {}", run_dir.display())]
    InUse {
        /// The directory.
        run_dir: PathBuf,
    },
    /// The service does not stay up.
    #[error("the podman service does not stay up: {reason}; its words: {log}")]
    ServiceDies {
        /// How it ended.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// The service is there but does not answer.
    #[error("the engine does not answer")]
    Silent(#[source] EngineError),
}

/// The engine of one node. Clones are handles to the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) podman: Podman,
    pub(crate) libpod: Libpod,
    pub(crate) agent: AgentFile,
    pub(crate) seccomp: PathBuf,
    pub(crate) lease: LeaseFile,
    pub(crate) limits: HardLimits,
    pub(crate) runtime: String,
    /// Podman serialises on its locks: more at the same time only make each one slower.
    pub(crate) creates: Semaphore,
    /// Sandboxes whose directory may exist without a container for a moment.
    pub(crate) making: Mutex<HashSet<SandboxId>>,
    /// Containers that are gone while something of theirs may be left.
    pub(crate) removing: Mutex<HashMap<SandboxId, String>>,
    pub(crate) images: ImageCache,
    pub(crate) graph_root: PathBuf,
    health: Mutex<Health>,
    service: Option<Mutex<Service>>,
    /// Held for as long as the engine lives.
    _lock: fs::File,
}

struct Health {
    /// What the last ping said.
    failed: Option<String>,
    /// How often the service had died when it last answered.
    deaths: u32,
}

impl Engine {
    /// Starts the service where it is ours, and waits until the engine answers.
    pub async fn start(config: EngineConfig) -> Result<Self, EngineStartError> {
        directory(&config.run_dir)?;
        directory(&config.state_dir)?;
        directory(&run_dir::sandboxes(&config.run_dir))?;
        let lock = lock(&config.run_dir)?;
        let agent = AgentFile::install(&config.agent_binary, &config.state_dir.join("agents"))
            .map_err(|source| files(format!("the agent's file from {}", config.agent_binary.display()), source))?;
        let seccomp = seccomp::install(&config.state_dir).map_err(|source| files("the seccomp profile", source))?;
        let lease = LeaseFile::open(&config.run_dir).map_err(|source| files("the lease's file", source))?;
        let limits = HardLimits::of_this_process();
        let runtime = config.oci_runtime.clone().unwrap_or_else(|| fitting_runtime().to_owned());
        let socket = config.socket_path();
        let service = match config.socket {
            Some(_) => None,
            None => {
                Some(Service::start(&config, &runtime, limits).map_err(|source| files("the podman service", source))?)
            }
        };

        let podman = Podman::unix(&socket);
        wait_until_it_answers(&podman, service.as_ref(), &config).await?;
        let info = timed("info", INFO_LIMIT, podman.info()).await.map_err(EngineStartError::Silent)?;
        let graph_root = info.store.and_then(|store| store.graph_root).unwrap_or_default();
        // What it says of itself, which for a service that is not ours is all we know.
        let runtime = info.host.and_then(|host| host.oci_runtime?.name).unwrap_or(runtime);
        tracing::info!(%runtime, graph_root, agent = agent.digest, "the engine answers");

        let deaths = service.as_ref().map_or(0, Service::deaths);
        let inner = Arc::new(Inner {
            libpod: Libpod::new(&socket),
            podman,
            agent,
            seccomp,
            lease,
            limits,
            runtime,
            creates: Semaphore::new(config.creates_in_flight_max.max(1)),
            making: Mutex::new(HashSet::new()),
            removing: Mutex::new(HashMap::new()),
            images: ImageCache::new(Path::new(&graph_root)),
            graph_root: PathBuf::from(graph_root),
            health: Mutex::new(Health { failed: None, deaths }),
            service: service.map(Mutex::new),
            _lock: lock,
            config,
        });
        tokio::spawn(keep_asking(Arc::downgrade(&inner)));
        tokio::spawn(watchdog::keep_looking(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Why the engine does not work; `None` while it does.
    #[must_use]
    pub fn unhealthy(&self) -> Option<String> {
        let health = self.inner.health.lock();
        if let Some(service) = &self.inner.service {
            let service = service.lock();
            if let Some(down) = service.down() {
                return Some(down);
            }
            if service.deaths() != health.deaths {
                return Some("the podman service was started again and does not answer yet".to_owned());
            }
        }
        health.failed.clone()
    }

    /// The OCI runtime that holds the sandboxes, for example `runc`.
    #[must_use]
    pub fn runtime(&self) -> &str {
        &self.inner.runtime
    }

    /// SHA-256 of the agent that new slots get.
    #[must_use]
    pub fn agent_digest(&self) -> &str {
        &self.inner.agent.digest
    }

    /// The process of our own service, where there is one.
    #[must_use]
    pub fn service_pid(&self) -> Option<u32> {
        self.inner.service_pid()
    }

    /// Where this node's lease is told to the agents. It says what it said before this process began: 0, expired, where
    /// nobody set it during this boot of the host.
    #[must_use]
    pub fn lease_file(&self) -> &LeaseFile {
        &self.inner.lease
    }

    /// What this engine was started with.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Ends our own service and waits for its end; sandboxes run on. The engine is of no use after it.
    /// It blocks: some milliseconds, or seconds where the service does not listen.
    pub fn stop_service(&self) {
        if let Some(service) = &self.inner.service {
            service.lock().stop();
        }
    }
}

async fn keep_asking(engine: Weak<Inner>) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let Some(inner) = engine.upgrade() else { return };
        inner.ask().await;
    }
}

impl Inner {
    pub(crate) fn service_pid(&self) -> Option<u32> {
        self.service.as_ref().and_then(|service| service.lock().pid())
    }

    /// Kills our service if it is still this process; it is started again.
    pub(crate) fn kill_service(&self, pid: u32) -> bool {
        self.service.as_ref().is_some_and(|service| service.lock().kill(pid))
    }

    async fn ask(&self) {
        let deaths = self.service.as_ref().map_or(0, |service| service.lock().deaths());
        let answer = timed("ping", PING_LIMIT, self.podman.ping()).await;
        let mut health = self.health.lock();
        match answer {
            Ok(_) => {
                if health.failed.take().is_some() || health.deaths != deaths {
                    tracing::info!("the engine answers again");
                }
                health.deaths = deaths;
            }
            Err(error) => {
                if health.failed.is_none() {
                    tracing::warn!(%error, "the engine does not answer");
                }
                health.failed = Some(error.to_string());
            }
        }
    }
}

async fn wait_until_it_answers(
    podman: &Podman,
    service: Option<&Service>,
    config: &EngineConfig,
) -> Result<(), EngineStartError> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        // Until ours was started, the service of a node that was killed a moment ago may still answer here.
        let started = service.is_none_or(|service| service.pid().is_some());
        let error = match timed("ping", PING_LIMIT, podman.ping()).await {
            Ok(_) if started => return Ok(()),
            Ok(_) => EngineError::BadAnswer { call: "ping", why: "it came from another service".to_owned() },
            Err(error) => error,
        };
        if let Some(service) = service
            && service.deaths() >= DEATHS_AT_START_MAX
        {
            let reason = service.down().unwrap_or_else(|| error.to_string());
            return Err(EngineStartError::ServiceDies { reason, log: log_tail(&Service::log_path(config)) });
        }
        if Instant::now() >= until {
            return Err(EngineStartError::Silent(error));
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// The OCI runtime that works with this host's cgroups: where version 1 and version 2 are both
/// mounted, common builds of crun refuse.
#[must_use]
pub(crate) fn fitting_runtime() -> &'static str {
    let mounts = Mount::all().unwrap_or_default();
    let hybrid = mounts.iter().any(|mount| mount.unified) && mounts.iter().any(|mount| !mount.unified);
    let order = if hybrid { ["runc", "crun"] } else { ["crun", "runc"] };
    order.into_iter().find(|name| find_program(name).is_some()).unwrap_or(order[0])
}

/// A program's path, as a shell would find it and where distributions hide helpers.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).exists().then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/podman", "/usr/libexec/podman"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The end of a text file, for a message.
pub(crate) fn log_tail(path: &Path) -> String {
    const TAIL_BYTES: usize = 2048;
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned(),
        Err(error) => format!("({} can not be read: {error})", path.display()),
    }
}

fn directory(path: &Path) -> Result<(), EngineStartError> {
    // Searchable by all, listed by root: the container's runtime may look up what is mounted from
    // here as the sandbox's root.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| files(path.display().to_string(), source))
}

fn lock(run_dir: &Path) -> Result<fs::File, EngineStartError> {
    let path = run_dir.join("engine.lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| files(path.display().to_string(), source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EngineStartError::InUse { run_dir: run_dir.to_owned() }),
        Err(error) => Err(files(path.display().to_string(), error.into())),
    }
}

fn files(what: impl Into<String>, source: io::Error) -> EngineStartError {
    EngineStartError::Files { what: what.into(), source }
}
