//! From a configuration to a node that answers, and from a signal to its end.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter, AsyncContext, Context, Recipient};
use anyhow::Context as _;
use consensus::{Config as ConsensusConfig, Consensus, LogWriter, Start};
use front_door::{FrontDoorConfig, Limits, VersionFacts};
use runtime::Engine;
use rustix::net::sockopt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use types::spec::SlotShape;
use types::{NetworkMode, Resources};
use warren_core::lifecycle::Input;
use warren_core::placement::{COMMANDS_KNOWN, Command, Kind, Outcome, Presence};
use warren_core::reconcile::{Found, Verdict, reconcile, strays};
use warren_core::warm_pool::{self, Target, WarmPool};
use warren_core::wiring::{self, Message};

use crate::actors::consensus::{AnnounceRestart, ConsensusActor, Others, Persisted, ProposeAndTell};
use crate::actors::follower::{Deliver, Follower};
use crate::actors::pool::PoolActor;
use crate::actors::scheduler::Scheduler;
use crate::answers::Answers;
use crate::cluster::Cluster;
use crate::config::NodeConfig;
use crate::doorway::Doorway;
use crate::engine_room::{EngineRoom, Slots};
use crate::gossip;
use crate::hub::{Hub, now};
use crate::identity::Identity;
use crate::kill_point;
use crate::known_peers::KnownPeers;
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::life::Life;
use crate::metrics;
use crate::nodes::Myself;
use crate::offers::Capacity;
use crate::operations::NodeOperations;
use crate::own_log::{self, OwnLog};
use crate::peers_door::PeersDoor;
use crate::repair;
use crate::routing::Routed;
use crate::view::View;

/// Members that differ in their patience before they campaign.
const ELECTION_STAGGER_MEMBERS: u64 = 5;

/// Ticks by which the patience of one member differs from that of the next: enough for an election.
const ELECTION_STAGGER_TICKS: usize = 2;

/// How long a node that starts waits until its own log lets it lead.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

/// How long a node that destroys everything at its end may take.
const DESTROY_WITHIN: Duration = Duration::from_secs(120);

/// How long it tries to have the map told first.
const DESTROY_IN_ORDER_WITHIN: Duration = Duration::from_secs(15);

/// How long an ending node waits for its restart to be recorded.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(2);

/// How long an ending node waits for a leader before it goes on without telling the map: longer than an election takes.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);

/// How often an ending node looks whether all is gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Time between two looks for containers that are nobody's; the second look in a row removes one.
const STOCK_EVERY: Duration = Duration::from_secs(10);

/// Silence after which a client's connection is probed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Probes without an answer after which the client has gone.
const KEEPALIVE_PROBES: u32 = 3;

/// One processor in the unit of limits.
const ONE_PROCESSOR: u64 = 1_000_000_000;

/// Why a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// A signal asked for it.
    Signal,
    /// The log could not be written, or holds what this version does not know.
    ConsensusStopped(String),
    /// The front door ended.
    FrontDoorEnded(String),
}

/// Where a part of the node reports that the whole has to end.
#[derive(Clone)]
pub struct Exits(pub(crate) mpsc::UnboundedSender<ExitReason>);

impl Exits {
    /// Ends the node.
    pub fn end(&self, reason: ExitReason) {
        if self.0.send(reason).is_err() {
            tracing::debug!("the node is ending already");
        }
    }
}

/// Runs a node until a signal or a failure ends it.
///
/// # Errors
/// It can not start, or could not destroy what it was told to.
pub fn run(config: NodeConfig, version: VersionFacts) -> anyhow::Result<ExitReason> {
    actix::System::new().block_on(live(config, version))
}

