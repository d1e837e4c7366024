//! What the front door asks for, answered by this node: reads from the view, wishes to the actors,
//! commands straight to the sandbox's agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use bytes::Bytes;
use front_door::{ByteRange, Consistency, Deleted, Download, ListFilter, Operations, SandboxPage, UploadStream};
use futures_util::TryStreamExt;
use runtime::agent::AgentClient;
use runtime::agent::files::{ReadRange, WriteOptions};
use runtime::{Engine, ImageFacts, ResolveError};
use tokio::sync::oneshot;
use types::node::{NodeHealth, NodeInfo};
use types::{
    CreateRequest, ErrorCode, ExecOutcome, ExecRequest, FileEntry, Generation, HostId, IdempotencyKey, NetworkMode,
    OnNodeLoss, Resources, Sandbox, SandboxId, SandboxSpec, Status, WarrenError,
};
use warren_core::lifecycle::{Answer, CreatePlan, Input, Ticket};
use warren_core::placement::{Command, DestroyReason, Kind, Outcome};
use warren_core::scheduler::{AskedImage, Refusal};
use warren_core::wiring::{self, Message};

use crate::actors::consensus::{Barrier, ConsensusActor, ProposeAndTell};
use crate::actors::follower::{Deliver, Follower};
use crate::actors::scheduler::{Elsewhere, Schedule, Scheduler};
use crate::agent_words::{exec_error, exec_outcome, exec_request, file_entry, file_error, write_error};
use crate::answer_calls::Placed;
use crate::answers::{Answers, Waiter};
use crate::config::NodeConfig;
use crate::engine_room::Slots;
use crate::find_image::{Found, Made};
use crate::hub::{fresh_sandbox_id, now};
use crate::kill_point;
use crate::life::Life;
use crate::nodes::Sources;
use crate::seal::SecretsKey;
use crate::view::View;

/// The template that is the default image with the node's default limits.
pub const DEFAULT_TEMPLATE: &str = "default";

/// How long a destroy may take to be recorded whose sandbox's node can not be reached.
const ENTOMB_WITHIN: Duration = Duration::from_secs(10);

/// How long a read waits for a majority: longer than an election takes.
const BARRIER_WITHIN: Duration = Duration::from_secs(5);

/// How long a create waits for a sandbox that another node is bringing up.
const AWAITED_WITHIN: Duration = Duration::from_secs(60);

/// How long whatever has to be recorded waits for a cluster that is choosing a leader. Longer, and it is refused.
const LEADER_WITHIN: Duration = Duration::from_secs(5);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is done on this node, for its own front door and for the others. Shared by all threads.
pub struct NodeOperations {
    /// Address of the scheduler.
    pub scheduler: Addr<Scheduler>,
    /// Address of the follower.
    pub follower: Addr<Follower>,
    /// Address of consensus.
    pub consensus: Addr<ConsensusActor>,
    /// The published view.
    pub view: Arc<View>,
    /// Those who wait.
    pub answers: Arc<Answers>,
    /// Running containers.
    pub slots: Arc<Slots>,
    /// Podman, for images.
    pub engine: Engine,
    /// Seals environments.
    pub secrets_key: SecretsKey,
    /// This life of the node.
    pub life: Arc<Life>,
    /// Defaults.
    pub config: NodeConfig,
}

pub(crate) fn not_found() -> WarrenError {
    WarrenError::new(ErrorCode::NotFound, "sandbox not found")
}

pub(crate) fn node_is_ending() -> WarrenError {
    WarrenError::new(ErrorCode::Interrupted, "the node is ending; whether this was done is not known")
}

pub(crate) fn busy() -> WarrenError {
    WarrenError::new(ErrorCode::Unavailable, "too many requests wait on this node")
}

