//! A sandbox of a lost node begins again here, when the leader asks for it.

use std::sync::Arc;

use front_door::Consistency;
use types::{ErrorCode, Generation, SandboxId, WarrenError};
use warren_core::lifecycle::{Again, CreatePlan};
use warren_core::placement::Record;
use warren_core::scheduler::AskedImage;

use crate::actors::scheduler::Schedule;
use crate::operations::{NodeOperations, busy, node_is_ending, not_found};

/// What a node does for the leader besides what clients ask for.
pub trait TakesOver {
    /// Brings a sandbox up here whose lost owner had it in this generation.
    async fn take_over(&self, id: SandboxId, generation: Generation) -> Result<(), WarrenError>;
}

impl TakesOver for NodeOperations {
    async fn take_over(&self, id: SandboxId, generation: Generation) -> Result<(), WarrenError> {
        // The leader's map may be newer than this one.
        self.barrier(Consistency::Barrier).await?;
        let record = self.view.placement().get(&id).cloned().ok_or_else(not_found)?;
        if record.place.generation != generation || !self.view.placement().owner_is_lost(&record) {
            return Err(WarrenError::new(ErrorCode::WrongState, "the sandbox is not to be taken over any more"));
        }
        self.has_image(&record).await?;
        self.may_own()?;
        let waiter = self.answers.wait();
        let plan = CreatePlan {
            ticket: waiter.ticket,
            owner: self.view.me().clone(),
            incarnation: self.life.now(),
            spec: Arc::clone(&record.place.spec),
            sealed_env: Arc::clone(&record.place.sealed_env),
            expires_at: record.place.expires_at,
            key: None,
            again: Some(Again { id, generation: generation.next() }),
        };
        self.scheduler
            .try_send(Schedule { plan: Box::new(plan), image: AskedImage::Exactly, elsewhere: None })
            .map_err(|_| busy())?;
        waiter.answer().await.unwrap_or_else(|| Err(node_is_ending())).map(drop)
    }
}

impl NodeOperations {
    /// The very image, since the reference may name another one by now.
    async fn has_image(&self, record: &Record) -> Result<(), WarrenError> {
        let spec = &record.place.spec;
        self.engine.resolve_image(&spec.image_id).await.map(drop).map_err(|error| {
            let message = format!("this node does not have the sandbox's image {}: {error}", spec.image);
            WarrenError::new(ErrorCode::Unavailable, message)
        })
    }
}