async fn live(config: NodeConfig, version: VersionFacts) -> anyhow::Result<ExitReason> {
    // Taken before anything is started, so that a signal is never the default death.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut config = config;
    let identity = Identity::open(&config).await?;
    config.api_keys.extend(identity.api_keys.iter().cloned());
    kill_point::reached("node.identified");
    tracing::info!(node = %identity.host, cluster = %identity.cluster, incarnation = identity.incarnation.0, "starting");
    // Bound first: a port that is taken is told before anything is made.
    let listener = listen(&config).with_context(|| format!("listen: cannot bind {}", config.listen))?;
    let metrics_listener = metrics::bind(config.metrics_listen)?;

    let node = tokio::select! {
        node = Node::start(config, identity, &version) => node?,
        _ = terminate.recv() => return Ok(ExitReason::Signal),
        _ = interrupt.recv() => return Ok(ExitReason::Signal),
    };
    if let Some(listener) = metrics_listener {
        let address = metrics::serve(listener, Arc::clone(&node.operations.view))?;
        tracing::info!(%address, "metrics");
    }
    let server = front_door::serve(Arc::clone(&node.routed), node.front_door(listener, version))?;
    let door = server.handle();
    let exits = node.exits.clone();
    actix::spawn(async move {
        let ended = server.await.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
        exits.end(ExitReason::FrontDoorEnded(ended));
    });
    tracing::info!(listen = %node.config.listen, "ready");

    let mut node = node;
    let reason = tokio::select! {
        _ = terminate.recv() => ExitReason::Signal,
        _ = interrupt.recv() => ExitReason::Signal,
        Some(reason) = node.exit.recv() => reason,
    };
    tracing::info!(?reason, "ending");
    node.hub.set_closed(Some("the node is ending".to_owned()));
    if !node.config.destroy_on_exit {
        node.operations.slots.say_farewell();
    }
    tokio::join!(door.stop(true), node.doorway.close_and_wait());
    match reason {
        ExitReason::Signal if node.config.destroy_on_exit => node.destroy_all().await?,
        ExitReason::Signal => node.announce_restart().await,
        _ => {}
    }
    node.operations.engine.stop_service();
    Ok(reason)
}

/// Binds the front door. Accepted connections inherit keep-alive: a client that vanishes without a
/// word in the middle of an exec is noticed within a minute, and its command killed.
fn listen(config: &NodeConfig) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(config.listen)?;
    sockopt::set_socket_keepalive(&listener, true)?;
    sockopt::set_tcp_keepidle(&listener, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&listener, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&listener, KEEPALIVE_PROBES)?;
    Ok(listener)
}

struct Node {
    config: NodeConfig,
    hub: Rc<Hub>,
    room: Rc<EngineRoom>,
    operations: Arc<NodeOperations>,
    routed: Arc<Routed>,
    doorway: Arc<Doorway>,
    exits: Exits,
    exit: mpsc::UnboundedReceiver<ExitReason>,
    /// Holds the lock of the data directory for as long as the node lives.
    _identity: Identity,
}

