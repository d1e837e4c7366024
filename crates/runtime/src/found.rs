//! What of ours is on this host: containers, and what has lost its container.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::time::Duration;

use podman_api::models::ListContainer;
use podman_api::opts::{ContainerListFilter, ContainerListOpts};
use types::SandboxId;
use types::spec::SlotShape;

use crate::engine::{Engine, EngineError};
use crate::error::timed;
use crate::labels::{LABEL_AGENT, LABEL_CLUSTER, LABEL_NODE, LABEL_SANDBOX, LABEL_SHAPE_JSON};
use crate::remove::RemoveError;
use crate::run_dir::{self, RunDir, is_mount_point};

/// A list of a thousand containers takes some seconds.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// One of our containers.
#[derive(Debug, Clone)]
pub struct Found {
    /// The sandbox that it is or was meant to be.
    pub id: SandboxId,
    /// The engine's id.
    pub container_id: String,
    /// Whether the engine holds it for running; `Engine::adopt` finds out whether that is so.
    pub running: bool,
    /// The engine's word for its state, for example `exited`.
    pub state: String,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// All labels, ours among them.
    pub labels: BTreeMap<String, String>,
    /// The shape it was made with; `None` where another version of us wrote it.
    pub shape: Option<SlotShape>,
    /// SHA-256 of the agent it was made with.
    pub agent_digest: Option<String>,
    /// How it ended, if it did: the agent's exit code, 137 for SIGKILL.
    pub exit_code: Option<i32>,
    /// When it ended, in seconds since the epoch.
    pub exited_at: Option<i64>,
}

/// A run directory without a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Whose it was.
    pub id: SandboxId,
    /// A tmpfs is still mounted in it.
    pub mounted: bool,
}

/// Why it is not known what is there.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The engine failed.
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    /// The run directory can not be read.
    #[error("the run directory can not be read")]
    Files(#[from] io::Error),
}

impl Engine {
    /// Our containers, running or not: only those with the labels of our cluster and our host.
    pub async fn list_ours(&self) -> Result<Vec<Found>, EngineError> {
        let config = &self.inner.config;
        let options = ContainerListOpts::builder()
            .all(true)
            .filter([
                ContainerListFilter::LabelKeyVal(LABEL_CLUSTER.to_owned(), config.cluster.to_string()),
                ContainerListFilter::LabelKeyVal(LABEL_NODE.to_owned(), config.node.to_string()),
            ])
            .build();
        let listed = timed("list", LIST_LIMIT, self.inner.podman.containers().list(&options)).await?;
        Ok(listed.into_iter().filter_map(|container| self.found(container)).collect())
    }

    fn found(&self, container: ListContainer) -> Option<Found> {
        let labels: BTreeMap<String, String> = container.labels.unwrap_or_default().into_iter().collect();
        // The engine's filter is its own; whose a container is we decide by what it bears.
        if !self.is_ours(Some(&labels)) {
            return None;
        }
        let container_id = container.id.unwrap_or_default();
        let Some(id) = labels.get(LABEL_SANDBOX).and_then(|id| id.parse().ok()) else {
            tracing::warn!(container = container_id, "a container with our labels names no sandbox, left alone");
            return None;
        };
        let state = container.state.unwrap_or_default();
        let running = matches!(state.as_str(), "running" | "paused");
        let ended = matches!(state.as_str(), "exited" | "stopped");
        Some(Found {
            id,
            container_id,
            running,
            pid: container.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| running && *pid != 0),
            shape: labels.get(LABEL_SHAPE_JSON).and_then(|json| serde_json::from_str(json).ok()),
            agent_digest: labels.get(LABEL_AGENT).cloned(),
            exit_code: container.exit_code.filter(|_| ended),
            exited_at: container.exited_at.filter(|_| ended),
            state,
            labels,
        })
    }

    pub(crate) fn is_ours(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let config = &self.inner.config;
        labels.is_some_and(|labels| {
            labels.get(LABEL_CLUSTER).is_some_and(|cluster| cluster == config.cluster.as_str())
                && labels.get(LABEL_NODE).is_some_and(|node| node == config.node.as_str())
        })
    }

    /// The sandboxes of all containers that say which one they are, of whatever cluster and host.
    async fn list_anybodys(&self) -> Result<HashSet<SandboxId>, EngineError> {
        let filter = [ContainerListFilter::LabelKey(LABEL_SANDBOX.to_owned())];
        let options = ContainerListOpts::builder().all(true).filter(filter).build();
        let listed = timed("list", LIST_LIMIT, self.inner.podman.containers().list(&options)).await?;
        let named = |container: ListContainer| container.labels?.get(LABEL_SANDBOX)?.parse().ok();
        Ok(listed.into_iter().filter_map(named).collect())
    }

    /// Run directories that have no container and none in the making. Another host's containers keep theirs: this node
    /// may have lost its data directory and be another one since.
    pub async fn found_leftovers(&self) -> Result<Vec<Leftover>, FindError> {
        let config = &self.inner.config;
        let mut ids = Vec::new();
        // Directories first: one made from here on is not seen, one made before has its container
        // by the time of the list or is in the making now.
        let making = self.inner.making.lock().clone();
        for entry in fs::read_dir(run_dir::sandboxes(&config.run_dir))? {
            let name = entry?.file_name();
            match name.to_str().and_then(|name| name.parse::<SandboxId>().ok()) {
                Some(id) => ids.push(id),
                None => tracing::warn!(?name, "not a sandbox's directory, left alone"),
            }
        }
        let making: HashSet<SandboxId> = self.inner.making.lock().union(&making).copied().collect();
        let with_container = self.list_anybodys().await?;
        let mut leftovers = Vec::new();
        for id in ids.into_iter().filter(|id| !making.contains(id) && !with_container.contains(id)) {
            let mounted = is_mount_point(&RunDir::new(&config.run_dir, id).sock())?;
            leftovers.push(Leftover { id, mounted });
        }
        Ok(leftovers)
    }

    /// Removes a run directory that has no container. Where it has one after all, nothing is done.
    pub async fn sweep(&self, id: SandboxId) -> Result<(), RemoveError> {
        if self.inner.making.lock().contains(&id) {
            return Ok(());
        }
        if self.has_container(id).await.map_err(RemoveError::Engine)? {
            return Ok(());
        }
        RunDir::new(&self.inner.config.run_dir, id).remove().map_err(RemoveError::Files)
    }
}
