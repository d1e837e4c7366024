//! Removing a sandbox with all that belongs to it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use podman_api::opts::ContainerDeleteOpts;
use types::SandboxId;

use crate::cgroup;
use crate::create_body::container_name;
use crate::engine::{Engine, EngineError};
use crate::error::timed;
use crate::run_dir::RunDir;
use crate::slot::INSPECT_LIMIT;

/// A forced delete takes some hundred milliseconds, and 1.7 s where conmon was killed.
const DELETE_LIMIT: Duration = Duration::from_secs(60);

/// How often a delete is tried: while a container ends by itself, its cleanup and ours get in each
/// other's way, and the engine answers 500 although the container goes.
const DELETE_ATTEMPTS_MAX: u32 = 5;

/// Between two attempts.
const DELETE_PAUSE: Duration = Duration::from_millis(100);

/// What is still there, or may be.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A container of that name does not bear our labels; it was not touched.
    #[error("the container of that name is not ours")]
    Foreign,
    /// The engine does not remove the container, or does not say.
    #[error("the engine does not remove it: {0}")]
    Engine(#[source] EngineError),
    /// Its directory or mount is still there.
    #[error("its files on the host can not be removed: {0}")]
    Files(#[source] io::Error),
    /// Its cgroups are still there.
    #[error("its cgroups can not be removed: {0}")]
    Cgroups(#[source] io::Error),
    /// Everything was done, and yet something is there.
    #[error("{} is still there", left.display())]
    Left {
        /// What it is.
        left: PathBuf,
    },
}

impl Engine {
    /// Removes a sandbox's container, whatever it does, and what the host holds for it, and looks
    /// that all of it is gone. What is gone already counts as removed.
    pub async fn remove(&self, id: SandboxId) -> Result<(), RemoveError> {
        if let Some(container_id) = self.delete_container(id).await? {
            // Kept until nothing is left: a second try finds no container to ask for its id.
            self.inner.removing.lock().insert(id, container_id);
        }
        let container_id = self.inner.removing.lock().get(&id).cloned();
        let run_dir = RunDir::new(&self.inner.config.run_dir, id);
        run_dir.remove().map_err(RemoveError::Files)?;
        if let Some(container_id) = container_id {
            let parent = &self.inner.config.cgroup_parent;
            cgroup::remove_leftovers(parent, &container_id).map_err(RemoveError::Cgroups)?;
            if let Some(left) = cgroup::leftovers(parent, &container_id).map_err(RemoveError::Cgroups)?.pop() {
                return Err(RemoveError::Left { left });
            }
        }
        if run_dir.exists() {
            return Err(RemoveError::Left { left: run_dir.file("") });
        }
        self.inner.removing.lock().remove(&id);
        Ok(())
    }

    /// Deletes the container and answers the id it had, if it was there.
    async fn delete_container(&self, id: SandboxId) -> Result<Option<String>, RemoveError> {
        let name = container_name(id);
        let inspected = match self.inner.libpod.inspect(&name, INSPECT_LIMIT).await {
            Ok(inspected) => inspected,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(RemoveError::Engine(error)),
        };
        if !self.is_ours(inspected.config.labels.as_ref()) {
            return Err(RemoveError::Foreign);
        }
        // By the engine's id from here on: a name could come to mean another.
        let container = self.inner.podman.containers().get(inspected.id.clone());
        let options = ContainerDeleteOpts::builder().force(true).volumes(true).timeout(0).build();
        let mut attempt = 1;
        loop {
            let error = match timed("delete", DELETE_LIMIT, container.delete(&options)).await {
                Ok(()) => None,
                Err(error) if error.is_not_found() => None,
                Err(error) => Some(error),
            };
            // Its word is not enough, neither for yes nor for no.
            match self.inner.libpod.inspect(&inspected.id, INSPECT_LIMIT).await {
                Err(gone) if gone.is_not_found() => return Ok(Some(inspected.id)),
                Err(unknown) => return Err(RemoveError::Engine(unknown)),
                Ok(_) if attempt < DELETE_ATTEMPTS_MAX => {}
                Ok(_) => {
                    return Err(RemoveError::Engine(error.unwrap_or_else(|| EngineError::BadAnswer {
                        call: "delete",
                        why: "it says that the container is gone, and shows it".to_owned(),
                    })));
                }
            }
            attempt += 1;
            tokio::time::sleep(DELETE_PAUSE).await;
        }
    }
}