impl NodeOperations {
    pub(crate) fn spec(
        &self,
        request: &CreateRequest,
        image: &str,
        image_id: &str,
    ) -> Result<SandboxSpec, WarrenError> {
        if let Some(template) = request.template.as_deref().filter(|name| *name != DEFAULT_TEMPLATE) {
            let message = format!("template: there is no template {template:?}");
            return Err(WarrenError::new(ErrorCode::Unprocessable, message).with("field", "template"));
        }
        let not_built = [
            (!request.command.is_empty(), "command", "a main command is not built yet; use exec"),
            (request.disk.is_some_and(|disk| disk > 0), "disk", "a limit of the disk is not built yet"),
            (
                request.network_mode.is_some_and(|mode| mode != NetworkMode::None),
                "network_mode",
                "only none is built yet",
            ),
            (
                request.on_node_loss == OnNodeLoss::Restore,
                "on_node_loss",
                "restore needs snapshots, which are not built yet; use restart, wait or fail",
            ),
        ];
        if let Some((_, field, why)) = not_built.into_iter().find(|(asked, ..)| *asked) {
            let error = WarrenError::new(ErrorCode::NotImplemented, format!("{field}: {why}"));
            return Err(error.with("field", field));
        }
        let defaults = self.config.default_resources;
        Ok(SandboxSpec {
            template: request.template.clone(),
            image: image.to_owned(),
            image_id: image_id.to_owned(),
            resources: Resources {
                cpu: request.cpu.unwrap_or(defaults.cpu),
                memory: request.memory.unwrap_or(defaults.memory),
                disk: request.disk.unwrap_or(0),
                pids: request.pids.unwrap_or(defaults.pids),
            },
            network_mode: request.network_mode.unwrap_or_default(),
            workdir: request.workdir.clone(),
            user: request.user.clone(),
            command: Vec::new(),
            writable_rootfs: request.writable_rootfs.unwrap_or(true),
            tmpfs: request.tmpfs.clone(),
            labels: request.labels.clone(),
            name: request.name.clone(),
            on_node_loss: request.on_node_loss,
        })
    }

    /// The image that a create names, or the default's.
    pub(crate) fn reference<'a>(&'a self, request: &'a CreateRequest) -> &'a str {
        request.image.as_deref().unwrap_or(&self.config.default_image)
    }

    /// The image of a create as it is on this node, pulled where need be.
    pub(crate) async fn image(&self, request: &CreateRequest) -> Result<Arc<ImageFacts>, WarrenError> {
        let reference = self.reference(request);
        self.engine.resolve_image(reference).await.map_err(|error| match error {
            ResolveError::NotThere { reason } => {
                WarrenError::new(ErrorCode::Unprocessable, format!("image: {reason}")).with("field", "image")
            }
            ResolveError::Engine(error) => {
                tracing::warn!(%error, reference, "an image could not be looked up");
                WarrenError::new(ErrorCode::Unavailable, "the engine does not answer")
            }
        })
    }

    /// Sends a wish to a sandbox's supervisor and waits for its answer.
    async fn ask(&self, id: SandboxId, wish: impl FnOnce(Ticket) -> Input) -> Result<Answer, WarrenError> {
        let slot = self.slot(id);
        self.ask_by(|ticket| Message::Supervisor(slot, wish(ticket))).await
    }

    async fn ask_by(&self, message: impl FnOnce(Ticket) -> Message) -> Result<Answer, WarrenError> {
        let waiter = self.answers.wait();
        let message = message(waiter.ticket);
        self.follower.try_send(Deliver(message)).map_err(|_| busy())?;
        self.answered(waiter).await
    }

    /// Waits for an answer, but not for long without a leader: what is asked for may wait for a majority for ever.
    async fn answered(&self, waiter: Waiter<'_>) -> Result<Answer, WarrenError> {
        tokio::select! {
            answer = waiter.answer() => answer.unwrap_or_else(|| Err(node_is_ending())),
            () = self.leaderless() => Err(WarrenError::new(
                ErrorCode::Interrupted,
                "no majority has recorded this in time; it may still happen",
            )),
        }
    }

    /// Ends when nobody has led for too long.
    async fn leaderless(&self) {
        let mut leadership = self.view.leadership();
        while leadership.wait_for(Option::is_none).await.is_ok()
            && tokio::time::timeout(LEADER_WITHIN, leadership.wait_for(Option::is_some)).await.is_ok()
        {}
    }

