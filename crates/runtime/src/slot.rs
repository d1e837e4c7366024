//! A slot: one container with its agent answering. Made, taken hold of, limited, killed, stopped and
//! started again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podman_api::opts::ContainerStopOpts;
use tokio::sync::oneshot;
use types::spec::SlotShape;
use types::{NetworkMode, Resources, SandboxId};

use crate::agent::{AgentAddress, AgentClient, AgentStatus};
use crate::cgroup::{Cgroup, LimitError};
use crate::create_body::{Surroundings, container_name, create_body};
use crate::engine::{Engine, EngineError, log_tail};
use crate::error::timed;
use crate::libpod::Inspected;
use crate::process::{Death, FirstProcess};
use crate::remove::RemoveError;
use crate::run_dir::RunDir;

/// A create takes some ten milliseconds, and longer while others hold Podman's locks.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// A start takes some tens of milliseconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// An inspect takes a millisecond.
pub(crate) const INSPECT_LIMIT: Duration = Duration::from_secs(15);

/// How long the agent may take until it answers: it starts in a millisecond on an idle host.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// What a stop may take beyond the grace it is given.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How long the kernel may take to end a sandbox that was killed. Thousands of processes in
/// uninterruptible waits are the bad case.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// What a slot is made from.
#[derive(Debug, Clone)]
pub struct SlotOrder {
    /// The id that its sandbox will have.
    pub id: SandboxId,
    /// What is fixed from here on.
    pub shape: SlotShape,
    /// The limits it starts with.
    pub resources: Resources,
    /// Labels beside ours; `warren.*` of the same name is overwritten.
    pub labels: BTreeMap<String, String>,
}

/// A running container whose agent answered. Clones hold the same one.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The id that its sandbox has or will have.
    pub id: SandboxId,
    /// The engine's id.
    pub container_id: String,
    /// Where its agent is found.
    pub address: AgentAddress,
    /// How long each step of its making took; zero for steps that were not taken.
    pub times: SlotTimes,
    process: Arc<FirstProcess>,
    cgroup: Cgroup,
}

/// How long each step took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotTimes {
    /// Directory, tmpfs and files.
    pub run_dir: Duration,
    /// Waiting for a turn at the engine.
    pub turn: Duration,
    /// The engine's create.
    pub create: Duration,
    /// The engine's start.
    pub start: Duration,
    /// Its pid, cgroups and pidfd.
    pub hold: Duration,
    /// Until the agent answered.
    pub ready: Duration,
}

