//! The front door's way to whichever node owns a sandbox: this one, or another through one call.

use std::sync::Arc;
use std::time::Instant;

use front_door::{ByteRange, Consistency, Deleted, Download, ListFilter, Operations, SandboxPage, UploadStream};
use types::node::{NodeHealth, NodeInfo};
use types::{
    CreateRequest, ErrorCode, ExecOutcome, ExecRequest, FileEntry, Generation, HostId, Sandbox, SandboxId, Status,
    WarrenError,
};
use warren_core::scheduler::Refusal;

use crate::answer_calls::Placed;
use crate::cluster::Cluster;
use crate::find_image::Made;
use crate::instruments::{Instruments, Where};
use crate::operations::NodeOperations;
use crate::remote::{Fault, Remote};

/// Every operation, wherever its sandbox is. Shared by all HTTP threads.
pub struct Routed {
    here: Arc<NodeOperations>,
    cluster: Arc<Cluster>,
}

impl Routed {
    /// Routes between this node and the others.
    pub fn new(here: Arc<NodeOperations>, cluster: Arc<Cluster>) -> Self {
        Self { here, cluster }
    }

    fn remote(&self, host: &HostId) -> Result<Remote, WarrenError> {
        let unreachable = || {
            let error = WarrenError::new(ErrorCode::Unavailable, "the sandbox's node can not be reached");
            error.with("node", host.as_str())
        };
        self.cluster.caller(host).filter(|_| self.cluster.reaches(host)).map(Remote::new).ok_or_else(unreachable)
    }

    /// Where a sandbox is. One that this node's map does not have may have been made a moment ago through
    /// another node: before it is denied, the map catches up.
    async fn locate(&self, id: &SandboxId) -> Result<Placed, WarrenError> {
        match self.here.placed(id) {
            Placed::Nowhere => {
                self.here.barrier(Consistency::Barrier).await?;
                Ok(self.here.placed(id))
            }
            placed => Ok(placed),
        }
    }

    /// Does it on the owner. A view that was behind is corrected by the owner's word, once.
    async fn on_owner<T>(
        &self,
        id: SandboxId,
        here: impl AsyncFn() -> Result<T, WarrenError>,
        there: impl AsyncFn(&Remote, Generation) -> Result<T, Fault>,
    ) -> Result<T, WarrenError> {
        let (owner, generation) = match self.locate(&id).await? {
            Placed::Here(_) | Placed::Nowhere => return here().await,
            Placed::Elsewhere { owner, generation } => (owner, generation),
        };
        let (owner, generation) = match there(&self.remote(&owner)?, generation).await {
            Ok(done) => return Ok(done),
            Err(Fault::Failed(error)) => return Err(error),
            Err(Fault::Moved { owner, generation }) => (owner, generation),
        };
        if owner == *self.here.view.me() {
            return here().await;
        }
        there(&self.remote(&owner)?, generation).await.map_err(settled)
    }

    fn instruments(&self) -> &Instruments {
        &self.here.view.insight().instruments
    }

    /// Makes a sandbox where the scheduler chooses, and says where it was tried last. Each node is tried once.
    async fn create_somewhere(&self, request: CreateRequest, done_at: &mut Where) -> Result<Sandbox, WarrenError> {
        let mut tried: Vec<Refusal> = Vec::new();
        loop {
            *done_at = Where::Here;
            let sending = match self.here.make(request.clone(), Some(tried.clone())).await? {
                Made::Here(sandbox) => return Ok(*sandbox),
                Made::Elsewhere(sending) => sending,
            };
            *done_at = Where::Elsewhere;
            let node = sending.node().clone();
            let error = match self.remote(&node) {
                Ok(remote) => match remote.create(&request).await {
                    Err(Fault::Failed(error)) if surely_not_done(&error) => error,
                    made => return made.map_err(settled),
                },
                Err(error) => error,
            };
            tracing::info!(%node, %error, "the chosen node does not take it");
            let own_words = error.details.get(node.as_str()).and_then(|words| words.as_str());
            let reason = own_words.unwrap_or(&error.message).to_owned();
            tried.push(Refusal { node, reason });
        }
    }
}

/// Whether another node may be asked for what one has answered in this way.
fn surely_not_done(error: &WarrenError) -> bool {
    matches!(error.code, ErrorCode::Unavailable | ErrorCode::NoCapacity)
}

/// What is left where a sandbox moved twice under one request.
fn settled(fault: Fault) -> WarrenError {
    match fault {
        Fault::Failed(error) => error,
        Fault::Moved { .. } => WarrenError::new(ErrorCode::Unavailable, "the sandbox is moving between nodes"),
    }
}