impl Node {
    async fn start(config: NodeConfig, mut identity: Identity, version: &VersionFacts) -> anyhow::Result<Self> {
        // First: while this node asks to be let in again, nothing else of it runs.
        let log = own_log::open(&config, &mut identity).await?;
        let engine = Engine::start(config.engine(identity.cluster.clone(), identity.host.clone()))
            .await
            .context("the engine does not start")?;
        let cluster = Arc::new(Cluster::new(identity.host.clone(), identity.security.clone(), &identity.told_of));
        let view = Arc::new(View::new(identity.host.clone(), engine.runtime().to_owned(), Arc::clone(&cluster)));
        view.insight().set_myself(Myself::of(version));
        let (sender, exit) = mpsc::unbounded_channel();
        let exits = Exits(sender);
        let slots = Arc::new(Slots::default());
        let answers = Arc::new(Answers::default());
        let ledger = Ledger::open(&config.data_dir)?;
        let key = identity.secrets_key.clone();
        let room = Rc::new(EngineRoom::new(engine.clone(), Arc::clone(&slots), ledger, key, config.allow_root));

        // The addresses are there before the actors, since each knows others.
        let follower_context = Context::<Follower>::new();
        let follower = follower_context.address();
        let pool_context = Context::<PoolActor>::new();
        let life = Arc::new(Life::new(&config.data_dir, identity.incarnation, Lease::new(Some(engine.clone()))));
        let consensus =
            start_consensus(&config, (&identity, log), &view, &cluster, &life, follower.clone().recipient(), &exits)?;
        let answering: Arc<OnceLock<Arc<NodeOperations>>> = Arc::default();
        let doorway = PeersDoor::open(&config, &identity, &consensus, &view, Arc::clone(&answering)).await?;
        let hub = Hub::new(
            consensus.clone(),
            pool_context.address(),
            Rc::clone(&room),
            Arc::clone(&answers),
            Arc::clone(&view),
            Arc::clone(&cluster),
            Arc::clone(&life),
        );
        follower_context.run(Follower::new(Rc::clone(&hub)));
        let shape = pool_shape(&engine, &config).await;
        let target = Target { shape: shape.clone(), resources: default_resources(&config), size: config.pool_size };
        pool_context.run(PoolActor::new(WarmPool::new(target), Rc::clone(&hub)));
        let capacity = capacity(&config)?;
        let scheduler = Scheduler::new(Rc::clone(&hub), capacity).start();

        begin_life(&config, &consensus, &identity).await?;
        kill_point::reached("node.up");
        adopt(&hub, &room, &view, &shape).await?;
        kill_point::reached("node.swept");
        hub.deliver(Message::Pool(warm_pool::Input::Open));
        hub.set_closed(None);
        actix::spawn(gossip::tell(Rc::clone(&hub), Arc::clone(&cluster), Arc::clone(&life), capacity));
        actix::spawn(gossip::list_images(Rc::clone(&hub), engine.clone()));
        actix::spawn(keep_stock(Rc::clone(&hub), Rc::clone(&room)));

        let operations = Arc::new(NodeOperations {
            scheduler,
            follower,
            consensus,
            view,
            answers,
            slots,
            engine,
            secrets_key: identity.secrets_key.clone(),
            life,
            config: config.clone(),
        });
        answering.get_or_init(|| Arc::clone(&operations));
        actix::spawn(repair::keep(Rc::clone(&hub), Arc::clone(&operations), Arc::clone(&cluster), capacity));
        let routed = Arc::new(Routed::new(Arc::clone(&operations), cluster));
        Ok(Self { config, hub, room, operations, routed, doorway, exits, exit, _identity: identity })
    }

    fn front_door(&self, listener: TcpListener, version: VersionFacts) -> FrontDoorConfig {
        if self.config.api_keys.is_empty() {
            tracing::warn!(listen = %self.config.listen, "no API key is configured: every local user can use this node");
        }
        FrontDoorConfig {
            listeners: vec![listener],
            api_keys: self.config.api_keys.clone(),
            version,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            limits: Limits { never_expires: self.config.allow_no_timeout, ..Limits::default() },
        }
    }

    /// Has it recorded that this node means to be back soon. Where that can not be recorded the node ends all the
    /// same, and is missed as one that died.
    async fn announce_restart(&self) {
        let for_ms = self.config.restart_within_seconds.saturating_mul(1000);
        if for_ms == 0 {
            return;
        }
        let (tell, told) = oneshot::channel();
        self.operations.consensus.do_send(AnnounceRestart { for_ms, tell });
        match tokio::time::timeout(ANNOUNCED_WITHIN, told).await {
            Ok(Ok(Outcome::NodeRestarting)) => tracing::info!(for_ms, "the cluster knows that this node restarts"),
            Ok(Ok(outcome)) => tracing::warn!(?outcome, "the restart is not announced: this node is missed at once"),
            Ok(Err(_)) => tracing::warn!("the restart is not announced, since consensus has ended here"),
            Err(_) => tracing::warn!("no majority has recorded that this node restarts: it is missed at once"),
        }
    }