/// Why a slot could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum MakeSlotError {
    /// Not possible on this host or not built.
    #[error("not possible here: {0}")]
    NotSupported(String),
    /// The engine has no such image.
    #[error("the image is not there: {0}")]
    NoImage(String),
    /// There is a container or a directory of that id already; it was not touched.
    #[error("something of that id is there already")]
    Exists,
    /// The engine has no such container.
    #[error("there is no container for it")]
    NoContainer,
    /// The engine failed.
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    /// A directory, mount or file of the host.
    #[error("its files on the host can not be made")]
    Files(#[source] io::Error),
    /// The container ended before its agent answered.
    #[error("it ended before its agent answered: {log}")]
    Ended {
        /// The end of what it said.
        log: String,
    },
    /// The agent does not answer.
    #[error("its agent does not answer: {why}; its words: {log}")]
    Silent {
        /// What was tried last.
        why: String,
        /// The end of what it said.
        log: String,
    },
    /// A limit could not be written.
    #[error("its limits can not be set")]
    Limits(#[from] LimitError),
    /// It failed, and what it had made could not be removed; `Engine::list_ours` and
    /// `Engine::found_leftovers` find it again.
    #[error("{first}, and what was made could not be removed: {undo}")]
    NotUndone {
        /// Why it failed.
        first: Box<MakeSlotError>,
        /// Why it is still there.
        #[source]
        undo: RemoveError,
    },
    /// Our own task was ended, as it is when the process ends.
    #[error("the making of it was cut off")]
    CutOff,
}

/// Why a sandbox is not known to be dead.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The signal was not taken, or the death can not be watched.
    #[error("it can not be killed")]
    Signal(#[source] io::Error),
    /// The kernel has not ended it.
    #[error("it still lives {} s after SIGKILL", after.as_secs())]
    StillAlive {
        /// The time it was given.
        after: Duration,
    },
}

/// Why a stop failed.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The engine has no such container.
    #[error("there is no container for it")]
    NoContainer,
    /// The engine failed.
    #[error("the engine failed")]
    Engine(#[source] EngineError),
}

impl Slot {
    /// The first process as the host numbers it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client of its agent.
    #[must_use]
    pub fn agent(&self) -> AgentClient {
        AgentClient::new(self.address.clone())
    }

    /// Sets all limits but the disk's by writing its cgroup's files: some ten microseconds each.
    pub fn set_limits(&self, resources: &Resources) -> Result<(), LimitError> {
        self.cgroup.set_limits(resources)
    }

    /// Whether its first process lives.
    pub fn is_alive(&self) -> io::Result<bool> {
        self.process.is_alive()
    }

    /// Its coming death, to be awaited. To be called on the runtime.
    pub fn death(&self) -> io::Result<Death> {
        self.process.death()
    }

    /// Kills it and returns when every process of it is dead. The container is still there, ended.
    pub async fn kill(&self) -> Result<(), KillError> {
        let death = self.process.death().map_err(KillError::Signal)?;
        self.process.kill().map_err(KillError::Signal)?;
        // After the signal, so that nothing of it runs in between; gone cgroups mean it is dead.
        if let Err(error) = self.cgroup.thaw() {
            tracing::debug!(sandbox = %self.id, %error, "not thawed before its death");
        }
        match tokio::time::timeout(DEATH_LIMIT, death.wait()).await {
            Ok(waited) => waited.map_err(KillError::Signal),
            Err(_) => Err(KillError::StillAlive { after: DEATH_LIMIT }),
        }
    }
}

impl Engine {
    /// Makes a slot and answers once its agent does. What it made it removes when it fails, also
    /// when the caller has stopped waiting.
    pub async fn make_slot(&self, order: SlotOrder) -> Result<Slot, MakeSlotError> {
        let engine = self.clone();
        let id = order.id;
        if RunDir::new(&engine.inner.config.run_dir, id).exists() || !engine.inner.making.lock().insert(id) {
            return Err(MakeSlotError::Exists);
        }
        let (send, receive) = oneshot::channel();
        tokio::spawn(async move {
            let result = match engine.make(&order).await {
                Err(error) => Err(engine.undo(id, error).await),
                made => made,
            };
            engine.inner.making.lock().remove(&id);
            if let Err(Ok(slot)) = send.send(result) {
                tracing::info!(sandbox = %slot.id, "nobody waits for this slot any more, removing it");
                if let Err(error) = engine.remove(slot.id).await {
                    tracing::error!(sandbox = %slot.id, %error, "a slot that nobody waits for is still there");
                }
            }
        });
        receive.await.map_err(|_| MakeSlotError::CutOff)?
    }

    async fn undo(&self, id: SandboxId, first: MakeSlotError) -> MakeSlotError {
        let undone = match first {
            // The container is another's: only the directory was made here.
            MakeSlotError::Exists => RunDir::new(&self.inner.config.run_dir, id).remove().map_err(RemoveError::Files),
            _ => self.remove(id).await,
        };
        match undone {
            Ok(()) => first,
            Err(undo) => {
                tracing::error!(sandbox = %id, error = %undo, "a slot that failed is still there");
                MakeSlotError::NotUndone { first: Box::new(first), undo }
            }
        }
    }

    async fn make(&self, order: &SlotOrder) -> Result<Slot, MakeSlotError> {
        let inner = &*self.inner;
        if order.shape.network_mode != NetworkMode::None {
            let mode = order.shape.network_mode.as_str();
            return Err(MakeSlotError::NotSupported(format!("network_mode {mode} is not built yet")));
        }
        if order.shape.disk != 0 {
            return Err(MakeSlotError::NotSupported("a limit of the disk is not built yet".to_owned()));
        }
        let run_dir = RunDir::new(&inner.config.run_dir, order.id);
        let body = create_body(
            order,
            &Surroundings {
                cluster: &inner.config.cluster,
                node: &inner.config.node,
                cgroup_parent: &inner.config.cgroup_parent,
                agent: &inner.agent,
                seccomp: &inner.seccomp,
                lease: &inner.lease,
                limits: inner.limits,
                run_dir: &run_dir,
            },
        )
        .map_err(MakeSlotError::NotSupported)?;

        let mut times = SlotTimes::default();
        let mut watch = Watch::start();
        run_dir.make().map_err(MakeSlotError::Files)?;
        times.run_dir = watch.lap();
        let turn = self.turn().await?;
        times.turn = watch.lap();
        let container_id = inner.libpod.create(&body, CREATE_LIMIT).await.map_err(of_create)?;
        times.create = watch.lap();
        self.start_container(&container_id).await?;
        times.start = watch.lap();
        drop(turn);
        self.hold(order.id, &container_id, times, watch).await
    }

    /// Starts a stopped sandbox's container again. What the host lost at a reboot is made again; the
    /// limits are set again, since the engine remembers those of the create.
    pub async fn start_again(&self, id: SandboxId, resources: &Resources) -> Result<Slot, MakeSlotError> {
        let inspected = self.inspect(id).await?.ok_or(MakeSlotError::NoContainer)?;
        let mut times = SlotTimes::default();
        let mut watch = Watch::start();
        RunDir::new(&self.inner.config.run_dir, id).make().map_err(MakeSlotError::Files)?;
        times.run_dir = watch.lap();
        let turn = self.turn().await?;
        times.turn = watch.lap();
        self.start_container(&inspected.id).await?;
        times.start = watch.lap();
        drop(turn);
        let slot = self.hold(id, &inspected.id, times, watch).await?;
        slot.set_limits(resources)?;
        Ok(slot)
    }

    /// Takes hold of a container that runs already, without asking its agent; `None` where it does
    /// not run.
    pub async fn adopt(&self, id: SandboxId) -> Result<Option<Slot>, MakeSlotError> {
        match self.inspect(id).await? {
            Some(inspected) if inspected.state.running => self.take(id, &inspected),
            _ => Ok(None),
        }
    }

    /// Stops a sandbox: SIGTERM to its agent, which ends everything, and SIGKILL after the grace.
    /// That it does not run is as good.
    pub async fn stop(&self, id: SandboxId, grace: Duration) -> Result<(), StopError> {
        let inspected = self.inspect(id).await.map_err(StopError::Engine)?.ok_or(StopError::NoContainer)?;
        let seconds = usize::try_from(grace.as_secs()).unwrap_or(usize::MAX);
        let options = ContainerStopOpts::builder().timeout(seconds).build();
        let container = self.inner.podman.containers().get(inspected.id);
        match timed("stop", grace + STOP_LIMIT, container.stop(&options)).await {
            Ok(()) | Err(EngineError::Refused { status: 304, .. }) => Ok(()),
            Err(error) if error.is_not_found() => Err(StopError::NoContainer),
            Err(error) => Err(StopError::Engine(error)),
        }
    }

    /// The container of a sandbox, if it is there and ours.
    pub(crate) async fn inspect(&self, id: SandboxId) -> Result<Option<Inspected>, EngineError> {
        match self.inner.libpod.inspect(&container_name(id), INSPECT_LIMIT).await {
            Ok(inspected) if self.is_ours(inspected.config.labels.as_ref()) => Ok(Some(inspected)),
            // A stranger that took the name: it is not ours to touch.
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a container under this sandbox's name, whoever's it is.
    pub(crate) async fn has_container(&self, id: SandboxId) -> Result<bool, EngineError> {
        match self.inner.libpod.inspect(&container_name(id), INSPECT_LIMIT).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, MakeSlotError> {
        self.inner.creates.acquire().await.map_err(|_| MakeSlotError::CutOff)
    }

    async fn start_container(&self, container_id: &str) -> Result<(), MakeSlotError> {
        let container = self.inner.podman.containers().get(container_id);
        match timed("start", START_LIMIT, container.start(None)).await {
            // 304: it runs already.
            Ok(()) | Err(EngineError::Refused { status: 304, .. }) => Ok(()),
            Err(error) if error.is_not_found() => Err(MakeSlotError::NoContainer),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes hold of a container that was just started, and waits for its agent.
    async fn hold(
        &self,
        id: SandboxId,
        container_id: &str,
        times: SlotTimes,
        mut watch: Watch,
    ) -> Result<Slot, MakeSlotError> {
        let ended = || MakeSlotError::Ended { log: self.container_log(container_id) };
        let inspected = self.inner.libpod.inspect(container_id, INSPECT_LIMIT).await?;
        let mut slot = self.take(id, &inspected)?.ok_or_else(ended)?;
        slot.times = times;
        slot.times.hold = watch.lap();
        let death = slot.death().map_err(MakeSlotError::Files)?;
        let agent = slot.agent();
        let status: AgentStatus = tokio::select! {
            // In this order: where it answered and then died, the caller learns of it by the death.
            biased;
            ready = agent.wait_ready(tokio::time::Instant::now() + READY_LIMIT) => ready.map_err(|error| {
                MakeSlotError::Silent { why: error.to_string(), log: self.container_log(container_id) }
            })?,
            _ = death.wait() => return Err(ended()),
        };
        tracing::debug!(sandbox = %id, agent = status.agent_version, protocol = status.protocol_version,
            "its agent answers");
        slot.times.ready = watch.lap();
        Ok(slot)
    }

    fn take(&self, id: SandboxId, inspected: &Inspected) -> Result<Option<Slot>, MakeSlotError> {
        let pid = inspected.state.pid;
        let process = FirstProcess::open(pid, &inspected.id).map_err(MakeSlotError::Files)?;
        let Some(process) = process else { return Ok(None) };
        let cgroup = match Cgroup::of(pid, &inspected.id) {
            Ok(cgroup) => cgroup,
            Err(_) if matches!(process.is_alive(), Ok(false)) => return Ok(None),
            Err(error) => return Err(MakeSlotError::Files(error)),
        };
        let run_dir = RunDir::new(&self.inner.config.run_dir, id);
        Ok(Some(Slot {
            id,
            container_id: inspected.id.clone(),
            address: AgentAddress { socket_dir: run_dir.sock(), pid: process.pid_signed() },
            times: SlotTimes::default(),
            process: Arc::new(process),
            cgroup,
        }))
    }

    /// The end of what a container said; only its agent speaks there.
    fn container_log(&self, container_id: &str) -> String {
        let containers = self.inner.graph_root.join("overlay-containers");
        log_tail(&containers.join(container_id).join("userdata").join("ctr.log"))
    }
}

/// Podman has no status of its own for an image that it lacks: 404 or 500, with these words.
fn of_create(error: EngineError) -> MakeSlotError {
    match error {
        EngineError::Refused { message, .. }
            if ["image not known", "no such image"].iter().any(|words| message.contains(words)) =>
        {
            MakeSlotError::NoImage(message)
        }
        EngineError::Refused { message, .. } if message.contains("already in use") => MakeSlotError::Exists,
        other => MakeSlotError::Engine(other),
    }
}

/// Measures one step after the other.
struct Watch(Instant);

impl Watch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let lap = now - self.0;
        self.0 = now;
        lap
    }
}