impl Operations for Routed {
    fn health(&self) -> NodeHealth {
        self.here.health()
    }

    async fn nodes(&self, consistency: Consistency) -> Result<Vec<NodeInfo>, WarrenError> {
        self.here.nodes(consistency).await
    }

    async fn node(&self, id: &str, consistency: Consistency) -> Result<NodeInfo, WarrenError> {
        self.here.node(id, consistency).await
    }

    async fn create(&self, request: CreateRequest) -> Result<Sandbox, WarrenError> {
        let since = Instant::now();
        let mut done_at = Where::Here;
        let made = self.create_somewhere(request, &mut done_at).await;
        self.instruments().creates.ended(done_at, made.is_ok(), since.elapsed());
        made
    }

    async fn get(&self, id: SandboxId, consistency: Consistency) -> Result<Sandbox, WarrenError> {
        self.here.get(id, consistency).await
    }

    async fn list(&self, filter: ListFilter, consistency: Consistency) -> Result<SandboxPage, WarrenError> {
        self.here.list(filter, consistency).await
    }

    async fn delete(&self, id: SandboxId) -> Result<Deleted, WarrenError> {
        if let Placed::Elsewhere { owner, .. } = self.locate(&id).await?
            && !self.cluster.reaches(&owner)
        {
            return self.here.entomb(id).await;
        }
        let there = async |remote: &Remote, generation| remote.delete(id, generation).await;
        self.on_owner(id, async || self.here.delete(id).await, there).await
    }

    async fn stop(&self, id: SandboxId) -> Result<Status, WarrenError> {
        let there = async |remote: &Remote, generation| remote.stop(id, generation).await;
        self.on_owner(id, async || self.here.stop(id).await, there).await
    }

    async fn start(&self, id: SandboxId) -> Result<Status, WarrenError> {
        let there = async |remote: &Remote, generation| remote.start(id, generation).await;
        self.on_owner(id, async || self.here.start(id).await, there).await
    }

    async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<ExecOutcome, WarrenError> {
        let since = Instant::now();
        // The common case costs no copy of what may be megabytes of input.
        if let Placed::Here(_) = self.here.placed(&id) {
            let ended = self.here.exec(id, request).await;
            self.instruments().execs.ended(Where::Here, ended.is_ok(), since.elapsed());
            return ended;
        }
        let there = async |remote: &Remote, generation| remote.exec(id, generation, request.clone()).await;
        let ended = self.on_owner(id, async || self.here.exec(id, request.clone()).await, there).await;
        self.instruments().execs.ended(Where::Elsewhere, ended.is_ok(), since.elapsed());
        ended
    }

    async fn read_file(&self, id: SandboxId, path: &str, range: Option<ByteRange>) -> Result<Download, WarrenError> {
        let there = async |remote: &Remote, generation| remote.read_file(id, generation, path, range).await;
        self.on_owner(id, async || self.here.read_file(id, path, range).await, there).await
    }

    async fn write_file(&self, id: SandboxId, path: &str, body: UploadStream) -> Result<(), WarrenError> {
        // A body can be sent once: a sandbox that has moved since is the client's to try again.
        match self.locate(&id).await? {
            Placed::Elsewhere { owner, generation } => {
                self.remote(&owner)?.write_file(id, generation, path, body).await.map_err(settled)
            }
            Placed::Here(_) | Placed::Nowhere => self.here.write_file(id, path, body).await,
        }
    }

    async fn list_files(&self, id: SandboxId, path: &str) -> Result<Vec<FileEntry>, WarrenError> {
        let there = async |remote: &Remote, generation| remote.list_files(id, generation, path).await;
        self.on_owner(id, async || self.here.list_files(id, path).await, there).await
    }

    async fn stat_file(&self, id: SandboxId, path: &str) -> Result<FileEntry, WarrenError> {
        let there = async |remote: &Remote, generation| remote.stat_file(id, generation, path).await;
        self.on_owner(id, async || self.here.stat_file(id, path).await, there).await
    }

    async fn mkdir(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        let there = async |remote: &Remote, generation| remote.mkdir(id, generation, path).await;
        self.on_owner(id, async || self.here.mkdir(id, path).await, there).await
    }

    async fn remove_file(&self, id: SandboxId, path: &str) -> Result<(), WarrenError> {
        let there = async |remote: &Remote, generation| remote.remove_file(id, generation, path).await;
        self.on_owner(id, async || self.here.remove_file(id, path).await, there).await
    }
}