    /// The sandbox that a create came to. Waits for it where another request is bringing it up.
    async fn created(&self, answer: Answer) -> Result<Sandbox, WarrenError> {
        let id = match answer {
            Answer::Winner(winner) if matches!(self.placed(&winner), Placed::Elsewhere { .. }) => {
                self.awaited(winner).await?;
                winner
            }
            Answer::Winner(winner) => match self.ask_by(|ticket| wiring::join(self.slot(winner), ticket)).await? {
                Answer::Created(id) => id,
                _ => winner,
            },
            Answer::Created(id) => id,
            Answer::Stopped | Answer::Started | Answer::Destroyed => {
                return Err(WarrenError::new(ErrorCode::Internal, "a create was answered with something else"));
            }
        };
        self.show(id).ok_or_else(|| {
            WarrenError::new(ErrorCode::Gone, "the sandbox was deleted meanwhile").with("id", id.as_str())
        })
    }

    /// Makes a sandbox here, or finds the node that is to make it: any but those that were `tried`, where others may.
    pub async fn make(&self, request: CreateRequest, tried: Option<Vec<Refusal>>) -> Result<Made, WarrenError> {
        if let Some(key) = &request.idempotency {
            let decided = self.view.placement().key(key);
            match decided {
                Some(Outcome::AlreadyPlaced { winner }) => {
                    return self.created_under(Some(key), Answer::Winner(winner)).await.map(Made::from);
                }
                Some(Outcome::Refused(refusal)) => return Err(refusal.error()),
                _ => {}
            }
        }
        let (image, tried) = match tried {
            None => (self.image(&request).await?, None),
            Some(mut tried) => match self.find_image(&request, &mut tried).await? {
                Found::Here(image) => (image, Some(tried)),
                Found::Elsewhere(sending) => return Ok(Made::Elsewhere(sending)),
            },
        };
        let spec = self.spec(&request, &image.reference, &image.id)?;
        self.led().await?;
        let sealed_env = self.secrets_key.seal(&request.env).map_err(|error| {
            tracing::error!(%error, "an environment could not be sealed");
            WarrenError::new(ErrorCode::Internal, "the environment could not be sealed")
        })?;
        self.may_own()?;
        let waiter = self.answers.wait();
        let plan = CreatePlan {
            ticket: waiter.ticket,
            owner: self.view.me().clone(),
            incarnation: self.life.now(),
            spec: Arc::new(spec),
            sealed_env: sealed_env.into(),
            expires_at: request.lifetime.expires_at(now(), self.config.default_timeout_seconds),
            key: request.idempotency,
            again: None,
        };
        let key = plan.key.clone();
        let (tell, chosen) = oneshot::channel();
        let elsewhere = tried.map(|tried| Elsewhere { tried, tell });
        let schedule = Schedule { plan: Box::new(plan), image: AskedImage::Here, elsewhere };
        self.scheduler.try_send(schedule).map_err(|_| busy())?;
        let answer = tokio::select! {
            biased;
            Ok(sending) = chosen => return Ok(Made::Elsewhere(sending)),
            answer = self.answered(waiter) => answer?,
        };
        self.created_under(key.as_ref(), answer).await.map(Made::from)
    }

    /// The same of a create under a key, which may have failed for good while this waited for it.
    async fn created_under(&self, key: Option<&IdempotencyKey>, answer: Answer) -> Result<Sandbox, WarrenError> {
        match self.created(answer).await {
            Err(gone) if gone.code == ErrorCode::Gone => Err(self.failure(key).unwrap_or(gone)),
            made => made,
        }
    }

    /// The error that a key keeps.
    fn failure(&self, key: Option<&IdempotencyKey>) -> Option<WarrenError> {
        match self.view.placement().key(key?) {
            Some(Outcome::Refused(refusal)) => Some(refusal.error()),
            _ => None,
        }
    }

    /// Waits until somebody can record what is new: nothing of it is begun before.
    async fn led(&self) -> Result<(), WarrenError> {
        let mut leadership = self.view.leadership();
        match tokio::time::timeout(LEADER_WITHIN, leadership.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(WarrenError::new(ErrorCode::NoQuorum, "the cluster has no leader to record this")),
        }
    }

    /// Whether the map lets this life of the node own what is new. Nothing is proposed before.
    pub fn may_own(&self) -> Result<(), WarrenError> {
        match self.view.placement().owner_refused(self.view.me(), self.life.now()) {
            Some(refusal) => Err(refusal.error()),
            None => Ok(()),
        }
    }