    /// Destroys every sandbox and slot of this node, and looks that nothing is left.
    async fn destroy_all(&self) -> anyhow::Result<()> {
        let pool = Target { size: 0, ..self.pool_target().await };
        self.hub.deliver(Message::Pool(warm_pool::Input::Retarget(pool)));
        let me = self.operations.view.me().clone();
        let placement = Arc::clone(&self.operations.view.placement());
        for record in placement.newest_first().filter(|record| record.place.owner == me && record.failure.is_none()) {
            // Nobody waits for these answers; what counts is that nothing is left.
            let ticket = self.operations.answers.wait().ticket;
            self.hub.deliver(Message::Supervisor(record.place.slot, Input::Destroy(ticket)));
        }
        let gone = async {
            // In order first: destroyed in the map, then here. Without a majority the map can not be told.
            let in_order = async {
                let mut led = Instant::now();
                while self.hub.busy_with() > 0 {
                    if self.operations.view.leader().is_some() {
                        led = Instant::now();
                    } else if led.elapsed() >= LEADERLESS_MAX {
                        return false;
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                true
            };
            if !tokio::time::timeout(DESTROY_IN_ORDER_WITHIN, in_order).await.unwrap_or(false) {
                let untold =
                    self.operations.view.placement().newest_first().filter(|record| record.place.owner == me).count();
                tracing::warn!(
                    untold,
                    "no majority is there any more: the map was not told of all that is destroyed here"
                );
            }
            loop {
                while self.hub.working_on() > 0 {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                let left = self.room.engine().list_ours().await?;
                if left.is_empty() {
                    break;
                }
                for found in left {
                    tracing::info!(slot = %found.id, "still there, removing it");
                    self.hub.deliver(Message::Discard(found.id));
                }
            }
            // The last conmon ends a moment after its container, and the cgroup with it.
            let parent = &self.room.engine().config().cgroup_parent;
            while let Err(error) = runtime::cgroup::remove_empty_parent(parent) {
                anyhow::ensure!(error.kind() == std::io::ErrorKind::ResourceBusy, "cannot remove {parent}: {error}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(DESTROY_WITHIN, gone).await.context("not everything could be destroyed in time")?
    }

    async fn pool_target(&self) -> Target {
        let shape = pool_shape(self.room.engine(), &self.config).await;
        Target { shape, resources: default_resources(&self.config), size: self.config.pool_size }
    }
}

fn default_resources(config: &NodeConfig) -> Resources {
    let defaults = config.default_resources;
    Resources { cpu: defaults.cpu, memory: defaults.memory, disk: 0, pids: defaults.pids }
}

/// The shape of a sandbox that names nothing.
async fn pool_shape(engine: &Engine, config: &NodeConfig) -> SlotShape {
    let image_id = match engine.resolve_image(&config.default_image).await {
        Ok(image) => image.id.clone(),
        Err(error) => {
            // The pool tries and backs off; a create that brings the image's id retargets it.
            tracing::error!(image = config.default_image, %error, "the default image is not there");
            String::new()
        }
    };
    SlotShape {
        image: config.default_image.clone(),
        image_id,
        network_mode: NetworkMode::None,
        writable_rootfs: true,
        tmpfs: Vec::new(),
        disk: 0,
    }
}

fn capacity(config: &NodeConfig) -> anyhow::Result<Capacity> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let total_kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    let memory_max = total_kib.saturating_mul(1024).saturating_mul(config.memory_overcommit_percent) / 100;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let cpu_max = cores.saturating_mul(ONE_PROCESSOR).saturating_mul(config.cpu_overcommit_percent) / 100;
    Ok(Capacity { sandboxes_max: config.sandboxes_max, memory_max, cpu_max })
}

pub(crate) fn start_consensus(
    config: &NodeConfig,
    (identity, log): (&Identity, OwnLog),
    view: &Arc<View>,
    cluster: &Arc<Cluster>,
    life: &Arc<Life>,
    follower: Recipient<Deliver>,
    exits: &Exits,
) -> anyhow::Result<Addr<ConsensusActor>> {
    let OwnLog { store, recovered } = log;
    let member = identity.member;
    let begin = if identity.joined { Start::Join } else { Start::Bootstrap { voters: vec![member] } };
    let mut start = ConsensusConfig::new(member, identity.incarnation.0, begin);
    // Another patience for each member, so that they do not campaign against each other.
    start.election_stagger_ticks =
        usize::try_from(member % ELECTION_STAGGER_MEMBERS).unwrap_or(0) * ELECTION_STAGGER_TICKS;
    let core = Consensus::new(start, recovered).context("the log can not be taken up")?;
    let address: Arc<OnceLock<Addr<ConsensusActor>>> = Arc::default();
    let reports_to = Arc::clone(&address);
    let writer = LogWriter::spawn(store, move |result| {
        let report = Persisted(result.map_err(|error| error.to_string()));
        // May not be lost. Nothing is written before the actor is there to have it written.
        reports_to.get().expect("the actor is there before its first batch").do_send(report);
    })?;
    let counters = writer.counters();
    view.insight().instruments.set_log(move || counters.read());
    let others = Others {
        cluster: Arc::clone(cluster),
        life: Arc::clone(life),
        presence: presence(config, identity),
        known_peers: KnownPeers::new(&config.data_dir, identity.told_of.clone()),
    };
    let (view, exits) = (Arc::clone(view), exits.clone());
    let arbiter = Arbiter::new();
    let started = ConsensusActor::start_in_arbiter(&arbiter.handle(), move |context: &mut Context<ConsensusActor>| {
        address.get_or_init(|| context.address());
        ConsensusActor::new(core, writer, view, others, follower, exits)
    });
    Ok(started)
}

/// What the map is told of this node.
fn presence(config: &NodeConfig, identity: &Identity) -> Presence {
    Presence {
        member: identity.member,
        peer_address: config.advertised_peer_address().unwrap_or_default(),
        http_address: config.advertised_http_address(),
        commands: COMMANDS_KNOWN,
    }
}

/// Begins this life in the log: whatever an earlier one still had under way is refused from here on.
pub(crate) async fn begin_life(
    config: &NodeConfig,
    consensus: &Addr<ConsensusActor>,
    identity: &Identity,
) -> anyhow::Result<()> {
    let (tell, told) = oneshot::channel();
    let presence = presence(config, identity);
    let kind = Kind::NodeUp { host: identity.host.clone(), incarnation: identity.incarnation, presence };
    consensus.do_send(ProposeAndTell { command: Command { time: now(), kind }, tell });
    let outcome = tokio::time::timeout(LEAD_WITHIN, told)
        .await
        .context("no majority of the cluster has let this life begin")??;
    anyhow::ensure!(outcome == Outcome::NodeUp, "this life could not begin: {outcome:?}");
    Ok(())
}

/// Goes on with what an earlier life left: sandboxes, slots, remains.
async fn adopt(hub: &Rc<Hub>, room: &Rc<EngineRoom>, view: &View, pool: &SlotShape) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for container in room.engine().list_ours().await.context("cannot list containers")? {
        let agent = if container.running {
            // An agent that does not answer is no reason not to start: its sandbox is examined again.
            room.take_hold(hub, container.id).await.unwrap_or_else(|error| {
                tracing::warn!(sandbox = %container.id, %error, "its agent does not answer");
                None
            })
        } else {
            None
        };
        found.push(Found { slot: container.id, agent, shape: container.shape });
    }
    let activated = room.ledger().read().context("cannot read the ledger")?;
    let placement = Arc::clone(&view.placement());
    let verdicts = reconcile(&placement, view.me(), &found, &activated, Some(pool));
    tracing::info!(containers = found.len(), sandboxes = placement.len(), verdicts = verdicts.len(), "taking stock");
    for verdict in verdicts {
        if let Verdict::Pool(slot) = &verdict {
            tracing::debug!(sandbox = %slot, "slot adopted");
        }
        hub.deliver(wiring::from_verdict(verdict));
    }
    for leftover in room.engine().found_leftovers().await.context("cannot look for leftovers")? {
        if placement.in_slot(&leftover.id).is_none() {
            room.engine().sweep(leftover.id).await.with_context(|| format!("cannot sweep {}", leftover.id))?;
        }
    }
    Ok(())
}

/// Looks for containers of ours that are nobody's, for as long as the node lives.
async fn keep_stock(hub: Rc<Hub>, room: Rc<EngineRoom>) {
    let mut seen = BTreeSet::new();
    loop {
        tokio::time::sleep(STOCK_EVERY).await;
        let found = match room.engine().list_ours().await {
            Ok(found) => found.into_iter().map(|found| found.id).collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot take stock of the containers");
                continue;
            }
        };
        hub.take_up_what_is_owed();
        let (strays, now) = strays(&hub.view().placement(), &found, &hub.known(), &seen);
        seen = now;
        for id in strays {
            tracing::warn!(sandbox = %id, "a container of ours that is nobody's, removing it");
            hub.deliver(Message::Supervisor(id, Input::Bury { duty: None }));
        }
    }
}