    /// Takes a sandbox out of the map whose node can not be reached; that node kills it when it is back.
    pub async fn entomb(&self, id: SandboxId) -> Result<Deleted, WarrenError> {
        let (tell, told) = oneshot::channel();
        let kind = Kind::Destroy { id, reason: DestroyReason::Asked };
        let command = Command { time: now(), kind };
        self.consensus.try_send(ProposeAndTell { command, tell }).map_err(|_| busy())?;
        match tokio::time::timeout(ENTOMB_WITHIN, told).await {
            // One in error whose earlier owners have reported has nothing left anywhere.
            Ok(Ok(Outcome::Destroyed)) if !self.view.placement().owes(&id) => Ok(Deleted::Done),
            Ok(Ok(Outcome::Destroyed)) => Ok(Deleted::Destroying),
            Ok(Ok(_)) => Err(not_found()),
            Ok(Err(_)) => Err(node_is_ending()),
            Err(_) => Err(WarrenError::new(
                ErrorCode::Interrupted,
                "no majority has recorded this in time; it may still happen",
            )),
        }
    }

    /// Where a sandbox is, as this node's map has it. One in error is nowhere else: any node can say so.
    pub fn placed(&self, id: &SandboxId) -> Placed {
        let placement = self.view.placement();
        match placement.get(id).map(|record| (&record.place.owner, record.place.generation)) {
            Some((_, generation)) if self.in_error(id).is_err() => Placed::Here(generation),
            Some((owner, generation)) if owner == self.view.me() => Placed::Here(generation),
            Some((owner, generation)) => Placed::Elsewhere { owner: owner.clone(), generation },
            None => Placed::Nowhere,
        }
    }

    /// Waits until the owner says what has become of a sandbox that is being created there.
    async fn awaited(&self, id: SandboxId) -> Result<(), WarrenError> {
        let known = async {
            while self.show(id).is_some_and(|shown| shown.status == Status::Creating) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(AWAITED_WITHIN, known).await.map_err(|_| {
            WarrenError::new(ErrorCode::Interrupted, "the sandbox was not up in time; it may still come up")
        })
    }

    fn show(&self, id: SandboxId) -> Option<Sandbox> {
        self.view.placement().get(&id).map(|record| self.view.show(record))
    }

    /// The container that a sandbox is.
    fn slot(&self, id: SandboxId) -> SandboxId {
        self.view.placement().get(&id).map_or(id, |record| record.place.slot)
    }

    fn exists(&self, id: SandboxId) -> Result<(), WarrenError> {
        if self.view.placement().get(&id).is_some() { Ok(()) } else { Err(not_found()) }
    }

    /// Waits until this node's map has everything that was acknowledged anywhere before now.
    pub async fn barrier(&self, consistency: Consistency) -> Result<(), WarrenError> {
        if consistency == Consistency::Stale {
            return Ok(());
        }
        let since = Instant::now();
        let mut leadership = self.view.leadership();
        let passed = async {
            loop {
                match self.barrier_once().await {
                    // Another leader is being chosen: a read that waits for it need not be tried again by its client.
                    Err(error) if error.code == ErrorCode::NoQuorum && self.view.insight().quorum_lately() => {
                        if leadership.changed().await.is_err() {
                            return Err(error);
                        }
                    }
                    outcome => return outcome,
                }
            }
        };
        let late = "no majority has confirmed in time what this node knows; ?stale=true shows it anyway";
        let outcome = tokio::time::timeout(BARRIER_WITHIN, passed)
            .await
            .unwrap_or_else(|_| Err(WarrenError::new(ErrorCode::NoQuorum, late)));
        let instruments = &self.view.insight().instruments;
        match &outcome {
            Ok(()) => instruments.barrier.observe(since.elapsed().as_secs_f64()),
            Err(_) => instruments.barrier_failures.inc(),
        }
        outcome
    }

    /// The node that leads. One that is only remembered is not named.
    fn led_by(&self) -> Option<HostId> {
        self.view.leader().filter(|_| self.view.insight().quorum_lately())
    }

    fn members(&self) -> Vec<NodeInfo> {
        let (view, insight) = (&self.view, self.view.insight());
        let (me, cluster) = (view.me(), view.cluster());
        let (placement, group) = (view.placement(), insight.group());
        let sources =
            Sources { me, placement: &placement, group: &group, leader: self.led_by(), cluster, words: &insight.words };
        sources.all()
    }

    async fn barrier_once(&self) -> Result<(), WarrenError> {
        let (done, passed) = oneshot::channel();
        self.consensus.try_send(Barrier(done)).map_err(|_| busy())?;
        // Ending, and not only without a majority.
        passed.await.unwrap_or_else(|_| Err(node_is_ending()))
    }

    /// The agent of a sandbox that runs here, or why it can not be asked.
    fn agent(&self, id: SandboxId) -> Result<(AgentClient, Generation), WarrenError> {
        self.exists(id)?;
        self.in_error(&id)?;
        self.leased(&id)?;
        let observed = self.view.observed(&id);
        let status = observed.as_ref().map_or(Status::Creating, |observed| observed.status);
        if let Some(observed) = observed.filter(|observed| observed.status == Status::Running)
            && let Some(agent) = self.slots.agent(&self.slot(id))
        {
            return Ok((agent, observed.generation));
        }
        if status == Status::Creating {
            // Also for a moment after this node's start, of one that has been up for long.
            let message = "the sandbox is not up yet";
            return Err(WarrenError::new(ErrorCode::Unavailable, message).with("status", status.as_str()));
        }
        let message = format!("sandbox is not running: it is {}", status.as_str());
        Err(WarrenError::new(ErrorCode::WrongState, message).with("status", status.as_str()))
    }

    /// An agent's failure, seen in the light of what has become of its sandbox meanwhile.
    fn in_context(&self, id: SandboxId, error: WarrenError) -> WarrenError {
        match error.code {
            ErrorCode::Unavailable if self.exists(id).is_err() => not_found(),
            ErrorCode::Interrupted if self.exists(id).is_err() => {
                WarrenError::new(ErrorCode::Interrupted, "the sandbox was deleted while this was under way")
            }
            _ => error,
        }
    }
}

impl Operations for NodeOperations {
    fn health(&self) -> NodeHealth {
        let leader = self.led_by();
        let (view, placement) = (&self.view, self.view.placement());
        let group = view.insight().group();
        NodeHealth {
            cluster: self.engine.config().cluster.clone(),
            node: view.me().clone(),
            quorum: leader.is_some(),
            leader,
            voters: group.voters.iter().filter_map(|member| placement.host_of(*member).cloned()).collect(),
            unhealthy: self.engine.unhealthy(),
        }
    }

    async fn nodes(&self, consistency: Consistency) -> Result<Vec<NodeInfo>, WarrenError> {
        self.barrier(consistency).await?;
        Ok(self.members())
    }

    async fn node(&self, id: &str, consistency: Consistency) -> Result<NodeInfo, WarrenError> {
        self.barrier(consistency).await?;
        let found = self.members().into_iter().find(|node| node.id.as_str() == id);
        found.ok_or_else(|| WarrenError::new(ErrorCode::NotFound, "node not found"))
    }

    async fn create(&self, request: CreateRequest) -> Result<Sandbox, WarrenError> {
        match self.make(request, None).await? {
            Made::Here(sandbox) => Ok(*sandbox),
            Made::Elsewhere(_) => Err(WarrenError::new(ErrorCode::Internal, "only this node was to make it")),
        }
    }

    async fn get(&self, id: SandboxId, consistency: Consistency) -> Result<Sandbox, WarrenError> {
        self.barrier(consistency).await?;
        self.show(id).ok_or_else(not_found)
    }

    async fn list(&self, filter: ListFilter, consistency: Consistency) -> Result<SandboxPage, WarrenError> {
        self.barrier(consistency).await?;
        let before = match &filter.cursor {
            Some(cursor) => Some(cursor.parse::<u64>().map_err(|_| WarrenError::field("cursor", "not a cursor"))?),
            None => None,
        };
        let placement = self.view.placement();
        let mut matching = placement
            .newest_first()
            .filter(|record| before.is_none_or(|before| record.created_index < before))
            .map(|record| (record.created_index, self.view.show(record)))
            .filter(|(_, sandbox)| {
                filter.status.is_none_or(|status| sandbox.status == status)
                    && filter.node.as_ref().is_none_or(|node| sandbox.node.as_str() == node)
                    && filter.labels.iter().all(|(key, value)| sandbox.labels.get(key) == Some(value))
            });
        let Some(limit) = filter.limit else {
            return Ok(SandboxPage { items: matching.map(|(_, sandbox)| sandbox).collect(), next: None });
        };
        let page: Vec<_> = matching.by_ref().take(limit).collect();
        let more = matching.next().is_some();
        let next = page.last().filter(|_| more).map(|(index, _)| index.to_string());
        Ok(SandboxPage { items: page.into_iter().map(|(_, sandbox)| sandbox).collect(), next })
    }

    async fn delete(&self, id: SandboxId) -> Result<Deleted, WarrenError> {
        self.exists(id)?;
        if self.in_error(&id).is_err() {
            return self.entomb(id).await;
        }
        self.led().await?;
        self.ask(id, Input::Destroy).await.map(|_| Deleted::Done)
    }

    async fn stop(&self, id: SandboxId) -> Result<Status, WarrenError> {
        self.exists(id)?;
        self.in_error(&id)?;
        self.leased(&id)?;
        self.led().await?;
        self.ask(id, Input::Stop).await.map(|_| Status::Stopped)
    }

    async fn start(&self, id: SandboxId) -> Result<Status, WarrenError> {
        self.exists(id)?;
        self.in_error(&id)?;
        self.leased(&id)?;
        self.led().await?;
        self.ask(id, Input::Start).await.map(|_| Status::Running)
    }

    async fn exec(&self, id: SandboxId, mut request: ExecRequest) -> Result<ExecOutcome, WarrenError> {
        let (agent, generation) = self.agent(id)?;
        let stdin = request.stdin.take().map(Bytes::from);
        let output_max = request.max_output;
        // Named now, so that later calls can come back to it.
        let exec_id = fresh_sandbox_id().to_string();
        let ended = agent.run(generation.0, exec_request(exec_id, request), stdin, output_max).await;
        kill_point::reached("exec.answered");
        ended.map(exec_outcome).map_err(|error| self.in_context(id, exec_error(&error)))
    }

    async fn read_file(&self, id: SandboxId, path: &str, range: Option<ByteRange>) -> Result<Download, WarrenError> {
        let (agent, generation) = self.agent(id)?;
        let failed = |error| self.in_context(id, file_error(&error));
        let range = range.map_or(ReadRange::default(), |ByteRange { offset, length }| ReadRange { offset, length });
        let (entry, reader) = agent.read_file(generation.0, path.as_bytes(), range).await.map_err(failed)?;
        let body = reader.into_stream().map_err(|error| file_error(&error));
        Ok(Download { entry: file_entry(&entry), body: Box::pin(body) })
    }

    async fn write_file(&self, id: SandboxId, path: &str, body: UploadStream) -> Result<(), WarrenError> {
        let (agent, generation) = self.agent(id)?;
        agent
            .write_file(generation.0, path.as_bytes(), WriteOptions::default(), body)
            .await
            .map(drop)
            .map_err(|error| self.in_context(id, write_error(&error)))
    }

    async fn list_files(&self, id: SandboxId, path: &str) -> Result<Vec<FileEntry>, WarrenError> {
        let (agent, generation) = self.agent(id)?;
        let entries = agent.list(generation.0, path.as_bytes()).await;
        entries
            .map(|entries| entries.iter().map(file_entry).collect())
            .map_err(|error| self.in_context(id, file_error(&error)))
    }

    async fn stat_file(&self, id: SandboxId, path: &str) -> Result<FileEntry, WarrenError> {
        let (agent, generation) = self.agent(id)?;
        let entry = agent.stat(generation.0, path.as_bytes(), false).await;
        entry.map(|entry| file_entry(&entry)).map_err(|error| self.in_context(id, file_error(&error)))
    }

    async fn mkdir(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        let (agent, generation) = self.agent(id)?;
        agent.mkdir(generation.0, path.as_bytes(), None).await.map_err(|error| self.in_context(id, file_error(&error)))
    }

    async fn remove_file(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        let (agent, generation) = self.agent(id)?;
        agent.remove(generation.0, path.as_bytes()).await.map_err(|error| self.in_context(id, file_error(&error)))
    }
}
